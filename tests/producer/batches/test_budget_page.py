"""`tidemill budget` shows and changes caps, and each sentence says how things stand then."""

import json

import pytest

from tests.rows import add_batch, add_jobs, put, success, take
from tidemill.models import budgets
from tidemill.models.bookings import DAY
from tidemill.models.database import reading
from tidemill.models.errors import InputError, OptionError
from tidemill.producer.batches.budget_page import budget
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.cli import commands

NO_AMOUNTS = (
    "NaN",
    "-5",
    "5 USD",
    "1e400",
    "",
    "abc",
    "inf",
    "5,50",
    "1e-400000",
    "०",
    "0x10",
    "1_0",
    "5.5.5",
    "$",
    ".",
)
GOOD_AMOUNTS = {"5": 5.0, "$5": 5.0, "0.50": 0.5, "0": 0.0, "1e-9": 1e-9, "1,000": 1000.0, ".5": 0.5, "1E+2": 100.0}


def said(capsys: pytest.CaptureFixture[str], *words: str | None) -> str:
    what, amount = (*words, None, None)[:2]
    budget(what, amount, as_json=False)
    return capsys.readouterr().out.rstrip("\n")


@pytest.mark.usefixtures("database")
def test_caps_are_set_shown_changed_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch("reviews-3f9a1c")
    for job in take(add_jobs(2, "reviews-3f9a1c")):
        put(success(job))
    assert said(capsys, "latest") == "reviews-3f9a1c: no budget. `tidemill budget reviews-3f9a1c 10` sets one."
    assert said(capsys, "latest", "5") == "reviews-3f9a1c: budget $5.00; $0.50 spent, $4.50 left."
    assert said(capsys, "rev", "10") == "reviews-3f9a1c: budget $10.00; $0.50 spent, $9.50 left. It was $5.00."
    assert said(capsys, "rev", "0.1") == (
        "reviews-3f9a1c: budget $0.10; $0.50 spent, which is more already: no more calls begin, and those in flight "
        "end. It was $10.00."
    )
    assert said(capsys, "day", "20") == "each day (UTC): budget $20.00; $0.50 spent today, $19.50 left."
    assert said(capsys, "fleet", "100") == "all batches: budget $100.00; $0.50 spent, $99.50 left."
    assert said(capsys, "day").startswith("each day (UTC): budget $20.00; ")
    with reading() as connection:
        today = next(each.name for each in budgets.read_all(connection) if each.kind == DAY)
    head, *rows = said(capsys).splitlines()
    assert head.split() == ["budget", "cap", "spent", "reserved", "maybe", "spent", "left"]
    assert [row.split()[:2] for row in rows] == [["day", today], ["all", "(fleet)"], ["reviews-3f9a1c", "$0.10"]]
    budget(None, None, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [(each["kind"], each["cap_usd"], each["left_usd"]) for each in listed] == [
        *(("batch", 0.1, 0.0), ("day", 20.0, 19.5), ("fleet", 100.0, 99.5))
    ]
    assert said(capsys, "latest", "none") == "reviews-3f9a1c: no budget any more."
    assert said(capsys, "latest", "NONE") == "reviews-3f9a1c: had no budget."
    assert said(capsys, "day", "none") == "each day (UTC): no budget any more."
    assert said(capsys, "forgive") == "nothing is in doubt; there is nothing to forgive."
    assert said(capsys, "forgive", "rev").startswith("reviews-3f9a1c: nothing is in doubt")
    with pytest.raises(InputError, match="There is no batch 'nobody'"):
        budget("nobody", "5", as_json=False)


@pytest.mark.usefixtures("database")
def test_forgiving_too_early_says_what_may_be_in_doubt_soon(capsys: pytest.CaptureFixture[str]) -> None:
    add_batch("reviews-3f9a1c")
    said(capsys, "latest", "500")
    take(add_jobs(1, "reviews-3f9a1c"))
    with reading() as connection:
        (own,) = budgets.read_all(connection)
    assert own.reserved > 0
    assert said(capsys, "latest", "0.0001").endswith(
        " reserved: no more calls begin until those under way give some back. It was $500.00."
    )
    said(capsys, "latest", "500")
    told = said(capsys, "forgive", "latest")
    assert "nothing to forgive. $" in told
    assert "is reserved for calls under way; those of a killed process are in doubt once" in told


@pytest.mark.usefixtures("embedded_home")
@pytest.mark.parametrize("is_json", [False, True])
def test_a_batch_whose_name_is_day_or_fleet_is_reached_by_its_id(
    capsys: pytest.CaptureFixture[str], is_json: bool
) -> None:
    add_batch("day-3f9a1c")
    add_batch("fleet-3f9a1c")
    budget("day-", "5", as_json=is_json)
    budget("fleet-3", "6", as_json=is_json)
    budget("latest", None, as_json=is_json)
    with reading() as connection:
        caps = {each.name: each.cap for each in budgets.read_all(connection)}
    assert caps == {"day-3f9a1c": 5 * 10**9, "fleet-3f9a1c": 6 * 10**9}


@pytest.mark.parametrize("amount", NO_AMOUNTS)
def test_what_is_no_amount_is_a_sentence(amount: str) -> None:
    with pytest.raises(OptionError, match=r"write US dollars as a number, such as 5 or 0\.50"):
        spending_of(amount)
    with pytest.raises(InputError, match=r"is no budget: write US dollars as a number, such as 5 or 0\.50"):
        budget("fleet", amount, as_json=False)


@pytest.mark.usefixtures("embedded_home")
@pytest.mark.parametrize(
    ("what", "amount", "sentence"),
    [
        (
            "5",
            None,
            "5 is an amount, and what it is for comes first: `tidemill budget latest 5` or `tidemill budget day 5`",
        ),
        ("none", None, "`tidemill budget latest none` or "),
        ("5", "6", "`tidemill budget latest 5` or "),
        ("0.5", "latest", "0.5 is an amount, and what it is for comes first: `tidemill budget latest 0.5`."),
        (
            "forgive",
            "day",
            "'day' is no batch; behind `forgive` stands a batch, or nothing: `tidemill budget forgive` is",
        ),
        ("forgive", "5", "'5' is no batch; behind `forgive` stands"),
        ("forgive", "nobody", "There is no batch 'nobody'"),
    ],
)
def test_words_in_the_wrong_place_are_told_the_right_one(what: str, amount: str | None, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        budget(what, amount, as_json=False)
    assert sentence in str(error.value)


@pytest.mark.parametrize("typed", [["budget", "fleet"], ["ask", "Why?", "--budget"], ["train", "x", "--budget"]])
def test_every_command_ends_with_2_where_the_budget_is_no_amount(
    typed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for amount in ("-5", ""):
        monkeypatch.setattr("sys.argv", ["tidemill", *typed, amount])
        assert commands.run() == 2
        err = capsys.readouterr().err
        assert err.startswith("tidemill: ")
        assert (err.count("\n"), "write US dollars as a number" in err) == (1, True)


@pytest.mark.parametrize(("amount", "usd"), GOOD_AMOUNTS.items())
def test_an_amount_may_be_written_in_several_ways(amount: str, usd: float) -> None:
    assert spending_of(amount).budget_usd_e9 == round(usd * 1e9)
