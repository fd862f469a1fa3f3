"""What was spent, saved and wasted is shown on one screen: sums, a table of groups, and a bar for each."""

import sys
from collections.abc import Iterator, Sequence

from tidemill import migrations
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.errors import InputError
from tidemill.models.text import one_line
from tidemill.producer.batches.progress import counted
from tidemill.producer.costing import cost_chart, provider_figures
from tidemill.producer.costing.costs import Costs, Group, Sum, grouping_of, read, row_of, span_of, usd, waste_usd
from tidemill.producer.screen.printing import (
    USUAL_WIDTH,
    print_entries,
    print_json,
    print_line,
    print_table,
    terminal_width,
)
from tidemill.producer.screen.tables import Column, width_of

MOST_GROUPS = 20
"""Groups that are shown one by one; the rest stands in one row. JSON has all of them."""

_WASTE_WORDS = {
    "failed": "failed",
    "refused": "refused or filtered",
    "schema": "broke their schema",
    "stale": "answered too late or twice",
    "lost": "lost or cut off, maybe paid",
}
_USED, _WASTED, _SAVED = "█▓░"
_NARROWEST_BAR = 10
_WIDEST_LABEL = 30


def show(
    batch: str | None,
    *,
    by: str | None,
    since: str | None,
    until: str | None,
    chart: str | None,
    compare: bool,
    as_json: bool,
) -> None:
    """Print what calls have cost, draw it into a file if one is named, and compare it with the provider's figures.

    Raises:
        InputError: there is no such batch, or the chart cannot be written.
        OptionError: `by`, `since` or `until` has a value that it cannot have.
    """
    grouping = grouping_of(by)
    if chart is not None:
        cost_chart.check_name(chart)
    migrations.ensure()
    costs = read(grouping, span_of(batch, since, until))
    figures = provider_figures.look(costs.span) if compare else None
    if as_json:
        print_json(_json(costs) | ({} if figures is None else {"provider": figures.to_json()}))
    else:
        _print(costs)
        for line in figures.lines() if figures else []:
            print_line(line)
    if chart is not None:
        if not costs.groups:
            raise InputError(f"{chart}: there is nothing to draw, since no call was made.")
        cost_chart.save(costs, chart)
        print_line(f"{chart}: {counted(min(len(costs.groups), cost_chart.MOST_BARS), 'bar')} drawn", err=True)


def _json(costs: Costs) -> dict[str, object]:
    unpriced = [{"model": model or None, "calls": calls} for model, calls in costs.unpriced.items()]
    return {
        "by": costs.by,
        "batch": costs.span.batch_id,
        "since": costs.span.since,
        "until": costs.span.until,
        "total": row_of(costs.total, ""),
        "groups": [row_of(group, costs.by) for group in costs.groups],
        "unpriced": unpriced,
    }


def _print(costs: Costs) -> None:
    total = costs.total
    if not total.all.calls:
        print_line(f"No call was made{_span_words(costs)}.", err=True)
        return
    print_entries(list(_sums(costs)))
    if shown := _folded(costs):
        print_line("")
        _print_table(costs.by, shown)
        drawn = bars(shown, terminal_width(sys.stdout) or USUAL_WIDTH)
        for line in ["", *drawn] if drawn else ():
            print_line(line)


def _span_words(costs: Costs) -> str:
    span = costs.span
    words = [f" for {span.batch_id}" if span.batch_id else ""]
    words += [f" since {span.since}" if span.since else "", f" until {span.until}" if span.until else ""]
    return "".join(words)


def _sums(costs: Costs) -> Iterator[tuple[str, str]]:
    total, sums = costs.total, costs.total.all
    calls = counted(sums.calls, "call")
    under_way = f", {total.open.calls:,} of them under way" if total.open.calls else ""
    tokens = f"{format_tokens(sums.input_tokens)} + {format_tokens(sums.output_tokens)} tokens"
    yield "spent", f"{format_usd(sums.spent_usd)}{_span_words(costs)} · {calls}{under_way} · {tokens}"
    if sums.saved_e12:
        standard = sums.spent_e12 + sums.saved_e12
        share = 100 * sums.saved_e12 / standard
        yield (
            "saved",
            f"{format_usd(usd(sums.saved_e12))} of {format_usd(usd(standard))} at standard prices ({share:.0f} %)",
        )
    else:
        yield "saved", "$0.00"
    yield "wasted", f"{format_usd(usd(total.wasted_e12))} of what was spent, for no answer"
    for sort, waste in total.waste.items():
        if waste.calls:
            yield "", _waste_words(sort, waste)
    if sums.maybe_e9:
        yield "", f"calls under a budget may have cost up to {format_usd(sums.maybe_e9 / 10**9)} more"
    if sums.unpriced:
        yield "unpriced", _unpriced_words(costs)


