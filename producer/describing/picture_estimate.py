"""A user knows what a folder of pictures will cost, and how it costs less, before one is sent.

Nothing here sends or stores. Pictures are made ready all the same: there is no other way to know which are usable.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import combinations

from tidemill.models import cost
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Detail, Options
from tidemill.models.vision import picture_tokens, usable_size
from tidemill.producer.asking.estimate import Before, Estimate, priced, with_reach
from tidemill.producer.batches.budget_reach import Reckoning
from tidemill.producer.batches.keys import Prepared
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import counted
from tidemill.producer.describing.images import PreparedPicture, RefusedPicture
from tidemill.producer.describing.picture_files import Pictures, PreparedFile, prepare, row_of
from tidemill.producer.intake.cells import CHUNK_ROWS
from tidemill.producer.intake.requests import parse_template
from tidemill.producer.screen.display import Ticker, ticked

COMPARED_DETAILS: tuple[Detail, ...] = ("low", "high", "auto")
COMPARED_SIDES = (512, 1024, 2048)
ALIKE_BITS = 4
"""Pictures look alike if their perceptual hashes of 64 bits differ in no more than these."""

_SHOWN = 10
"""Lines of refused pictures and of groups in the text; the JSON has all."""


@dataclass(slots=True)
class PictureEstimate:
    """What a run would do: the estimate of its rows, and what is particular to pictures.

    `refused` has codes and reasons. `same` counts rows that share another row's answer. `sizes` has the tokens of all
    pictures by detail and longest side in pixels; if `is_estimate`, the model's rule is not documented. `alike` has
    groups of paths; None if the package for likeness is not installed.
    """

    rows: Estimate
    refused: list[tuple[str, str]]
    same: int
    sizes: dict[tuple[Detail, int], int]
    is_estimate: bool
    alike: list[list[str]] | None

    def to_json(self) -> JsonObject:
        """For scripts."""
        sizes = [
            {"detail": detail, "max_side": side, "picture_tokens": tokens, "usd": self._usd(tokens)}
            for (detail, side), tokens in self.sizes.items()
        ]
        refused = [{"error_code": code, "error": reason} for code, reason in self.refused]
        of_pictures = {"refused": refused, "same": self.same, "sizes": sizes, "tokens_are_estimates": self.is_estimate}
        return {**self.rows.to_json(), **of_pictures, "alike": self.alike}

    def text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rows = self.rows
        batch = f" (batch {rows.batch_id})" if rows.batch_id else ""
        yield f"{counted(rows.rows, 'picture')} for {rows.model}: {rows.done:,} done{batch}, {rows.to_send:,} to send"
        if self.refused:
            yield f"no usable pictures: {len(self.refused):,}, each a failed row"
            yield from (f"  {reason}" for _, reason in self.refused[:_SHOWN])
        if self.same:
            yield f"the same picture again: {self.same:,}, which share the answer and cost nothing"
        if self.alike is None:
            yield "pictures that look alike: not looked for; pip install 'tidemill[dedupe]' does"
        elif self.alike:
            yield f"pictures that look alike, saved or shrunk again: {len(self.alike):,} groups"
            yield from (f"  {', '.join(group)}" for group in self.alike[:_SHOWN])
        about = "about " if self.is_estimate else ""
        yield f"pictures and prompts: {about}{rows.input_tokens:,} tokens, {cost.format_usd(rows.input_usd)}"
        if self.sizes:
            yield f"  {'detail':8} {'max side':>8} {'tokens':>12}  price"
        for (detail, side), tokens in self.sizes.items():
            yield f"  {detail:8} {side:>8} {tokens:>12,}  {cost.format_usd(self._usd(tokens))}"
        yield from rows.answers()
        yield from rows.by_route()
        yield "Nothing was sent."

    def _usd(self, tokens: int) -> float | None:
        price = cost.price(self.rows.model, self.rows.tier)
        return None if price is None else price.input_usd_per_token * tokens


@dataclass(slots=True)
class _Sums:
    """What is counted while the pictures stream by."""

    rows: int = 0
    done: int = 0
    tokens: int = 0
    same: int = 0
    is_estimate: bool = False
    refused: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[tuple[Detail, int]] = field(default_factory=Counter)
    likenesses: dict[str, list[str]] = field(default_factory=dict)
    contents: set[str] = field(default_factory=set)


def estimate_pictures(pictures: Pictures, order: Order) -> PictureEstimate:
    """Make every picture ready, and count what an order of them would send.

    Raises:
        InputError: there is no picture, or the table of paths cannot be read.
    """
    options = order.options
    template = parse_template(options.prompt or "")
    can_compare = find_spec("imagehash") is not None
    sums, before, reckoning = _Sums(), Before(order), None
    prepared_files = prepare(pictures, options, lambda _note: None, likeness=can_compare)
    for chunk in _chunks(ticked(prepared_files, Ticker("looked at", "pictures"))):
        read = [row_of(file, picture, template, options) for file, picture in chunk]
        rows = [Prepared.of(row) for row in read]
        answered = before.answered(rows)
        sums.rows, sums.done = sums.rows + len(rows), sums.done + sum(answered)
        reckoning = reckoning or Reckoning(order, before.batch_id)
        for place, (row, prepared) in enumerate(zip(rows, chunk, strict=True)):
            if _count(sums, options, row, prepared, is_answered=answered[place]):
                reckoning.add([read[place].request])
    texts = [text for text in (options.system, options.prompt) if text]
    text_tokens = sum(cost.count_many(texts, options.model)) + cost.chat_overhead_tokens(len(texts))
    to_send = sums.rows - sums.done - sums.same - len(sums.refused)
    input_tokens = sums.tokens + text_tokens * to_send
    rows_estimate = priced(before, options, sums.rows, sums.done, to_send, input_tokens=input_tokens)
    rows_estimate = with_reach(rows_estimate, reckoning)
    alike = _groups(sums.likenesses) if can_compare else None
    return PictureEstimate(rows_estimate, sums.refused, sums.same, dict(sums.sizes), sums.is_estimate, alike)


def _chunks(pictures: Iterable[PreparedFile]) -> Iterator[list[PreparedFile]]:
    """Lists of up to a thousand, without the pictures' bytes."""
    chunk: list[PreparedFile] = []
    for file, picture in pictures:
        chunk.append((file, replace(picture, content=b"") if isinstance(picture, PreparedPicture) else picture))
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _count(sums: _Sums, options: Options, row: Prepared, prepared: PreparedFile, *, is_answered: bool) -> bool:
    """Count a picture; returns whether it would be sent."""
    file, picture = prepared
    if isinstance(picture, RefusedPicture):
        sums.refused.append((picture.code, picture.reason))
        return False
    if picture is None:
        sums.is_estimate = True
    elif picture.likeness is not None:
        sums.likenesses.setdefault(picture.likeness, []).append(file.path)
    if is_answered:
        return False
    assert row.content is not None
    if row.content in sums.contents:
        sums.same += 1
        return False
    sums.contents.add(row.content)
    if picture is None:
        return True
    counted_tokens = picture_tokens(options.model, picture.width, picture.height, options.detail or "auto")
    sums.tokens += counted_tokens.tokens
    sums.is_estimate |= counted_tokens.is_estimate
    for detail in COMPARED_DETAILS:
        for side in COMPARED_SIDES:
            size = usable_size(options.model, picture.source_width, picture.source_height, detail, side)
            sums.sizes[detail, side] += picture_tokens(options.model, *size, detail).tokens
    return True


def _groups(likenesses: dict[str, list[str]]) -> list[list[str]]:
    """Paths whose hashes are near each other. Hashes that differ in at most 4 bits have one of 5 parts in common."""
    parents = {likeness: likeness for likeness in likenesses}  # a chain of them ends at the group's first hash

    def first(likeness: str) -> str:
        while parents[likeness] != likeness:
            likeness = parents[likeness]
        return likeness

    by_part: dict[tuple[int, int], list[str]] = {}
    for likeness in likenesses:
        bits = int(likeness, 16)
        for part in range(ALIKE_BITS + 1):
            by_part.setdefault((part, bits >> (13 * part) & 0x1FFF), []).append(likeness)
    for near in by_part.values():
        for one, other in combinations(near, 2):
            if (int(one, 16) ^ int(other, 16)).bit_count() <= ALIKE_BITS:
                parents[first(other)] = first(one)
    groups: dict[str, list[str]] = {}
    for likeness, paths in likenesses.items():
        groups.setdefault(first(likeness), []).extend(paths)
    return [sorted(paths) for paths in groups.values() if len(paths) > 1]
