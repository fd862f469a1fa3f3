"""Before anybody pays for training, a report describes the data in words that a beginner understands."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidemill.models import cost
from tidemill.models.json_types import JsonObject
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import counted
from tidemill.producer.training.example_files import InputSummary
from tidemill.producer.training.examples import Body, ChatMessage, Place, prompt_of, replies_of, text_of
from tidemill.producer.training.findings import LEVELS, RULES, Findings

ASSUMED_EPOCHS = 3
_EXAMPLE_EPOCHS = (100, 25_000)  # the fewest and the most examples that an assumed run reads in all its epochs
_MOST_EPOCHS = 25
_SHOWN_PLACES = 5
_BARS, _BAR_WIDTH = 10, 20
_SAMPLE_WIDTH = 90


class PartCounts(NamedTuple):
    """How many examples a part has, their tokens, and how many teach: they have a reply whose weight is not 0."""

    examples: int
    tokens: int
    teaching: int

    def __str__(self) -> str:
        """For the report: "15 examples, 630 tokens; 12 of them teach nothing (weight 0)"."""
        nothing = self.examples - self.teaching
        more = f"; {nothing:,} of them {'teaches' if nothing == 1 else 'teach'} nothing (weight 0)" if nothing else ""
        return f"{counted(self.examples, 'example')}, {counted(self.tokens, 'token')}{more}"


class Bar(NamedTuple):
    """The number of examples with `least` to `most` tokens; `most` is None for the last bar, which is open."""

    least: int
    most: int | None
    examples: int


class Lengths(NamedTuple):
    """Tokens of the shortest, the middle and the longest example, and all of them as bars."""

    shortest: int
    middle: int
    longest: int
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of a dataset; `validation`, `lengths` and `sample` are None if there is nothing."""

    method: str
    model: str
    epochs: int | None
    seed: int
    skip_bad_rows: bool
    train: PartCounts
    validation: PartCounts | None
    lengths: Lengths | None
    longest_tokens: int | None
    sample: tuple[Place, Body] | None
    inputs: InputSummary
    findings: Findings

    def stops(self, strict: bool = False) -> bool:
        """Whether findings forbid the use of the files: `stopping_errors`, and if strict also warnings."""
        return bool(self.stopping_errors or (strict and self.findings.level("warning")))

    @property
    def stopping_errors(self) -> int:
        """Errors, except those whose rows are dropped."""
        codes = [code for code in self.findings.codes("error") if code in _OF_ALL or not self.skip_bad_rows]
        return sum(self.findings.counts[code] for code in codes)

    @property
    def assumed_epochs(self) -> int:
        """The epochs that the user chose, or what the provider will probably choose for so many examples.

        Three epochs; more or fewer, from 1 to 25, if the run would read less than 100 or more than 25,000 examples in
        all. Source: OpenAI's notebook on preparing chat fine-tuning data.
        """
        if self.epochs is not None:
            return self.epochs
        fewest, most = _EXAMPLE_EPOCHS
        examples = max(1, self.train.examples)
        if examples * ASSUMED_EPOCHS < fewest:
            return min(_MOST_EPOCHS, fewest // examples)
        return ASSUMED_EPOCHS if examples * ASSUMED_EPOCHS <= most else max(1, most // examples)

    @property
    def epoch_usd(self) -> float | None:
        """What one pass over the training part costs; None if the model's price is not known."""
        price = cost.training_price(self.model)
        return None if price is None else price * self.train.tokens

    def to_json(self) -> JsonObject:
        """For scripts."""
        epoch = self.epoch_usd
        return {
            "method": self.method,
            "model": self.model,
            "files": [
                {
                    "file": each.file,
                    "use": each.use,
                    "rows": each.rows,
                    "columns": each.columns or None,
                    "unused": each.unused,
                }
                for each in self.inputs.files
            ],
            "files_left_out": self.inputs.left_out,
            "train": self.train._asdict(),
            "validation": self.validation._asdict() if self.validation else None,
            "seed": self.seed,
            "example": self.sample[1] if self.sample else None,
            "example_tokens": None
            if self.lengths is None
            else self.lengths._asdict() | {"bars": [each._asdict() for each in self.lengths.bars]},
            "most_example_tokens": self.longest_tokens,
            "epochs": self.epochs,
            "assumed_epochs": self.assumed_epochs,
            "epoch_usd": epoch,
            "assumed_usd": None if epoch is None else epoch * self.assumed_epochs,
            "errors": self.findings.level("error"),
            "warnings": self.findings.level("warning"),
            "notes": self.findings.level("note"),
            "bad_rows": self.findings.bad_rows,
            "counts": dict(self.findings.counts),
            "findings": [each.to_json() for each in self.findings],
        }

    def text(self) -> str:
        """For people, also those who have never trained a model."""
        parts = (self._read(), self._shown(), self._lengths(), self._split(), self._price(), self._findings())
        return "\n\n".join("\n".join(part) for part in parts if part)

    def _read(self) -> list[str]:
        lines = ["WHAT WAS READ"]
        for each in self.inputs.files:
            use = "" if each.use == "examples" else f" · {each.use}"
            columns = f" · columns: {each.columns}" if each.columns else ""
            unused = f" · not used: {_some(each.unused)}" if each.unused else ""
            lines.append(f"  {each.file}: {counted(each.rows, 'row')}{columns}{unused}{use}")
        if self.inputs.left_out:
            lines.append(f"  left out, as they are no tables: {_some(self.inputs.left_out)}")
        lines += self._negatives()
        if self.findings.bad_rows:
            what = "dropped, with --skip-bad-rows" if self.skip_bad_rows else "not counted in what follows"
            lines.append(f"  {counted(self.findings.bad_rows, 'row')} with errors: {what}")
        return lines if len(lines) > 1 else []

    def _negatives(self) -> Iterator[str]:
        if not any(each.use == "what not to say" for each in self.inputs.files):
            return
        left = self.findings.counts["no_pair"]
        if self.method == "dpo":
            yield f"  what not to say became the rejected side of pairs; {counted(left, 'row')} without a pair left out"
        else:
            yield "  what not to say has weight 0: the model reads these replies and does not learn them"

    def _shown(self) -> list[str]:
        if self.sample is None:
            return []
        place, body = self.sample
        learned = ["the model learns to prefer this ..", ".. to this"]
        if self.method != "dpo":
            learned = ["the model learns to reply like this"]
        lines = [f"WHAT THE MODEL WILL SEE (the first example, {place})"]
        lines += [_spoken(message) for message in prompt_of(body, self.method)]
        for message, why in zip(replies_of(body, self.method), learned, strict=True):
            what = "weight 0: the model reads this and does not learn it" if message.get("weight") == 0 else why
            lines += [_spoken(message), f"  {'':<10} └ {what}"]
        return lines

    def _lengths(self) -> list[str]:
        lengths = self.lengths
        if lengths is None:
            return []
        most = max(bar.examples for bar in lengths.bars)
        names = [
            f"{bar.least:,} or more" if bar.most is None else f"{bar.least:,}-{bar.most:,}" for bar in lengths.bars
        ]
        width = max(map(len, names))
        limit = f"; the model takes {self.longest_tokens:,}" if self.longest_tokens else ""
        return [
            "HOW LONG THE EXAMPLES ARE, in tokens (100 tokens are about 75 English words)",
            *(
                f"  {name:>{width}}  {'█' * -(-bar.examples * _BAR_WIDTH // most):<{_BAR_WIDTH}} {bar.examples:,}"
                for name, bar in zip(names, lengths.bars, strict=True)
            ),
            f"  shortest {lengths.shortest:,}, middle {lengths.middle:,}, longest {lengths.longest:,}{limit}",
        ]

    def _split(self) -> list[str]:
        lines = ["THE PARTS", f"  training    {self.train}"]
        if self.validation is None:
            return [
                *lines,
                "  validation  none; --val 0.1 keeps a tenth aside, to see whether the model learns or only memorises",
            ]
        return [*lines, f"  validation  {self.validation}: never trained on, only checked with (seed {self.seed})"]

    def _price(self) -> list[str]:
        epochs, epoch, tokens = self.assumed_epochs, self.epoch_usd, self.train.tokens
        all_usd = None if epoch is None else epoch * epochs
        lines = [
            f"THE PRICE of training {self.model}, once",
            f"  1 epoch, which reads each example once: {counted(tokens, 'token')}, {cost.format_usd(epoch)}",
        ]
        if epochs > 1:
            lines.append(f"  {epochs} epochs: {counted(tokens * epochs, 'token')}, {cost.format_usd(all_usd)}")
        if self.epochs is None:
            lines.append(
                f"  The provider chooses 1 to 25 epochs by the number of examples; this is for {epochs}. "
                "--epochs sets them."
            )
        if epoch is None:
            lines.append("  No training price of this model is known here; TIDEMILL_PRICES may name it (key training).")
        else:
            lines.append(
                f"  Your own price, or the list of {cost.TRAINING_PRICES_AS_OF}; asking the trained model costs extra."
            )
        return lines

    def _findings(self) -> list[str]:
        lines = []
        for level in LEVELS:
            for code in self.findings.codes(level):
                rule, kept, count = RULES[code], self.findings.kept[code], self.findings.counts[code]
                times = f" ({count:,} times)" if count > 1 else ""
                lines.append(f"  {level}: {rule.heading}{times} -> {rule.remedy}")
                lines += [
                    f"      {each.place or 'in all'}: {one_line(each.what, 200)}" for each in kept[:_SHOWN_PLACES]
                ]
                if count > _SHOWN_PLACES:
                    lines.append(f"      and {count - min(count, len(kept[:_SHOWN_PLACES])):,} more")
        if not lines:
            return ["WHAT WAS FOUND", "  nothing to fix"]
        levels = [level for level in LEVELS if self.findings.level(level)]
        counts = ", ".join(counted(self.findings.level(level), level) for level in levels)
        return [f"WHAT WAS FOUND: {counts}", *(f"  {_MEANINGS[level]}" for level in levels), *lines]


_MEANINGS = {
    "error": "An error is what the provider would not accept, or what cannot be read.",
    "warning": "A warning is allowed, but the model may learn what was not meant.",
    "note": "A note is only for you to know.",
}
_OF_ALL = ("too_few", "too_large", "no_split")  # errors of all examples together: dropping rows does not fix them


def lengths(tokens: "array[int]") -> Lengths | None:
    """Examples' tokens summed up; None if there are none. Bars have one round width; the last takes the few beyond."""
    import numpy as np

    if not tokens:
        return None
    counts = np.sort(np.frombuffer(tokens, np.uint32))
    width = _round_width(int(counts[int(0.99 * (len(counts) - 1))]))
    tallies: list[int] = np.bincount(np.minimum(counts // width, _BARS), minlength=_BARS + 1).tolist()
    first = next(place for place, count in enumerate(tallies) if count)
    last = max(place for place, count in enumerate(tallies) if count)
    bars = [
        Bar(place * width, None if place == _BARS else (place + 1) * width - 1, tallies[place])
        for place in range(first, last + 1)
    ]
    return Lengths(int(counts[0]), int(counts[len(counts) // 2]), int(counts[-1]), bars)


def _round_width(most: int) -> int:
    """The least of 1, 2, 5, 10, 20, .. whose tenfold is more than `most`."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power * _BARS > most:
                return step * power
        power *= 10


def _spoken(message: ChatMessage) -> str:
    return f"  {message['role']:<10} {one_line(text_of(message), _SAMPLE_WIDTH)}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_PLACES
    return ", ".join(names[:_SHOWN_PLACES]) + (f" and {more:,} more" if more > 0 else "")
