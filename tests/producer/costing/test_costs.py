"""The same calls by each name that somebody may ask for, on a screen, as a picture, as JSON and in Python."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import tidemill
from tests.rows import MODEL, add_batch, add_jobs, failure, put, success, take
from tidemill.models.bill import Span
from tidemill.models.errors import InputError, OptionError
from tidemill.producer.costing import cost_chart, cost_page
from tidemill.producer.costing.costs import GROUPINGS, CostRow, Group, Sum, read, row_of, span_of

pytestmark = pytest.mark.usefixtures("embedded_home")


@pytest.fixture
def calls(embedded_home: Path) -> None:
    """Two batches: one answered by flex at half the price, one online with several sorts of waste."""
    add_batch("cheap-1", name="cheap")
    for job in take(add_jobs(2, "cheap-1")):
        put(success(job, cost_usd=0.25, standard_usd=0.5, route="flex"))
    add_batch("dear-1", name="dear")
    first, second, third, fourth = take(add_jobs(4, "dear-1"))
    put(success(first, cost_usd=1.0, standard_usd=1.0))
    put(failure(second, error_code="schema_mismatch", cost_usd=0.125, input_tokens=7, output_tokens=1))
    put(failure(third, error_code="refused", input_tokens=5, output_tokens=1))
    put(failure(fourth, "retried", error_code="timeout"))


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("by", "spent"),
    [
        ("batch", {"dear-1": 1.125, "cheap-1": 0.5}),
        ("model", {MODEL: 1.625}),
        ("route", {"online": 1.125, "flex": 0.5}),
        ("assistant", {None: 1.625}),
        ("kind", {"ask": 1.625}),
        ("provider", {"api.openai.com/v1": 1.625}),
    ],
)
def test_what_was_spent_is_grouped_by_what_is_asked(by: str, spent: dict[str | None, float]) -> None:
    rows = tidemill.costs(by)
    assert {row[by]: row["spent_usd"] for row in rows} == spent  # type: ignore[literal-required]
    assert sum(row["spent_usd_e12"] for row in rows) == 1_625 * 10**9


@pytest.mark.usefixtures("calls")
def test_a_row_has_what_its_type_says() -> None:
    (row,) = tidemill.costs(batch="dear")
    assert row.keys() <= CostRow.__annotations__.keys()
    assert {*GROUPINGS, "name", *row_of(read().total, "")} == CostRow.__annotations__.keys()
    assert {name: value for name, value in row.items() if name.startswith(("schema", "refused", "lost"))} == {
        "schema_calls": 1, "schema_tokens": 8, "schema_usd": 0.125,
        "refused_calls": 1, "refused_tokens": 6, "refused_usd": None,
        "lost_calls": 1, "lost_tokens": 0, "lost_usd": None,
    }  # fmt: skip
    assert (row["unpriced_calls"], row["wasted_usd"], row["saved_usd"]) == (1, 0.125, 0.0)


@pytest.mark.parametrize(("option", "value"), [("by", "hour"), ("since", "soon"), ("until", "2026-13-01")])
def test_what_cannot_be_meant_is_refused(option: str, value: str) -> None:
    with pytest.raises(OptionError, match=option):
        tidemill.costs(**{option: value})


def test_days_may_be_said_as_dates_and_as_how_long_ago() -> None:
    assert span_of(None, "2026-11-01", "2026-11-30T23:00:00-05:00") == Span(None, "2026-11-01", "2026-12-01")
    assert span_of(None, "7d").since == span_of(None, "168h").since
    with pytest.raises(OptionError, match="before 2026-11-02"):
        span_of(None, "2026-11-02", "2026-11-01")
    with pytest.raises(InputError, match="no batch 'nowhere'"):
        span_of("nowhere")


def show(by: str | None = None, *, as_json: bool = False) -> None:
    cost_page.show(None, by=by, since=None, until=None, chart=None, compare=False, as_json=as_json)


@pytest.mark.usefixtures("calls")
def test_the_screen_says_what_was_spent_saved_and_wasted(capsys: pytest.CaptureFixture[str]) -> None:
    show("route")
    out = capsys.readouterr().out
    assert "$1.625 · 6 calls · 42 + 17 tokens" in out
    assert "saved     $0.50 of $2.125 at standard prices (24 %)" in out
    assert "wasted    $0.125 of what was spent" in out
    assert "1 call broke their schema · 8 tokens · $0.125" in out
    assert "1 call refused or filtered · 6 tokens · unknown price" in out
    assert "1 call lost or cut off, maybe paid · nobody knows" in out
    assert f"1 call of {MODEL}: no price was known" in out
    assert "TIDEMILL_PRICES" in out
    assert max(map(len, out.splitlines()[-3:])) <= 80


@pytest.mark.usefixtures("calls")
def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    show("batch", as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["unpriced"] == [{"model": MODEL, "calls": 1}]
    assert [(group["batch"], group["name"]) for group in said["groups"]] == [("dear-1", "dear"), ("cheap-1", "cheap")]
    assert said["total"]["spent_usd_e12"] == sum(group["spent_usd_e12"] for group in said["groups"])


def test_nothing_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    show()
    assert capsys.readouterr().err == "No call was made.\n"


def many(count: int) -> Iterator[Group]:
    for number in range(count):
        spent, saved = (number + 1) * 10**10, number * 10**9
        yield Group(f"<b{number}>", "", Sum(1, 1, 1, spent, saved, 1, 0, 0), Sum.of([]), {"failed": Sum.of([])})


def test_bars_are_as_long_as_what_was_spent_and_saved_and_fit_the_screen() -> None:
    groups = list(many(9))
    _, *bars = cost_page.bars(groups, 60)
    assert max(map(len, bars)) <= 60
    lengths = [bar.count("█") for bar in bars]
    assert lengths == sorted(lengths)
    assert bars[-1].count("░") == round(lengths[-1] * 8 / 90)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("by", GROUPINGS)
def test_a_picture_has_a_bar_for_each_group_and_stands_alone(by: str) -> None:
    costs = read(by)
    picture = ElementTree.fromstring(cost_chart.draw(costs))
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert f"Costs by {by}" in texts
    assert {group.label or "none" for group in costs.groups} <= set(texts)


def test_a_picture_is_an_svg() -> None:
    for name in ("c.png", ""):
        with pytest.raises(InputError, match=rf"^'{name}': a chart of costs is an \.svg file"):
            cost_page.show(None, by=None, since=None, until=None, chart=name, compare=False, as_json=False)
