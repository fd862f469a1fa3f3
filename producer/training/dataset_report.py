"""Before anybody pays for training, its data are told in words that a beginner understands."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tidemill.models import cost
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import counted
from tidemill.producer.training.example_files import FilesRead
from tidemill.producer.training.examples import Body, Message, Place, prompt_of, replies_of, text_of
from tidemill.producer.training.findings import LEVELS, RULES, Findings

ASSUMED_EPOCHS = 3
_EXAMPLE_EPOCHS = (100, 25_000)  # an assumed run sees no fewer and no more examples in all
_MOST_EPOCHS = 25
_SHOWN_PLACES = 5
_BARS, _BAR_WIDTH = 10, 40
_SAMPLE_WIDTH = 90


class Side(NamedTuple):
    """How many examples a part has, their tokens, and how many have a reply to learn: not all with weight 0."""

    examples: int
    tokens: int
    teaching: int

    def __str__(self) -> str:
        """For the report: "15 examples, 630 tokens; 12 of them teach nothing (weight 0)"."""
        nothing = self.examples - self.teaching
        more = f"; {nothing:,} of them {'teaches' if nothing == 1 else 'teach'} nothing (weight 0)" if nothing else ""
        return f"{counted(self.examples, 'example')}, {counted(self.tokens, 'token')}{more}"


class Bar(NamedTuple):
    """So many examples have from `least` to `most` tokens; `most` is None for the last, which is open."""

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
    """What is to be said of a dataset; `validation`, `lengths` and `sample` are None where there is nothing."""

    method: str
    model: str
    epochs: int | None
    seed: int
    skip_bad_rows: bool
    train: Side
    validation: Side | None
    lengths: Lengths | None
    longest_tokens: int | None
    sample: tuple[Place, Body] | None
    reading: FilesRead
    findings: Findings

    def stops(self, strict: bool = False) -> bool:
        """Whether findings forbid to use the files: errors that no row can be dropped for, and warnings if strict."""
        return bool(self.stopping_errors or (strict and self.findings.level("warning")))

    @property
    def stopping_errors(self) -> int:
        """Errors but for those whose rows are dropped."""
        codes = [code for code in self.findings.codes("error") if code in _OF_ALL or not self.skip_bad_rows]
        return sum(self.findings.counts[code] for code in codes)

    @property
    def assumed_epochs(self) -> int:
        """Those asked for, or what the provider will probably choose for so many examples.

        Source: OpenAI's notebook on preparing chat fine-tuning data. Three, but no fewer than 100 examples seen in all
        and no more than 25,000, between 1 and 25.
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
        """What one pass over the training part costs; None where the model's price is not known."""
        price = cost.training_price(self.model)
        return None if price is None else price * self.train.tokens

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        epoch = self.epoch_usd
        return {
            "method": self.method,
            "model": self.model,
            "files": [
                {"file": each.file, "use": each.use, "rows": each.rows, "columns": each.columns or None}
                for each in self.reading.files
            ],
            "files_left_out": self.reading.left_out,
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
        """For people, also those who never trained a model."""
        parts = (self._read(), self._shown(), self._lengths(), self._split(), self._price(), self._found())
        return "\n\n".join("\n".join(part) for part in parts if part)

    def _read(self) -> list[str]:
        lines = ["WHAT WAS READ"]
        for each in self.reading.files:
            use = "" if each.use == "examples" else f" · {each.use}"
            columns = f" · columns: {each.columns}" if each.columns else ""
            lines.append(f"  {each.file}: {counted(each.rows, 'row')}{columns}{use}")
        if self.reading.left_out:
            lines.append(f"  left out, as they are no tables: {_some(self.reading.left_out)}")
        lines += self._negatives()
        if self.findings.bad_rows:
            what = "dropped, with --skip-bad-rows" if self.skip_bad_rows else "not counted in what follows"
            lines.append(f"  {counted(self.findings.bad_rows, 'row')} with errors: {what}")
        return lines if len(lines) > 1 else []

    def _negatives(self) -> Iterator[str]:
        if not any(each.use == "what not to say" for each in self.reading.files):
            return
        left = self.findings.counts["no_twin"]
        if self.method == "dpo":
            yield f"  what not to say became the rejected side of pairs; {counted(left, 'row')} without a twin left out"
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
        told = self.lengths
        if told is None:
            return []
        most = max(bar.examples for bar in told.bars)
        names = [f"{bar.least:,} or more" if bar.most is None else f"{bar.least:,}-{bar.most:,}" for bar in told.bars]
        width = max(map(len, names))
        limit = f"; the model takes {self.longest_tokens:,}" if self.longest_tokens else ""
        return [
            "HOW LONG THE EXAMPLES ARE, in tokens (100 tokens are about 75 English words)",
            *(
                f"  {name:>{width}}  {'█' * -(-bar.examples * _BAR_WIDTH // most):<{_BAR_WIDTH}} {bar.examples:,}"
                for name, bar in zip(names, told.bars, strict=True)
            ),
            f"  shortest {told.shortest:,}, middle {told.middle:,}, longest {told.longest:,}{limit}",
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

    def _found(self) -> list[str]:
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
            return ["WHAT WAS FOUND", "  nothing to mend"]
        there = [level for level in LEVELS if self.findings.level(level)]
        counts = ", ".join(counted(self.findings.level(level), level) for level in there)
        return [f"WHAT WAS FOUND: {counts}", *(f"  {_MEANINGS[level]}" for level in there), *lines]


_MEANINGS = {
    "error": "An error is what the provider would refuse, or what cannot be read.",
    "warning": "A warning is allowed, but the model may learn what was not meant.",
    "note": "A note is only for you to know.",
}
_OF_ALL = ("too_few", "no_split")  # errors of the whole, which no dropped row mends


def lengths(tokens: "array[int]") -> Lengths | None:
    """Sum up examples' tokens; None when there are none. Bars are of one round width; the last takes the few beyond."""
    import numpy as np

    if not tokens:
        return None
    counts = np.sort(np.frombuffer(tokens, np.uint32))
    width = _round_width(int(counts[int(0.99 * (len(counts) - 1))]))
    tallied: list[int] = np.bincount(np.minimum(counts // width, _BARS), minlength=_BARS + 1).tolist()
    first = next(place for place, count in enumerate(tallied) if count)
    last = max(place for place, count in enumerate(tallied) if count)
    bars = [
        Bar(place * width, None if place == _BARS else (place + 1) * width - 1, tallied[place])
        for place in range(first, last + 1)
    ]
    return Lengths(int(counts[0]), int(counts[len(counts) // 2]), int(counts[-1]), bars)


def _round_width(most: int) -> int:
    """The least of 1, 2, 5, 10, 20, .. of which ten reach beyond `most`."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power * _BARS > most:
                return step * power
        power *= 10


def _spoken(message: Message) -> str:
    return f"  {message['role']:<10} {one_line(text_of(message), _SAMPLE_WIDTH)}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_PLACES
    return ", ".join(names[:_SHOWN_PLACES]) + (f" and {more:,} more" if more > 0 else "")
