"""Examples from anywhere become the files that a server trains on: checked, counted and split.

Examples stream through the checks into one file on disk. 45 bytes of each good one stay in memory, enough to find
duplicates and contradictions and to split. A second pass writes the parts. The same examples and the same seed give the
same bytes on every machine.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import orjson

from tidemill.models import cost
from tidemill.models.example_places import Origin, runs_of
from tidemill.models.json_types import JsonObject
from tidemill.models.text import unbroken
from tidemill.producer.batches.progress import counted
from tidemill.producer.training import dataset_report
from tidemill.producer.training.dataset_report import PartCounts, Report
from tidemill.producer.training.example_files import InputSummary
from tidemill.producer.training.examples import (
    BadRow,
    Body,
    Example,
    Fault,
    Place,
    faults,
    has_images,
    key_of,
    may_be_cut,
    normalised,
    opening_of,
    prompt_of,
    remarks,
    replies_of,
    teaches_nothing,
    text_of,
    tools_of,
)
from tidemill.producer.training.findings import KEPT, Findings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_MODEL = "gpt-4.1-mini"  # the cheapest that can still be trained
FEWEST_EXAMPLES = 10
FEW_EXAMPLES = 50
CHUNK_ROWS = 1_000
CHUNK_BYTES = 8 * 2**20
_LONG = 1.5  # a reply that is so many times as long as the middle one may have been cut at a limit
_OFTENER = 3  # long replies must lack the full stop so many times as often as others to look cut; else it is a style
_SHORT_TOKENS, _LONG_TOKENS = 2, 20
_TRAINING_CONTEXT = (("gpt-4.1", 65_536), ("gpt-4o", 65_536), ("gpt-3.5-turbo", 16_385))  # as of 2026-07
_LARGEST_FILE_BYTES = 512 * 2**20
_MOST_WITH_IMAGES = 50_000
_IS_NEGATIVE, _MAY_BE_CUT, _IS_VALIDATION = 1, 2, 4


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What a dataset is made for, and how.

    `validation` is the share from 0 to below 1 that is kept aside to check with. With `epochs` None, the provider
    chooses. With `skip_bad_rows`, examples that the API would not accept are dropped and counted.
    """

    method: str = "supervised"
    model: str = DEFAULT_MODEL
    validation: float = 0.0
    seed: int = 0
    epochs: int | None = None
    skip_bad_rows: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A file of chat JSON lines that can be uploaded; `sha256` is of its bytes, `tokens` are those of one epoch."""

    path: Path
    examples: int
    tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training files and the report on them. Ask `report.stops()` before using the files."""

    method: str
    train: Part
    validation: Part | None
    report: Report
    dialogues: Sequence[int] = ()
    """Numbers of the stored dialogues among the examples."""
    places: JsonObject = field(default_factory=dict)
    """`training` and `validation` -> where each line of that file is from; see `models.example_places`."""


@dataclass(slots=True)
class _Rows:
    """What stays in memory of the good examples, in their order: 45 bytes each."""

    openings: "array[int]" = field(default_factory=lambda: array("Q"))
    prompts: "array[int]" = field(default_factory=lambda: array("Q"))
    replies: "array[int]" = field(default_factory=lambda: array("Q"))
    tokens: "array[int]" = field(default_factory=lambda: array("I"))
    reply_tokens: "array[int]" = field(default_factory=lambda: array("I"))
    lines: "array[int]" = field(default_factory=lambda: array("Q"))
    files: "array[int]" = field(default_factory=lambda: array("I"))
    marks: "array[int]" = field(default_factory=lambda: array("B"))
    names: dict[tuple[str, str], int] = field(default_factory=dict)
    sample: tuple[Place, Body] | None = None

    def place(self, row: int) -> Place:
        file, unit = list(self.names)[self.files[row]]
        return Place(file, self.lines[row], unit)

    def origins(self, part: "NDArray[np.bool_]") -> Iterator[Origin]:
        """Where the rows of a part are from, in their order."""
        names = list(self.names)
        for row, is_in in enumerate(part.tolist()):
            if is_in:
                yield *names[self.files[row]], self.lines[row]

    def of_unit(self, unit: str) -> list[int]:
        """The numbers of the rows that are counted in this unit."""
        files = {number for number, (_, its_unit) in enumerate(self.names) if its_unit == unit}
        return [line for line, file in zip(self.lines, self.files, strict=True) if file in files] if files else []


class _Checked(NamedTuple):
    place: Place
    body: Body
    line: bytes
    texts: list[str]  # the replies' texts come last
    overhead: int  # tokens that the chat format adds
    replies: int


