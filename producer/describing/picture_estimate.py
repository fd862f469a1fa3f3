"""What a folder of pictures will cost is known before one is sent, and how it costs less.

Nothing here sends or stores. Pictures are made ready for it all the same: only then is it known which can be.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import combinations
from typing import Any

from tidemill.models import cost
from tidemill.models.options import Detail
from tidemill.models.vision import picture_tokens, usable_size
from tidemill.producer.asking.estimate import Estimate, find, finished, priced
from tidemill.producer.batches.keys import Prepared, number
from tidemill.producer.batches.progress import counted
from tidemill.producer.batches.submit import Order
from tidemill.producer.describing.images import Picture, Refused
from tidemill.producer.describing.picture_rows import Found, prepared, row_of
from tidemill.producer.intake.requests import parse_template
from tidemill.producer.intake.tables import CHUNK_ROWS

DETAILS: tuple[Detail, ...] = ("low", "high", "auto")
SIDES = (512, 1024, 2048)
ALIKE_BITS = 4
"""Perceptual hashes of 64 bits that differ in no more are of the same picture, saved or shrunk again."""

_SHOWN = 10


@dataclass(slots=True)
class PictureEstimate:
    """What a run would do: the estimate of its rows, and what is particular to pictures.

    `sizes` has the tokens of all pictures by detail and longest side in pixels; they are estimates for models whose
    rule is not documented. `alike` are groups of paths; None where likeness could not be looked for.
    """

    rows: Estimate
    refused: list[tuple[str, str]]
    same: int
    sizes: dict[tuple[Detail, int], int]
    is_estimate: bool
    alike: list[list[str]] | None

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        sizes = [
            {"detail": detail, "max_side": side, "picture_tokens": tokens, "usd": self._usd(tokens)}
            for (detail, side), tokens in self.sizes.items()
        ]
        refused = [{"error_code": code, "error": reason} for code, reason in self.refused]
        own = {"refused": refused, "same": self.same, "sizes": sizes, "tokens_are_estimates": self.is_estimate}
        return {**self.rows.to_json(), **own, "alike": self.alike}

    def text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rows = self.rows
        there = f" (batch {rows.batch_id})" if rows.batch_id else ""
        yield f"{counted(rows.rows, 'picture')} for {rows.model}: {rows.done:,} done{there}, {rows.to_send:,} to send"
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
        yield "Nothing was sent."

    def _usd(self, tokens: int) -> float | None:
        price = cost.price(self.rows.model)
        return None if price is None else price.input_usd_per_token * tokens


@dataclass(slots=True)
class _Seen:
    """What is counted while the pictures go by."""

    rows: int = 0
    done: int = 0
    tokens: int = 0
    same: int = 0
    is_estimate: bool = False
    refused: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[tuple[Detail, int]] = field(default_factory=Counter)
    likenesses: dict[str, list[str]] = field(default_factory=dict)
    contents: set[str] = field(default_factory=set)
    digests: Counter[str] = field(default_factory=Counter)


def estimate_pictures(order: Order) -> PictureEstimate:
    """Make every picture ready and count what an order would send.

    Raises:
        InputError: there is no picture, or the table of paths cannot be read.
    """
    assert order.pictures is not None
    template = parse_template(order.options.prompt or "")
    can_compare = find_spec("imagehash") is not None
    seen, batch_id, looked = _Seen(), None, False
    for some in _chunks(prepared(order.pictures, order.options, lambda _note: None, likeness=can_compare)):
        rows = [Prepared.of(row_of(found, picture, template, order.options)) for found, picture in some]
        digests = [row.digest for row in rows]
        keys = number(digests, seen.digests)
        seen.digests.update(digests)
        if not (looked or order.new):
            batch_id, looked = find(order, keys), True
        answered = finished(batch_id, keys) if batch_id else set()
        seen.rows, seen.done = seen.rows + len(rows), seen.done + len(answered)
        for key, row, (found, picture) in zip(keys, rows, some, strict=True):
            _count(seen, order, row, found, picture, is_answered=key in answered)
    told = [text for text in (order.options.system, order.options.prompt) if text]
    words = sum(cost.count_many(told, order.options.model)) + cost.chat_overhead_tokens(len(told))
    to_send = seen.rows - seen.done - seen.same - len(seen.refused)
    rows_estimate = priced(
        batch_id, order.options, seen.rows, seen.done, to_send, input_tokens=seen.tokens + words * to_send
    )
    alike = _groups(seen.likenesses) if can_compare else None
    return PictureEstimate(rows_estimate, seen.refused, seen.same, dict(seen.sizes), seen.is_estimate, alike)


def _chunks(pictures: Iterable[tuple[Found, Picture | Refused | None]]) -> Iterator[list[tuple[Found, Any]]]:
    """A thousand at a time, without the pictures' bytes."""
    chunk: list[tuple[Found, Any]] = []
    for found, picture in pictures:
        chunk.append((found, replace(picture, content=b"") if isinstance(picture, Picture) else picture))
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _count(seen: _Seen, order: Order, row: Prepared, found: Found, picture: Any, *, is_answered: bool) -> None:
    if isinstance(picture, Refused):
        seen.refused.append((picture.code, picture.reason))
        return
    if picture is None:
        seen.is_estimate = True
    elif picture.likeness is not None:
        seen.likenesses.setdefault(picture.likeness, []).append(found.path)
    if is_answered:
        return
    assert row.content is not None
    if row.content in seen.contents:
        seen.same += 1
        return
    seen.contents.add(row.content)
    if picture is None:
        return
    options = order.options
    here = picture_tokens(options.model, picture.width, picture.height, options.detail or "auto")
    seen.tokens += here.tokens
    seen.is_estimate |= here.is_estimate
    for detail in DETAILS:
        for side in SIDES:
            size = usable_size(options.model, picture.source_width, picture.source_height, detail, side)
            seen.sizes[detail, side] += picture_tokens(options.model, *size, detail).tokens


def _groups(likenesses: dict[str, list[str]]) -> list[list[str]]:
    """Paths whose hashes are near each other; hashes that differ in 4 bits at most have one of 5 parts in common."""
    leader = {likeness: likeness for likeness in likenesses}

    def first(likeness: str) -> str:
        while leader[likeness] != likeness:
            likeness = leader[likeness]
        return likeness

    by_part: dict[tuple[int, int], list[str]] = {}
    for likeness in likenesses:
        bits = int(likeness, 16)
        for part in range(ALIKE_BITS + 1):
            by_part.setdefault((part, bits >> (13 * part) & 0x1FFF), []).append(likeness)
    for near in by_part.values():
        for one, other in combinations(near, 2):
            if (int(one, 16) ^ int(other, 16)).bit_count() <= ALIKE_BITS:
                leader[first(other)] = first(one)
    groups: dict[str, list[str]] = {}
    for likeness, paths in likenesses.items():
        groups.setdefault(first(likeness), []).extend(paths)
    return [sorted(paths) for paths in groups.values() if len(paths) > 1]
