"""People ask what something cost in many ways, and all of them are one list of lines, added up by another name.

Amounts are added as whole numbers of 1e-12 USD, and become USD only in what is handed out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import TypedDict

from sqlalchemy import select

from tidemill import migrations
from tidemill.models import bill
from tidemill.models.bill import UNITS, Line, Span
from tidemill.models.database import reading
from tidemill.models.durations import seconds_of
from tidemill.models.errors import InputError, OptionError
from tidemill.models.rereading import reread_settings
from tidemill.models.routes import ONLINE
from tidemill.models.tables import kept_costs
from tidemill.producer.batches import off_the_loop
from tidemill.producer.batches.progress import resolve

LONG_SECONDS = 600.0
"""How long the database may take: all calls of years are read."""

GROUPINGS = ("batch", "model", "route", "day", "assistant", "kind", "provider")

WASTE = {
    "failed": ("failed", "retried", "held", "cancelled"),
    "refused": (bill.REFUSED,),
    "schema": (bill.SCHEMA,),
    "stale": ("stale",),
    "lost": (bill.LOST,),
}
"""Sort of waste -> the fates of calls that belong to it: money for which there is no answer."""

_WASTED = {fate: sort for sort, fates in WASTE.items() for fate in fates}


class CostRow(TypedDict, total=False):
    """What the calls of one group came to; the group's own name stands under the name of the grouping.

    Amounts are US dollars; `..._e12` are the same as whole numbers of 1e-12 USD, whose sums are exact. None is an
    amount of which nothing is known. Of each sort of waste there are its calls, tokens and USD.
    """

    batch: str
    name: str
    model: str
    route: str
    day: str
    assistant: str | None
    kind: str
    provider: str
    calls: int
    open_calls: int
    input_tokens: int
    output_tokens: int
    spent_usd: float | None
    saved_usd: float
    wasted_usd: float
    maybe_usd: float
    unpriced_calls: int
    failed_calls: int
    failed_tokens: int
    failed_usd: float | None
    refused_calls: int
    refused_tokens: int
    refused_usd: float | None
    schema_calls: int
    schema_tokens: int
    schema_usd: float | None
    stale_calls: int
    stale_tokens: int
    stale_usd: float | None
    lost_calls: int
    lost_tokens: int
    lost_usd: float | None
    spent_usd_e12: int
    saved_usd_e12: int
    wasted_usd_e12: int


@dataclass(frozen=True, slots=True)
class Sum:
    """What some lines come to."""

    calls: int
    input_tokens: int
    output_tokens: int
    spent_e12: int
    saved_e12: int
    priced: int
    unpriced: int
    maybe_e9: int

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Sum":
        """Add them up."""
        columns = list(zip(*([getattr(line, name) for name in bill.SUMS] for line in lines), strict=True))
        return cls(*map(sum, columns)) if columns else cls(*[0] * len(bill.SUMS))

    @classmethod
    def total(cls, sums: Iterable["Sum"]) -> "Sum":
        """Add up sums."""
        return cls(*map(sum, zip(*map(astuple, sums), strict=True)))

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.input_tokens + self.output_tokens

    @property
    def spent_usd(self) -> float | None:
        """None while nothing of it is known: calls at unknown prices cost something."""
        return None if self.unpriced and not self.priced else usd(self.spent_e12)


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that have the same of what was asked by; `label` names it, `name` is more about it."""

    label: str
    name: str
    all: Sum
    open: Sum
    waste: dict[str, Sum]

    @property
    def wasted_e12(self) -> int:
        """All waste whose price is known."""
        return sum(each.spent_e12 for each in self.waste.values())


@dataclass(frozen=True, slots=True)
class Costs:
    """What all calls of a span came to, and what those of each group did."""

    by: str
    span: Span
    total: Group
    groups: list[Group]
    unpriced: dict[str, int]
    """Model without a price -> calls."""


def usd(amount_e12: int) -> float:
    """The USD nearest to an amount; written as a decimal it is the amount to the nano-dollar, up to a million."""
    return amount_e12 / UNITS


def read(by: str | None = None, span: Span | None = None) -> Costs:
    """Add up what the database knows; by day where nobody says by what, and one batch by model."""
    span = span or Span()
    by = by or ("day" if span.batch_id is None else "model")
    with reading(LONG_SECONDS) as connection:
        lines = bill.read(connection, span)
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(_label(line, by), []).append(line)
    unpriced = Counter[str]()
    for line in lines:
        if line.unpriced:
            unpriced[line.model] += line.unpriced
    grouped = [_group(label, of_one, by) for label, of_one in groups.items()]
    grouped.sort(key=(lambda each: (each.label,)) if by == "day" else (lambda each: (-each.all.spent_e12, each.label)))
    return Costs(by, span, _group("", lines, by), grouped, dict(sorted(unpriced.items())))


