"""`tidemill rehearse` shows on the user's own database and broker that nothing is lost, or recorded or paid twice.

It asks the simulator some hundred prompts with real commands, does to them whatever the table of faults says, and
compares the books.
"""

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import typer
from pydantic import SecretStr
from sqlalchemy import make_url

from tidemill import migrations
from tidemill.models import interpreters
from tidemill.models.database import reading, stuck_seconds
from tidemill.models.errors import NOT_ALL_SUCCEEDED, DatabaseError, InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.settings import Settings, settings
from tidemill.producer.batches.budget_words import price_lines
from tidemill.producer.batches.run import stop_like_ctrl_c
from tidemill.producer.rehearsing import own_rows, proxy
from tidemill.producer.rehearsing.books import Books, compare
from tidemill.producer.rehearsing.faults import FAULTS, LEASE_SECONDS, Fault, Stage, part_of
from tidemill.producer.rehearsing.fleet import Fleet, Member
from tidemill.producer.rehearsing.timeline import Timeline
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_json, print_line, print_table
from tidemill.producer.screen.tables import Column
from tidemill.simulator import Simulator

MODEL = "rehearsal"
WORKERS, WINDOW = 3, 8
"""Commands that keep a worker each, and calls in flight in each."""

_ALWAYS_FAILING = {"500": 0.01, "reset": 0.005, "cut": 0.005, "429ms": 0.01}
"""The share of calls that fail so at any time, when the provider has faults."""

_IN_DOUBT = {"german": 0.05}
"""The share of replies that give a judge something to do, when judges have faults."""

_LATENCY_SECONDS = 0.2, 2.0
"""Shortest and longest mean latency of a call."""

_LAST_LINES = 15
_BOOKS = "books.json"
_SETTLED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rehearsed: how many prompts, for how long faults happen, and which. The seed repeats their order."""

    prompts: int
    seconds: float
    seed: int
    faults: Mapping[str, Fault]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rehearsal came to. `done` are the names of the faults, each as often as it happened."""

    plan: Plan
    books: Books
    done: tuple[str, ...]
    standstill_seconds: float
    seconds: float

    def to_json(self) -> JsonObject:
        """For scripts."""
        return {
            "prompts": self.books.prompts,
            "calls_paid": self.books.calls_paid,
            "lost": self.books.lost,
            "recorded_twice": self.books.recorded_twice,
            "paid_again": self.books.paid_more_than_once,
            "in_flight_in_what_was_killed": self.books.taken,
            "faults": {name: self.done.count(name) for name in sorted(set(self.done))},
            "longest_standstill_seconds": round(self.standstill_seconds, 1),
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 1),
            "problems": list(self.books.problems),
        }


def command(*, prompts: int, minutes: float, seed: int | None, faults: str | None, keep: bool, as_json: bool) -> None:
    """Rehearse, and print the table; exits 1 unless all promises held.

    Raises:
        InputError: there is no fault of that name.
    """
    migrations.ensure()
    stop_like_ctrl_c()
    number = random.randrange(10**6) if seed is None else seed  # noqa: S311  # a seed, not a secret
    outcome = rehearse(Plan(prompts, minutes * 60, number, chosen(faults)), keep=keep)
    if as_json:
        print_json(outcome.to_json())
    else:
        for problem in outcome.books.problems:
            say(problem)
        print_table(COLUMNS, rows_of(outcome))
    if outcome.books.problems:
        raise typer.Exit(NOT_ALL_SUCCEEDED)


COLUMNS = (Column("what", 1), Column("came to", 2))


def chosen(names: str | None) -> dict[str, Fault]:
    """The faults of these names, or of the parts that they are done to, separated by commas; None: all.

    Raises:
        InputError: there is no such fault.
    """
    if names is None:
        return FAULTS
    wanted = {name.strip() for name in names.split(",")}
    known = {*FAULTS, *map(part_of, FAULTS)}
    if unknown := wanted - known:
        raise InputError(f"There is no fault {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}.")
    return {name: fault for name, fault in FAULTS.items() if wanted & {name, part_of(name)}}