def build(
    examples: Iterable[Example | BadRow],
    options: DatasetOptions,
    folder: Path,
    *,
    inputs: InputSummary | None = None,
    validation: Iterable[Example | BadRow] | None = None,
) -> Dataset:
    """Check, count and split examples into `train.jsonl` and `validation.jsonl` in `folder`, in their order.

    Args:
        examples: a stream; examples are held no longer than their chunk.
        options: what the dataset is made for, and how.
        folder: an existing folder for the files and, for a short time, one more of the same size.
        inputs: what `examples_of` notes about its files; complete once `examples` is read.
        validation: examples to check with, instead of a share of the others.

    Raises:
        InputError: a source cannot be read. What is wrong with single examples is in the report.
        OSError: the folder is full.
    """
    rows, findings = _Rows(), Findings()
    whole = folder / ".checked.jsonl"
    with whole.open("wb") as file:
        sieve = _Sieve(options, rows, findings, file)
        sieve.take(examples)
        if validation is not None:
            sieve.take(validation, _IS_VALIDATION)
    kept_aside = _kept_aside(rows, options, findings)
    _compare_rows(rows, kept_aside, findings, options.method)
    train = _write(whole, rows, kept_aside == 0, folder / "train.jsonl")
    check = _write(whole, rows, kept_aside != 0, folder / "validation.jsonl") if kept_aside.any() else None
    whole.unlink()
    teaching = _teaching(rows, kept_aside == 0)
    _add_few(findings, teaching, train.examples - teaching)
    _add_too_large(findings, [each for each in (train, check) if each])
    report = Report(
        method=options.method,
        model=options.model,
        epochs=options.epochs,
        seed=options.seed,
        skip_bad_rows=options.skip_bad_rows,
        train=PartCounts(train.examples, train.tokens, teaching),
        validation=PartCounts(check.examples, check.tokens, _teaching(rows, kept_aside != 0)) if check else None,
        lengths=dataset_report.lengths(rows.tokens),
        longest_tokens=training_context(options.model),
        sample=rows.sample,
        inputs=inputs or InputSummary(),
        findings=findings,
    )
    parts = {"training": kept_aside == 0, "validation": kept_aside != 0}
    places = {name: runs_of(rows.origins(part)) for name, part in parts.items()}
    return Dataset(options.method, train, check, report, rows.of_unit("dialogue"), places)


def training_context(model: str) -> int | None:
    """The most tokens that an example may have, None where it is not known."""
    name = model.removeprefix("openai/").removeprefix("ft:")
    return next((tokens for start, tokens in _TRAINING_CONTEXT if name.startswith(start)), None)


# --- first pass: check, count, remember ---


@dataclass(frozen=True, slots=True)
class _Sieve:
    """Examples go in; good ones come out as lines of `file`, and something of each is remembered in `rows`."""

    options: DatasetOptions
    rows: _Rows
    findings: Findings
    file: BinaryIO

    def take(self, examples: Iterable[Example | BadRow], marks: int = 0) -> None:
        """Check a stream of examples, some thousand or megabytes at a time."""
        chunk: list[_Checked] = []
        size = 0
        for example in examples:
            if isinstance(example, BadRow):
                self.findings.add_bad(example)
                continue
            checked = self._checked(example)
            if checked is None:
                continue
            chunk.append(checked)
            size += len(checked.line)
            if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                self._keep(chunk, marks)
                chunk, size = [], 0
        self._keep(chunk, marks)

    def _checked(self, example: Example) -> _Checked | None:
        """A good example, ready to be written; None for one with faults, which are counted."""
        method = self.options.method
        body, left_out = normalised(example.body, method)
        errors = faults(body, method)
        if not errors:
            try:
                line = unbroken(orjson.dumps(body)) + b"\n"
            except TypeError as error:  # lone surrogates, integers beyond 64 bits, nesting beyond 254
                errors = [Fault("bad_text", str(error))]
        for code, what in errors or (*left_out, *remarks(body, method)):
            self.findings.add(code, example.place, what)
        if errors:
            self.findings.bad_rows += 1
            return None
        messages, replies = prompt_of(body, method), replies_of(body, method)
        if has_images(messages):
            self.findings.add("images", example.place, "pictures in it")
        tools = tools_of(body)
        texts = [orjson.dumps(tools).decode()] if tools else []
        texts += [text_of(message) for message in (*messages, *replies)]
        # Plus a token for each role. Source: OpenAI's notebook on preparing chat fine-tuning data.
        count = len(messages) + len(replies)
        return _Checked(example.place, body, line, texts, cost.chat_overhead_tokens(count) + count, len(replies))

    def _keep(self, chunk: list[_Checked], marks: int) -> None:
        """Count tokens on all cores; write and remember the examples that are not too long."""
        model, method, rows = self.options.model, self.options.method, self.rows
        most = training_context(model)
        counts = iter(cost.count_many([text for each in chunk for text in each.texts], model))
        for each in chunk:
            text_tokens = [next(counts) for _ in each.texts]
            tokens = sum(text_tokens) + each.overhead
            if most is not None and tokens > most:
                what = f"it has {tokens:,} tokens; {model} is trained on {most:,} at most"
                self.findings.add_bad(BadRow(each.place, what, "too_long"))
                continue
            self.file.write(each.line)
            rows.sample = rows.sample or (each.place, each.body)
            prompt = prompt_of(each.body, method)
            rows.openings.append(key_of(opening_of(prompt), folded=True))
            rows.prompts.append(key_of(prompt, tools=tools_of(each.body)))
            rows.replies.append(key_of(replies_of(each.body, method)))
            rows.tokens.append(tokens)
            rows.reply_tokens.append(text_tokens[-each.replies])
            rows.lines.append(each.place.line)
            rows.files.append(rows.names.setdefault((each.place.file, each.place.unit), len(rows.names)))
            negative = _IS_NEGATIVE if teaches_nothing(each.body) else 0
            rows.marks.append(marks | negative | (_MAY_BE_CUT if may_be_cut(each.body, method) else 0))


