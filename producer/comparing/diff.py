"""Before all rows are paid for, `tidemill diff` shows what another model, prompt or setting would change."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from sqlalchemy import Row, select

from tidemill import migrations
from tidemill.models import bill
from tidemill.models.cost import format_usd
from tidemill.models.database import reading
from tidemill.models.errors import NOT_ALL_SUCCEEDED, InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.money import COST_PLACES
from tidemill.models.scope import Scope
from tidemill.models.settings import settings
from tidemill.models.tables import jobs
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import counted, progress, resolve
from tidemill.producer.batches.results import RESULT_COLUMNS, check_destination, writing
from tidemill.producer.batches.run import follow_batch, stop_like_ctrl_c
from tidemill.producer.batches.stored_rows import PAGE_ROWS, columns_of
from tidemill.producer.batches.submit import check_model, open_batch
from tidemill.producer.comparing import comparison_page
from tidemill.producer.comparing.comparison import Comparison, Pair, likeness
from tidemill.producer.comparing.pairing import SAMPLE, Pairs, pair, side_by_side
from tidemill.producer.comparing.sampling import (
    SAMPLE_ROWS,
    Change,
    Price,
    Sample,
    about,
    order_of,
    price_of,
    sampled_batch,
)
from tidemill.producer.comparing.side_by_side import columns_of_file, row_of_file, show
from tidemill.producer.screen import web_page
from tidemill.producer.screen.display import Ticker, display, say
from tidemill.producer.screen.printing import print_json, print_line

KINDS = ("ask", "describe")
"""Kinds of batches whose rows have a prompt and a reply."""


class Terms(NamedTuple):
    """What a comparison is about besides the first batch, and where it goes."""

    other: str | None = None
    change: Change = Change({})
    sample: int | None = None
    seed: int = 0
    new: bool = False
    rows: int = 10
    output: str | None = None
    escape_formulas: bool = False
    window: int | None = None
    dry_run: bool = False
    as_json: bool = False


def diff(batch_name: str, terms: Terms) -> None:
    """Compare a batch with another, or with a sample of its rows that is asked with a change.

    Raises:
        InputError: the two have nothing in common, or it is not said what to compare.
    """
    if terms.output is not None:
        _check_destination(terms.output)
    _check_terms(terms)
    migrations.ensure()
    batch = _comparable(batch_name)
    if terms.other is None:
        # `latest` is the sample itself once that was asked, and the same command is to go on with it.
        of = sampled_batch(batch.source) if batch_name == "latest" else None
        return _with_sample(batch if of is None else _comparable(of), terms)
    other = _comparable(terms.other)
    if batch.id == other.id:
        raise InputError(f"Both are {batch.id}; name another batch to compare it with. `tidemill status` lists them.")
    _report(pair(batch.id, other.id), terms, None)
    return None


def _check_terms(terms: Terms) -> None:
    is_sample = terms.sample is not None or not terms.change.is_nothing
    if terms.other is not None and (is_sample or terms.change.options or terms.dry_run or terms.new):
        raise InputError("Two batches are compared as they are: drop the second one, or the flags that ask something.")
    if terms.other is None and not is_sample:
        raise InputError(
            "Name a second batch, or what to ask otherwise: tidemill diff latest --model gpt-6-terra --sample 50"
        )


def _comparable(name: str) -> Row[Any]:
    batch = resolve(name)
    if batch.kind not in KINDS:
        raise InputError(f"{batch.id} is of the kind {batch.kind}, and has no answers that could be compared.")
    return batch


def _check_destination(path: str) -> None:
    """Raise InputError when a comparison cannot be written there; called before any paid work."""
    if web_page.is_named(path):
        return web_page.check_destination(path, comparison_page.NOUN)
    if Path(path).suffix.lower() not in (".jsonl", ".csv"):
        raise InputError(f"{path!r} has no known ending; name the comparison .html, .jsonl or .csv.")
    return check_destination(path)


# --- a sample ---


class Projection(NamedTuple):
    """What all rows would cost with the change, in USD, beside what they have cost."""

    rows: int
    sample: int
    sample_usd: float | None
    before_usd: float | None
    saved_usd: float | None = None
    """What the batch saved by its route, so that online it would have cost more. A sample is asked online."""

    @property
    def usd(self) -> float | None:
        """The cost of a row of the sample, times all rows."""
        return None if self.sample_usd is None else self.sample_usd / self.sample * self.rows

    def to_json(self) -> JsonObject:
        """For scripts."""
        usd = None if self.usd is None else round(self.usd, COST_PLACES)
        return {**self._asdict(), "all_usd": usd}

    def text(self) -> str:
        """For people."""
        before = f"before, all {counted(self.rows, 'row')} cost {format_usd(self.before_usd)}"
        if self.saved_usd:
            before += f", {format_usd(self.saved_usd)} less than online, where the sample was asked"
        if self.usd is None:
            return f"What all rows would cost with the change is not known, for the price is not; {before}."
        return f"With the change all rows would cost {about(self.usd)}; {before}."


def _with_sample(batch: Row[Any], terms: Terms) -> None:
    order = order_of(batch, terms.change, terms.sample or SAMPLE_ROWS, terms.seed, new=terms.new)
    assert isinstance(order.rows, Sample)
    before = progress(Scope(batch.id))
    price = price_of(order)
    if terms.dry_run:
        check_model(order)
        return _print_price(price, before.rows, terms.as_json)
    say(price.text(before.rows))
    pairs = _asked(order, terms)
    cost = None if before.unpriced else before.cost_usd
    with reading() as connection:
        saved = bill.saved_usd(connection, batch.id)
    done = _report(pairs, terms, lambda done: Projection(before.rows, len(pairs), done.sides[1].usd, cost, saved))
    if done.sides[1].statuses.keys() - {"succeeded"}:
        raise typer.Exit(NOT_ALL_SUCCEEDED)
    return None


def _print_price(price: Price, rows: int, as_json: bool) -> None:
    if as_json:
        return print_json(price.to_json())
    print_line(price.text(rows))
    print_line("Nothing was sent.")
    return None


def _asked(order: Order, terms: Terms) -> Pairs:
    """Ask a sample, or go on with it, and say which of its rows is which."""
    assert isinstance(order.rows, Sample)
    if not settings().embedded:
        from tidemill.models import broker  # with it comes Celery, a tenth of a second of CPU

        broker.refuse_unsupported()
    stop_like_ctrl_c()
    opened = open_batch(order)
    opened.tally.keys = []
    batch = Batch(opened.batch_id, opened.submission)
    follow_batch(batch, opened, terms.window, display(quiet=terms.as_json))
    by_key: dict[str, int] = {}
    keys = [key for _, key in opened.tally.keys]
    for start in range(0, len(keys), PAGE_ROWS):
        some = keys[start : start + PAGE_ROWS]
        with reading() as connection:
            rows = connection.execute(
                select(jobs.c.key, jobs.c.id).where(jobs.c.batch_id == batch.id, jobs.c.key.in_(some))
            )
            by_key |= {row.key: row.id for row in rows}
    ids = np.array([by_key[key] for key in keys], dtype=np.int64)
    return Pairs((order.rows.batch_id, batch.id), (order.rows.ids, ids), SAMPLE)


# --- what is told of it ---


def _report(pairs: Pairs, terms: Terms, project: Callable[[Comparison], Projection] | None) -> Comparison:
    comparison = _compared(pairs, terms)
    projection = None if project is None else project(comparison)
    if terms.output is not None and web_page.is_named(terms.output):
        shown = side_by_side(pairs.at(comparison.most_different(comparison_page.MOST_ROWS, same=True)))
        told = "" if projection is None else projection.text()
        comparison_page.write(terms.output, pairs, comparison, shown, told)
    most = side_by_side(pairs.at(comparison.most_different(terms.rows)))
    if terms.as_json:
        print_json(_as_json(pairs, comparison, projection, most))
        return comparison
    show(pairs, comparison, most)
    if projection is not None:
        print_line("")
        print_line(projection.text())
    if terms.output is not None:
        print_line(f"{terms.output}: the comparison.", err=True)
    return comparison


def _compared(pairs: Pairs, terms: Terms) -> Comparison:
    """Compare all pairs, and write them on the way where a file of rows is wanted."""
    is_page = terms.output is not None and web_page.is_named(terms.output)
    comparison = Comparison(max(terms.rows, comparison_page.MOST_ROWS) if is_page else terms.rows)
    ticker = Ticker("compared")
    with ExitStack() as stack:
        put = None
        if terms.output is not None and not is_page:
            inputs = [name for name in columns_of(pairs.batches[0]) if name not in RESULT_COLUMNS]
            columns = columns_of_file(inputs)
            put = stack.enter_context(writing(terms.output, columns, escape_formulas=terms.escape_formulas))
        for page in side_by_side(pairs):
            rows = [row_of_file(each, comparison.add(each)) for each in page]
            if put is not None:
                put(rows)
            ticker(comparison.pairs)
    return comparison


def _as_json(
    pairs: Pairs, comparison: Comparison, projection: Projection | None, most: Iterator[list[Pair]]
) -> JsonObject:
    told = comparison.to_json()
    rows = [row_of_file(each, likeness(*(answer.text for answer in each.answers))) for page in most for each in page]
    return {
        "matched_by": pairs.way,
        **told,
        **{
            side: {"batch": batch, "rows_of_its_own": only, **told[side]}
            for side, batch, only in zip("ab", pairs.batches, pairs.only, strict=True)
        },
        "sample": None if projection is None else projection.to_json(),
        "rows": rows,
    }
