"""Rows become a polars frame for those who work with polars; nobody else needs it to be installed."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tidemill.models.errors import InputError
from tidemill.producer.batches.results import RESULT_COLUMNS, Chunks

if TYPE_CHECKING:
    import polars as pl

_WHOLE_NUMBERS = ("input_tokens", "output_tokens", "attempts")
_FRACTIONS = ("sentiment_score", "cost_usd")


def to_polars(chunks: Chunks, columns: Sequence[str]) -> "pl.DataFrame":
    """All rows as a polars frame; tokens and attempts are Int64, costs and scores Float64, other results text.

    Args:
        chunks: the rows.
        columns: their names, for a frame without rows.

    Raises:
        InputError: polars is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise InputError("to_polars() needs polars: pip install polars, or use to_frame().") from None
    types: dict[str, Any] = dict.fromkeys(RESULT_COLUMNS, pl.String)
    types |= dict.fromkeys(_WHOLE_NUMBERS, pl.Int64) | dict.fromkeys(_FRACTIONS, pl.Float64)
    rows = list(chain.from_iterable(chunks))
    if not rows:
        return pl.DataFrame(schema={name: types.get(name, pl.String) for name in columns})
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None, strict=False)