def rows_of(outcome: Outcome) -> list[tuple[str, str]]:
    """The table for people."""
    books = outcome.books
    return [
        ("prompts", f"{books.prompts:,}"),
        ("calls paid", f"{books.calls_paid:,}"),
        ("lost", f"{books.lost:,}"),
        ("recorded twice", f"{books.recorded_twice:,}"),
        ("paid again", f"{books.paid_more_than_once:,} ({books.taken:,} were in flight in what was killed)"),
        ("faults", f"{len(outcome.done):,}"),
        ("longest stand-still", f"{outcome.standstill_seconds:.0f} s"),
        ("duration", f"{outcome.seconds:.0f} s"),
        ("seed", str(outcome.plan.seed)),
    ]


# --- the stage ---


def rehearse(plan: Plan, *, keep: bool = False) -> Outcome:
    """Rehearse on the configured database and broker; nothing of it is left there unless it is to be kept.

    Raises:
        DatabaseError: the database does not answer at the beginning or in the end.
    """
    batch_name = f"rehearsal-{uuid4().hex[:12]}"
    chance = random.Random(plan.seed)  # noqa: S311  # a seed, not a secret
    began = time.monotonic()
    with _own_folder(keep) as folder, ExitStack() as stack:
        stack.callback(_remove, batch_name, keep)
        provider = stack.enter_context(_provider(plan))
        database = _proxied(stack, "database", settings().database_url, proxy.database)
        broker = _proxied(stack, "broker", "" if settings().embedded else settings().broker_url, proxy.broker)
        environment = _environment(provider) | _no_prices(folder)
        stack.callback(_remove_queue, environment)
        through = {"TIDEMILL_DATABASE_URL": database, "TIDEMILL_BROKER_URL": broker}
        fleet = Fleet(environment | {name: each[1] for name, each in through.items() if each is not None}, folder)
        stack.callback(fleet.stop)
        stage = Stage(fleet, provider, database and database[0], broker and broker[0], chance)
        prompts = [f"{batch_name}: which number comes after {number}?" for number in range(plan.prompts)]
        timeline = Timeline(stage, plan.faults, batch_name, began + plan.seconds)
        timeline.run(_start(fleet, folder, prompts, batch_name), plan.prompts)
        timeline.show("waiting for what is still under way")
        with suppress(TimeoutError):  # of a run that was given up
            provider.wait_until_idle(_SETTLED_SECONDS)
        timeline.settle(_SETTLED_SECONDS)
        timeline.show("stopping the workers, then comparing the books")
        words = [(member.name, fleet.last_words(member, _LAST_LINES)) for member in fleet.members]
        fleet.stop()
        casualties = fleet.casualties(stuck_seconds(LEASE_SECONDS))
        paid = provider.paid()
        with reading() as connection:
            books = compare(connection, prompts, paid, batch_name=batch_name, casualties=casualties)
        if books.problems:
            _explain(words, {"paid": paid, "casualties": [asdict(each) for each in casualties]}, folder)
    return Outcome(plan, books, tuple(timeline.done), timeline.standstill_seconds, time.monotonic() - began)