# --- what only all rows together show ---


def _teaching(rows: _Rows, part: "NDArray[np.bool_]") -> int:
    """How many rows of a part have a reply to learn."""
    import numpy as np

    return int((part & (np.frombuffer(rows.marks, np.uint8) & _IS_NEGATIVE == 0)).sum()) if rows.marks else 0


def _add_few(findings: Findings, teaching: int, others: int) -> None:
    """Add a finding if there are few examples to learn from."""
    if teaching >= FEW_EXAMPLES:
        return
    what = f"there {'is' if teaching == 1 else 'are'} {counted(teaching, 'example')} to learn from"
    if others:
        what += f"; {counted(others, 'more example')} {'teaches' if others == 1 else 'teach'} nothing (weight 0)"
    findings.add("too_few" if teaching < FEWEST_EXAMPLES else "few", None, what)


def _add_too_large(findings: Findings, parts: Iterable[Part]) -> None:
    """Add a finding for what no upload takes. Source: OpenAI's guides on files and on vision fine-tuning."""
    for part in parts:
        if (size := part.path.stat().st_size) > _LARGEST_FILE_BYTES:
            most = f"the provider takes {_LARGEST_FILE_BYTES >> 20}"
            findings.add("too_large", None, f"{part.path.name} would have {size >> 20:,} MB; {most}")
    if (images := findings.counts["images"]) > _MOST_WITH_IMAGES:
        what = f"{images:,} examples have pictures; the provider takes {_MOST_WITH_IMAGES:,}"
        findings.add("too_large", None, what)


def _kept_aside(rows: _Rows, options: DatasetOptions, findings: Findings) -> "NDArray[np.uint8]":
    """For each row 1 if it is kept aside, else 0. Rows that begin with the same question are never parted.

    So a dialogue that occurs with one, two and three turns is in one part. A hash of the seed puts the openings into an
    order, and the first of them are taken until the share is reached.
    """
    import numpy as np

    if not rows.prompts:
        return np.zeros(0, np.uint8)
    openings, marks = np.frombuffer(rows.openings, np.uint64), np.frombuffer(rows.marks, np.uint8)
    aside: NDArray[np.uint8] = (marks & _IS_VALIDATION != 0).astype(np.uint8)
    if options.validation <= 0 or aside.any():
        return aside
    keys, group, sizes = np.unique(openings, return_inverse=True, return_counts=True)
    if len(keys) < 2:
        findings.add("no_split", None, "every example begins with the same question")
        return aside
    target = max(1, round(options.validation * len(openings)))
    taken, chosen = 0, np.zeros(len(keys), np.uint8)
    for place in np.argsort(_mixed(keys, options.seed), kind="stable"):
        fits = taken == 0 or taken + sizes[place] <= target
        if fits and taken + sizes[place] < len(openings):
            chosen[place] = 1
            taken += int(sizes[place])
        if taken >= target:
            break
    return chosen[group].astype(np.uint8, copy=False)


