"""What became of a row, and what a batch waits for, is told in one place: nobody should have to look into tables.

The name decides what is explained. `17` and `job 17` are a job, as the log has it; `BATCH:12` is row 12 of the input,
from 1; `BATCH:id` is the row with that custom_id; all else is a batch.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from tidemill import migrations
from tidemill.models import ledger, shared_limits
from tidemill.models.cost import format_tokens, format_usd
from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.durations import in_words
from tidemill.models.errors import InputError
from tidemill.models.routes import ONLINE
from tidemill.models.settings import settings
from tidemill.models.text import one_line
from tidemill.producer.batches import outlook as outlooks
from tidemill.producer.batches import row_events, row_life
from tidemill.producer.batches.outlook import Outlook
from tidemill.producer.batches.progress import counted, resolve
from tidemill.producer.batches.reasons import Reason, until
from tidemill.producer.batches.row_events import Event
from tidemill.producer.batches.row_life import Life
from tidemill.producer.screen.printing import print_entries, print_json, print_line

_JOB = re.compile(r"(?:job )? *([0-9]+)")
_NUMBER = re.compile(r"[0-9]+")
_EXAMPLE_CHARACTERS = 160
_MOST_EVENTS, _FIRST_EVENTS = 60, 10
"""What is shown of a very long life: its beginning and its end."""
_PROMPT_CHARACTERS = 66
"""One line of a terminal of 80 columns."""
_Entry = tuple[str, str]


def explain(name: str, as_json: bool) -> None:
    """Explain a row or a batch.

    Raises:
        InputError: there is no such row or batch.
    """
    migrations.ensure()
    name = name.strip()
    batch_name, colon, row = name.partition(":")
    if (job := _JOB.fullmatch(name)) is not None:
        _explain_row(int(job[1]), as_json)
    elif colon:
        _explain_row(_job_of(batch_name.strip(), row.strip()), as_json)
    else:
        _explain_batch(name, as_json)


def _job_of(batch_name: str, row: str) -> int:
    """The job of a row, by its number in the input or its custom_id."""
    batch_id = resolve(batch_name).id
    with reading(LONG_SECONDS) as connection:
        if _NUMBER.fullmatch(row):
            position = min(int(row), ledger.LAST_ID) - 1
            job_id = ledger.job_at(connection, batch_id, position)
            namesakes = [] if job_id is None else [job_id]
        else:
            namesakes = ledger.jobs_called(connection, batch_id, row)
    if len(namesakes) == 1:
        return namesakes[0]
    if not namesakes:
        kind = "row" if _NUMBER.fullmatch(row) else "row with the custom_id"
        raise InputError(f"{batch_id} has no {kind} {row!r}. `tidemill results {batch_id}` shows its rows, from 1.")
    jobs = ", ".join(map(str, namesakes))
    raise InputError(f"{batch_id} has several rows with the custom_id {row!r}: jobs {jobs}. Name one of these jobs.")


# --- a row ---


def _explain_row(job_id: int, as_json: bool) -> None:
    with reading() as connection:
        life = row_life.load(connection, job_id)
    if life is None:
        raise InputError(f"There is no job {job_id}. Name a row of a batch, such as latest:1, or a job of the log.")
    if as_json:
        return print_json(row_events.to_json(life))
    print_line(_heading(life))
    print_entries([(f"  {label}", text) for label, text in _row_facts(life)])
    print_line("")
    print_entries(list(_timeline(row_events.events(life))))
    if life.reasons:
        print_line("")
        print_entries(_reason_entries(life.reasons))
    return None


def _heading(life: Life) -> str:
    job = life.job
    row = f"row {job.position + 1} of " if job.position is not None else "no row any more of "
    return f"job {job.id} · {row}{life.batch.id} · {job.state}"


def _row_facts(life: Life) -> Iterator[_Entry]:
    job, batch = life.job, life.batch
    yield "asks", f"{batch.options['model']} at {batch.provider} ({batch.kind})"
    if asked := row_events.asked(life, _PROMPT_CHARACTERS):
        yield "prompt", asked
    if job.custom_id:
        yield "custom_id", one_line(job.custom_id, _EXAMPLE_CHARACTERS)
    if job.custom_id != job.key:
        yield "key", job.key
    used = f"{format_tokens(job.input_tokens)} + {format_tokens(job.output_tokens)} tokens"
    price = format_usd(job.cost_usd) if job.cost_usd is not None or job.input_tokens else format_usd(0.0)
    yield "calls", f"{job.attempts:,} · {used} · {price}"
    if (dialogue := row_events.dialogue_of(life)) is not None:
        shown = f"; `tidemill dialogues show {dialogue}` shows it" if life.answer is not None else ""
        yield "dialogue", f"{dialogue}{shown}"


def _timeline(events: Sequence[Event]) -> Iterator[_Entry]:
    """Events with their times; the day is said at the beginning and where it changes."""
    if len(events) > _MOST_EVENTS:
        left_out = len(events) - _MOST_EVENTS
        more = Event("more", f"… {left_out:,} more events, all with --json")
        events = [*events[:_FIRST_EVENTS], more, *events[_FIRST_EVENTS - _MOST_EVENTS :]]
    days = [each.at.date() if each.at is not None else None for each in events]
    day = next(filter(None, days), None)
    if day is not None:
        yield f"{day}", "(times are UTC)"
    for event, today in zip(events, days, strict=True):
        if today is not None and today != day:
            day = today
            yield f"{day}", ""
        yield _time(event.at), event.sentence


def _time(at: datetime | None) -> str:
    return "" if at is None else f"  {at:%H:%M:%S}.{at.microsecond // 100_000}"


def _reason_entries(reasons: Sequence[Reason]) -> list[_Entry]:
    return [("waits for" if number == 0 else "", each.sentence) for number, each in enumerate(reasons)]


# --- a batch ---


def _explain_batch(name: str, as_json: bool) -> None:
    batch = resolve(name)
    limits = shared_limits.read(batch.provider, batch.options["model"])
    with reading() as connection:
        outlook = outlooks.load(connection, batch.id, limits)
    if as_json:
        return print_json(outlooks.to_json(outlook))
    print_line(f"{batch.id} · {batch.kind} · {batch.options['model']} at {batch.provider}")
    print_line(outlook.progress.summary())
    print_line("")
    print_entries([*_batch_facts(outlook), *_reason_entries(outlook.reasons), *_slowest(outlook), *_failures(outlook)])
    return None


def _batch_facts(outlook: Outlook) -> Iterator[_Entry]:
    batch, progress, now = outlook.batch, outlook.progress, outlook.now
    alive = outlook.fleet.alive(batch.provider)
    yield "began", f"{batch.created_at:%Y-%m-%d %H:%M:%S} UTC, {in_words((now - batch.created_at).total_seconds())} ago"
    if not progress.open:
        yield "ended", "every row has ended"
        return
    yield "ends", _ending(outlook)
    if outlook.rate is not None and not outlook.is_blocked:
        pace = outlook.rate.rows_per_second
        shown = f"{pace:,.1f} rows a second" if pace >= 1 else f"{pace * 60:,.1f} rows a minute"
        yield "pace", f"about {shown}, over the last {in_words(outlook.rate.over_seconds)}"
    places = f"{sum(each.in_flight for each in alive):,} calls in flight of {sum(each.window for each in alive):,}"
    yield "workers", f"{len(alive)} alive for {batch.provider}" + (f", {places}" if alive else "")
    yield "limits", _limits(outlook)
    if batch.route != ONLINE:
        yield "route", batch.route
    if batch.deadline_at is not None:
        yield "deadline", until(batch.deadline_at, now)


def _ending(outlook: Outlook) -> str:
    eta = outlook.eta_seconds
    if eta is not None:
        left = counted(outlook.progress.open, "open row")
        return f"in about {in_words(eta)}, if it goes on so ({left})"
    if outlook.is_blocked:
        return "not before what it waits for"
    if outlook.progress.at_provider:
        return "unknown: the provider says only when it gives up"
    return "unknown: too few rows have ended in the last ten minutes to tell"


def _limits(outlook: Outlook) -> str:
    options, learned = outlook.batch.options, outlook.limits
    parts = [f"--{name} {options[name]:,}" for name in ("rpm", "tpm") if options.get(name)]
    if learned is not None:
        parts += [f"{learned.rpm:,.0f} requests a minute (learned)"] if learned.rpm else []
        parts += [f"{learned.tpm:,.0f} tokens a minute (learned)"] if learned.tpm else []
        ahead = {"requests": learned.requests_ahead_seconds, "tokens": learned.tokens_ahead_seconds}
        narrow = max(ahead, key=lambda name: ahead[name])
        parts += [f"{narrow} are used up for the next {in_words(ahead[narrow])}"] if ahead[narrow] > 1 else []
        parts += [f"all calls pause for {in_words(learned.pause_seconds)}"] if learned.pause_seconds else []
    elif settings().effective_limits_url is None:
        parts.append("what was learned is known only in the worker's process")
    return " · ".join(parts) or "none known"


def _slowest(outlook: Outlook) -> Iterator[_Entry]:
    for number, call in enumerate(outlook.slowest):
        row = "" if call.position is None else f"row {call.position + 1}, "
        who = outlook.fleet.name(call.worker_id)
        yield "" if number else "oldest", f"job {call.job_id} ({row}claimed {in_words(call.seconds)} ago) by {who}"


def _failures(outlook: Outlook) -> Iterator[_Entry]:
    for number, each in enumerate(outlook.failures):
        example = one_line(each.example, _EXAMPLE_CHARACTERS)
        what = f"{each.rows:,} × {each.code}: {example} → {each.advice}"
        yield "" if number else "failed", what