def _label(line: Line, by: str) -> str:
    value = line.batch_id if by == "batch" else getattr(line, by)
    return str(value or (ONLINE if by == "route" else ""))


def _group(label: str, lines: Sequence[Line], by: str) -> Group:
    waste: dict[str, list[Line]] = {sort: [] for sort in WASTE}
    for line in lines:
        if line.fate in _WASTED:
            waste[_WASTED[line.fate]].append(line)
    return Group(
        label,
        lines[0].batch if by == "batch" and label else "",
        Sum.of(lines),
        Sum.of(line for line in lines if line.fate == bill.OPEN),
        {sort: Sum.of(of_one) for sort, of_one in waste.items()},
    )


def row_of(group: Group, by: str) -> CostRow:
    """A group in one flat row, for scripts and frames; of the total, whose label is empty, without a name."""
    row: dict[str, object] = {by: group.label or None} if by else {}
    if by == "batch":
        row["name"] = group.name
    sums = group.all
    row |= {
        "calls": sums.calls,
        "open_calls": group.open.calls,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "spent_usd": sums.spent_usd,
        "saved_usd": usd(sums.saved_e12),
        "wasted_usd": usd(group.wasted_e12),
        "maybe_usd": sums.maybe_e9 / 10**9,
        "unpriced_calls": sums.unpriced,
    }
    for sort, waste in group.waste.items():
        row |= {f"{sort}_calls": waste.calls, f"{sort}_tokens": waste.tokens, f"{sort}_usd": waste_usd(sort, waste)}
    row |= {"spent_usd_e12": sums.spent_e12, "saved_usd_e12": sums.saved_e12, "wasted_usd_e12": group.wasted_e12}
    return row  # type: ignore[return-value]  # the names are those of the type, which a test compares


def waste_usd(sort: str, waste: Sum) -> float | None:
    """USD of one sort of waste; None where nothing is known of it, as of lost calls: they may have been paid."""
    is_unknown = waste.calls > 0 and not waste.priced and (sort == "lost" or waste.unpriced > 0)
    return None if is_unknown else usd(waste.spent_e12)


# --- what is asked for ---


def grouping_of(by: str | None) -> str | None:
    """A grouping as somebody names it. Raises OptionError."""
    if by is not None and by not in GROUPINGS:
        raise OptionError("by", by, f"it must be {', '.join(GROUPINGS[:-1])} or {GROUPINGS[-1]}.")
    return by


def span_of(batch: str | None = None, since: str | None = None, until: str | None = None) -> Span:
    """The calls that are meant.

    Args:
        batch: the id of a batch, the beginning of one, or `latest`; of a deleted one its whole id.
        since: the first day, in UTC, such as 2026-11-01, or how long ago it was, such as 7d.
        until: the last day, in the same way.

    Raises:
        InputError: there is no such batch.
        OptionError: a day cannot be read.
    """
    first, last = _day("since", since), _day("until", until)
    if first is not None and last is not None and last < first:
        raise OptionError("until", until, f"it is before {first}, where the days begin.")
    return Span(None if batch is None else _batch_id(batch), first, last)


def _batch_id(name: str) -> str:
    try:
        return str(resolve(name).id)
    except InputError:
        with reading() as connection:
            kept = connection.scalar(select(kept_costs.c.batch_id).where(kept_costs.c.batch_id == name).limit(1))
        if kept is None:
            raise
        return str(kept)


def _day(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.astimezone(UTC) if at.tzinfo else at
    except ValueError:
        try:
            at = datetime.now(UTC) - timedelta(seconds=seconds_of(text))
        except (ValueError, OverflowError):
            why = "write a day such as 2026-11-01 (UTC), or how long ago it was, such as 7d."
            raise OptionError(option, text, why) from None
    return f"{at:%Y-%m-%d}"


def costs(
    by: str | None = None, *, batch: str | None = None, since: str | None = None, until: str | None = None
) -> list[CostRow]:
    """What calls have cost, one row for each group; `pandas.DataFrame` and `polars.DataFrame` take the list as it is.

        pandas.DataFrame(tidemill.costs(by="model", since="7d"))

    Args:
        by: `batch`, `model`, `route`, `day`, `assistant`, `kind` or `provider`; None: by day, and one batch by model.
        batch: only this one: its id, the beginning of that, or `latest`.
        since: the first day, in UTC, such as "2026-11-01", or how long ago it was, such as "7d".
        until: the last day, in the same way.

    Raises:
        InputError: there is no such batch.
        OptionError: `by`, `since` or `until` has a value that it cannot have.
    """
    reread_settings()
    grouping = grouping_of(by)
    migrations.ensure()
    result = read(grouping, span_of(batch, since, until))
    return [row_of(group, result.by) for group in result.groups]


acosts = off_the_loop.off_the_loop(costs)