def _waste_words(sort: str, waste: Sum) -> str:
    price = format_usd(waste_usd(sort, waste)) if sort != "lost" or waste.priced else "nobody knows what they cost"
    tokens = f" · {format_tokens(waste.tokens)} tokens" if waste.tokens else ""
    return f"{counted(waste.calls, 'call')} {_WASTE_WORDS[sort]}{tokens} · {price}"


def _unpriced_words(costs: Costs) -> str:
    """Calls that are in no sum of money, by model, and the way out."""
    models = [
        f"{counted(calls, 'call')} of {one_line(model, 60) or 'an unknown model'}"
        for model, calls in costs.unpriced.items()
    ]
    return (
        f"{', '.join(models)}: no price was known, and no sum here has them. TIDEMILL_PRICES names a file of prices "
        "for the calls to come."
    )


# --- groups ---


def _folded(costs: Costs) -> list[Group]:
    """The groups that are shown: the last days, or those that cost most; and the others as one."""
    groups = costs.groups
    if len(groups) <= MOST_GROUPS:
        return groups
    if costs.by == "day":
        earlier = groups[:-MOST_GROUPS]
        return [_together(f"{len(earlier):,} earlier days", earlier), *groups[-MOST_GROUPS:]]
    others = groups[MOST_GROUPS:]
    return [*groups[:MOST_GROUPS], _together(f"{len(others):,} others", others)]


def _together(label: str, groups: Sequence[Group]) -> Group:
    return Group(
        label,
        "",
        Sum.total(group.all for group in groups),
        Sum.total(group.open for group in groups),
        {sort: Sum.total(group.waste[sort] for group in groups) for sort in groups[0].waste},
    )


def _print_table(by: str, groups: Sequence[Group]) -> None:
    columns = [Column(by, 1), Column("calls", 3), Column("tokens in", 5), Column("out", 6), Column("spent", 2)]
    columns += [Column("saved", 4), Column("wasted", 4)]
    has_names = any(group.name for group in groups)
    rows = [
        [
            _label(group),
            *([group.name] if has_names else []),
            f"{group.all.calls:,}",
            format_tokens(group.all.input_tokens),
            format_tokens(group.all.output_tokens),
            format_usd(group.all.spent_usd) + (" + ?" if group.all.unpriced and group.all.priced else ""),
            format_usd(usd(group.all.saved_e12)),
            format_usd(usd(group.wasted_e12)),
        ]
        for group in groups
    ]
    if has_names:
        columns.insert(1, Column("name", 7, is_text=True))
    print_table(columns, rows)


def _label(group: Group) -> str:
    return group.label or "none"


def bars(groups: Sequence[Group], width: int) -> list[str]:
    """A legend, and a bar for each group whose length is what it cost and saved; lines of at most `width` cells."""
    most = max((group.all.spent_e12 + group.all.saved_e12 for group in groups), default=0)
    if not most:
        return []
    labels = [one_line(_label(group), _WIDEST_LABEL) for group in groups]
    beside = max(map(width_of, labels)) + 1
    room = max(_NARROWEST_BAR, width - beside - 1)
    lines = [f"{_USED} spent  {_WASTED} wasted of it  {_SAVED} saved"]
    for label, group in zip(labels, groups, strict=True):
        ends = (group.all.spent_e12 - group.wasted_e12, group.all.spent_e12, group.all.spent_e12 + group.all.saved_e12)
        used, spent, end = (round(room * amount / most) for amount in ends)
        if group.all.spent_e12 > 0 and not spent:
            used = spent = end = max(1, end)  # a little is more than nothing
        bar = _USED * used + _WASTED * (spent - used) + _SAVED * (end - spent)
        lines.append(f"{label}{' ' * (beside - width_of(label))}{bar}".rstrip())
    return lines