@contextmanager
def _own_folder(keep: bool) -> Iterator[Path]:
    """Where the commands run and write their logs; kept where these may explain something."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-rehearsal-"))
    try:
        yield folder
    finally:
        if keep or (folder / _BOOKS).exists():
            say(f"The logs of what was killed are in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _provider(plan: Plan) -> Simulator:
    slots = WINDOW * (1 if settings().embedded else WORKERS)
    shortest, longest = _LATENCY_SECONDS
    latency_seconds = min(longest, max(shortest, plan.seconds / 2 * slots / plan.prompts))
    parts = {part_of(name) for name in plan.faults}
    rates = (_ALWAYS_FAILING if "provider" in parts else {}) | (_IN_DOUBT if "judge" in parts else {})
    return Simulator(latency_ms=1000 * latency_seconds, seed=plan.seed, faults=rates)


def _proxied(
    stack: ExitStack, server: str, configured_url: str, route_to: Callable[[str], proxy.Route | None]
) -> tuple[proxy.Proxy, str] | None:
    """A proxy and the URL that leads through it; None where there is no server, and with a sentence where no proxy can
    stand before it.
    """
    if not configured_url or configured_url.startswith("sqlite"):
        return None
    if (route := route_to(configured_url)) is None:
        say(f"No proxy can stand before this {server}, so its connections are not cut; all other faults happen.")
        return None
    target, url = route
    opened = stack.enter_context(proxy.Proxy(target))
    return opened, url(opened.port)


def _environment(provider: Simulator) -> dict[str, str]:
    """The user's settings, but for the provider and its key: no worker of another provider sees our messages."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TIDEMILL_"))}
    values = {field.validation_alias: getattr(settings(), name) for name, field in Settings.model_fields.items()}
    own = {
        str(name): str(value)
        for name, value in values.items()
        if value is not None and not isinstance(value, SecretStr) and not str(name).startswith("OPENAI_")
    }
    if settings().database_url.startswith("sqlite"):  # its path may be relative to the folder that we are called in
        file = make_url(settings().database_url)
        own["TIDEMILL_DATABASE_URL"] = str(file.set(database=str(Path(file.database or "").resolve())))
    ours = {
        "OPENAI_BASE_URL": provider.url,
        "TIDEMILL_HOME": str(settings().home.resolve()),
        "TIDEMILL_WINDOW": str(WINDOW),
        "TIDEMILL_LEASE_SECONDS": str(LEASE_SECONDS),
        "TIDEMILL_DRAIN_SECONDS": "5",
        # Faults of the provider are no reason to give a row up here.
        "TIDEMILL_MAX_ATTEMPTS": "1000",
        "TIDEMILL_RETRY_SECONDS": "86400",
        "TIDEMILL_TIMEOUT_SECONDS": "60",
        "NO_PROXY": proxy.HOST,
        "no_proxy": proxy.HOST,  # goes first, where both are set
    }
    return {**outside, **own, **ours, "PYTHONPATH": interpreters.bare_environment()["PYTHONPATH"]}


def _no_prices(folder: Path) -> dict[str, str]:
    """What makes calls cost nothing: no cap on the user's money is touched by what costs none."""
    path = folder / "prices.toml"
    path.write_text("\n".join(price_lines(MODEL, is_own_server=True)), encoding="utf-8")
    return {"TIDEMILL_PRICES": str(path)}


def _start(fleet: Fleet, folder: Path, prompts: list[str], batch_name: str) -> Member:
    """Start workers where there is a broker, and the command that submits the batch and follows it."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    if not settings().embedded:
        for number in range(1, WORKERS + 1):
            fleet.add(f"worker {number}", "worker", has_workers=True)
    question = ("--model", MODEL, "--no-assistant", "--transport", "http", "--name", batch_name)
    arguments = ("ask", "-i", str(path), "-o", str(folder / "answers.jsonl"), *question)
    return fleet.add("tidemill ask", *arguments, has_workers=False, needs_success=True)


# --- the end ---


def _remove(batch_name: str, keep: bool) -> None:
    if keep:
        return say(f"The rows are kept as a batch called {batch_name}.")
    try:
        own_rows.remove(batch_name, own_rows.workers_of(batch_name))
    except DatabaseError as error:
        say(f"The rows of the batch {batch_name} could not be removed: {error}")
    return None


def _remove_queue(environment: Mapping[str, str]) -> None:
    if settings().embedded:
        return
    code = "from tidemill.models.broker import remove_queue; remove_queue()"
    done = subprocess.run(  # noqa: S603  # our own code
        interpreters.command("-c", code), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        say(f"The queue for {environment['OPENAI_BASE_URL']} could not be removed: {done.stderr.strip()[-200:]}")


def _explain(words: list[tuple[str, str]], books: JsonObject, folder: Path) -> None:
    """Show what may explain a failure, and keep all of it."""
    for name, text in words:
        print_line(f"--- {name}\n{text}", err=True)
    (folder / _BOOKS).write_text(json.dumps(books, indent=1), encoding="utf-8")
