"""A fine-tune reports its numbers in three ways (result file, events, checkpoints), and the curves need one."""

import base64
import binascii
import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

STEP = "step"
_FIELDS = {
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "train_mean_token_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "validation_loss": "valid_loss",
    "valid_accuracy": "valid_accuracy",
    "valid_mean_token_accuracy": "valid_accuracy",
    "validation_mean_token_accuracy": "valid_accuracy",
    "full_valid_loss": "full_valid_loss",
    "full_valid_accuracy": "full_valid_accuracy",
    "full_valid_mean_token_accuracy": "full_valid_accuracy",
}
"""What servers call a number -> the field of `Point`; other names are ignored."""


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one step: losses from 0, accuracies from 0 to 1, None for what was not measured.

    `valid_` is measured on a part of the validation file, `full_valid_` on all of it, mostly at the end of an epoch.
    """

    step: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_accuracy: float | None = None


def points_of(content: bytes) -> list[Point]:
    """The points of a result file, sorted, one a step; rows without a number are left out.

    `content` is CSV with a column `step`, or that CSV in base64, as some servers send it. Raises ValueError with one
    sentence when it is neither, or when a step is not a whole number.
    """
    lines = _lines(content)
    try:
        table = csv.reader(lines, skipinitialspace=True)
        names = _names(next(table))
        rows = [
            (table.line_num, dict(zip(names, cells, strict=False))) for cells in table if any(map(str.strip, cells))
        ]
    except csv.Error as error:
        raise ValueError(f"The result file is not sound CSV ({error}).") from error
    for line, row in rows:
        if _step(row.get(STEP)) is None:
            raise ValueError(
                f"Line {line} of the result file has no whole number as its step: {row.get(STEP, '')[:40]!r}."
            )
    return merge(point for _, row in rows if (point := point_of_event(row)))


def point_of_event(data: Mapping[str, object]) -> Point | None:
    """The point of a metrics event's `data`, a checkpoint's `metrics` (with a step) or a row; None without numbers."""
    step = _step(data.get(STEP))
    known = {_FIELDS[name]: value for name in data if name in _FIELDS and (value := _number(data[name])) is not None}
    return Point(step, **known) if step is not None and known else None


def merge(points: Iterable[Point]) -> list[Point]:
    """One point a step, sorted; of two numbers for the same field the later one counts."""
    merged: dict[int, Point] = {}
    for point in points:
        known = {each.name: value for each in fields(point) if (value := getattr(point, each.name)) is not None}
        merged[point.step] = replace(merged.get(point.step, point), **known)
    return [merged[step] for step in sorted(merged)]


def _lines(content: bytes) -> list[str]:
    """The lines of the CSV, whose first one is a header with a step."""
    for decoded in (_text(content), _text(_from_base64(content))):
        lines = decoded.splitlines()
        if lines and STEP in _names(lines[0].split(",")):
            return lines
    start = content[:40].decode("utf-8", "replace")
    raise ValueError(
        f"The result file is neither CSV with a column named step nor such CSV in base64; it begins {start!r}."
    )


def _names(header: Iterable[str]) -> list[str]:
    return [name.strip().strip('"').lower() for name in header]


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", "replace").strip()


def _from_base64(content: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(content.split()).strip(b'"'), validate=True)
    except binascii.Error:
        return b""


def _step(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number < 2**53 else None


def _number(value: object) -> float | None:
    """A finite number, also one in text; None for everything else (an empty cell, NaN, infinity, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