def _mixed(keys: "NDArray[np.uint64]", seed: int) -> "NDArray[np.uint64]":
    """A hash of each key and the seed: splitmix64, as in Steele, Lea and Flood, 2014."""
    import numpy as np

    start = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big")
    mixed: NDArray[np.uint64] = keys ^ np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _compare_rows(rows: _Rows, aside: "NDArray[np.uint8]", findings: Findings, method: str) -> None:
    """Add the findings that only a comparison of all rows shows."""
    import numpy as np

    if not rows.prompts:
        return
    prompts, replies = np.frombuffer(rows.prompts, np.uint64), np.frombuffer(rows.replies, np.uint64)
    reply_tokens, marks = np.frombuffer(rows.reply_tokens, np.uint32), np.frombuffer(rows.marks, np.uint8)
    again, first = _repeats(np.arange(len(prompts)), aside, prompts, replies)
    _add_each(rows, findings, "duplicate", "the same as {}", again, others=first)
    if method == "supervised":  # several preferences for one prompt are all to be learnt
        taught = np.flatnonzero(marks & _IS_NEGATIVE == 0)
        other_replies = np.setdiff1d(taught, _repeats(taught, aside, prompts, replies)[0], assume_unique=True)
        later, first = _repeats(other_replies, aside, prompts)
        _add_each(rows, findings, "conflict", "{} replies differently", later, others=first)
    if marks.max() & _IS_VALIDATION:
        _add_leaks(rows, prompts, aside != 0, findings)
    middle = int(np.median(reply_tokens))
    unended = marks & _MAY_BE_CUT != 0
    long = reply_tokens > _LONG * middle
    if unended[long].sum() * (~long).sum() > _OFTENER * unended[~long].sum() * long.sum():  # a comparison of two shares
        what = f"a long reply (the middle one has {counted(middle, 'token')}) that ends without a full stop"
        _add_each(rows, findings, "cut_off", what, np.flatnonzero(unended & long))
    if middle >= _LONG_TOKENS:
        short = np.flatnonzero(reply_tokens <= _SHORT_TOKENS)
        _add_each(rows, findings, "short_reply", f"hardly a word, where the middle reply has {middle:,} tokens", short)
    if len(replies) > 1 and (replies == replies[0]).all():
        findings.add("same_replies", None, f"all {len(replies):,} replies are the same")


def _repeats(
    among: "NDArray[np.int64]", *keys: "NDArray[np.unsignedinteger]"
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Each row of `among` that agrees in all keys with an earlier one, in order; and the first that it agrees with."""
    import numpy as np

    order = among[np.lexsort([key[among] for key in keys])]  # stable: equal rows stay in the order of the input
    begins = np.ones(len(order), bool)
    begins[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    by_row = np.argsort(order[~begins])
    return order[~begins][by_row], first[~begins][by_row]


def _add_leaks(rows: _Rows, prompts: "NDArray[np.uint64]", aside: "NDArray[np.bool_]", findings: Findings) -> None:
    """Add examples of a validation file whose prompt, or its beginning, the model knows from training."""
    import numpy as np

    openings = np.frombuffer(rows.openings, np.uint64)
    whole = aside & np.isin(prompts, prompts[~aside])
    _add_each(rows, findings, "leak", "its prompt is in the training part too", np.flatnonzero(whole))
    begun = aside & ~whole & np.isin(openings, openings[~aside])
    _add_each(
        rows, findings, "leak", "it begins with the same question as one in the training part", np.flatnonzero(begun)
    )


def _add_each(
    rows: _Rows,
    findings: Findings,
    code: str,
    what: str,
    matching: "NDArray[np.int64]",
    *,
    others: "NDArray[np.int64] | None" = None,
) -> None:
    """Add a finding for each of the rows `matching`; `{}` in `what` becomes the place of its row in `others`."""
    shown = matching[:KEPT].tolist()
    for row, other in zip(shown, shown if others is None else others[:KEPT].tolist(), strict=True):
        place, about = rows.place(row), rows.place(other)
        findings.add(code, place, what.format(about._replace(file="") if about.file == place.file else about))
    if len(matching) > len(shown):
        findings.counts[code] += len(matching) - len(shown)


# --- second pass: write ---


def _write(whole: Path, rows: _Rows, part: "NDArray[np.bool_]", path: Path) -> Part:
    import numpy as np

    digest = hashlib.sha256()
    with whole.open("rb") as source, path.open("wb") as target:
        for line in _chosen(source, part.tobytes()):
            digest.update(line)
            target.write(line)
    tokens = np.frombuffer(rows.tokens, np.uint32)[part].sum(dtype=np.uint64) if rows.tokens else 0
    return Part(path, int(part.sum()), int(tokens), digest.hexdigest())


def _chosen(lines: Iterable[bytes], marks: bytes) -> Iterator[bytes]:
    return (line for line, take in zip(lines, marks, strict=True) if take)
