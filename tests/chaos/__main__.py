"""`make chaos`: the rehearsal at length, on servers of our own, so that these too are crashed, flushed and frozen.

`python -m tests.chaos --minutes 30 --seed 7` goes through both databases: Postgres with Valkey, then SQLite embedded.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.servers import Broker, Postgres
from tidemill.producer.rehearsing.faults import FAULTS, LEASE_SECONDS, Fault, Stage, Trouble
from tidemill.producer.rehearsing.fleet import children_of

PROMPTS_A_MINUTE = 250
MODES = ("shared", "embedded")


def _for_a_while(text: str, begin: Callable[[], object], end: Callable[[], object], longest_seconds: float) -> Fault:
    """Something that is done to a server, and ended again."""

    def happen(stage: Stage) -> Trouble:
        begin()
        return Trouble(text, stage.chance.uniform(0.1, longest_seconds), end)

    return happen


def _at_once(text: str, do: Callable[[], object]) -> Fault:
    """Something that is done to a server, and is over then."""

    def happen(_stage: Stage) -> Trouble:
        do()
        return Trouble(text)

    return happen


def server_faults(postgres: Postgres, broker: Broker) -> dict[str, Fault]:
    """What is done to the servers themselves, which no rehearsal of a user may do."""

    def set_read_only(value: str) -> None:
        postgres.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        postgres.execute("SELECT pg_reload_conf()")

    return {
        "database-crash": _at_once("Postgres crashes and recovers", postgres.restart_at_once),
        "database-freeze": _for_a_while(
            "Postgres is frozen",
            partial(_signal_all, postgres, signal.SIGSTOP),
            partial(_signal_all, postgres, signal.SIGCONT),
            1.5 * LEASE_SECONDS,
        ),
        "database-read-only": _for_a_while(
            "Postgres is read-only", partial(set_read_only, "on"), partial(set_read_only, "off"), 3 * LEASE_SECONDS
        ),
        "broker-flush": _at_once("FLUSHALL of the broker", broker.flush),
        "broker-kill": _for_a_while("kill -9 of the broker", broker.kill, broker.start, LEASE_SECONDS),
        "broker-freeze": _for_a_while("the broker is frozen", broker.freeze, broker.thaw, 2 * LEASE_SECONDS),
    }


def _signal_all(postgres: Postgres, number: signal.Signals) -> None:
    for pid in (postgres.pid, *children_of([postgres.pid])):
        os.kill(pid, number)


def file_faults(path: Path) -> dict[str, Fault]:
    """What another program may do to the embedded database."""
    held: list[sqlite3.Connection] = []

    def lock() -> None:
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # a frozen command has locked it, and is thawed only once this has returned
            connection.close()
        else:
            held.append(connection)

    def unlock() -> None:
        while held:
            held.pop().close()

    return {"database-locked": _for_a_while("the database file is locked", lock, unlock, 2 * LEASE_SECONDS)}


def run(mode: str, minutes: float, seed: int) -> int:
    """One mode, in this process; returns the exit code of `tidemill rehearse`."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-chaos-")))
        os.environ["TIDEMILL_HOME"] = str(home)
        if mode == "shared":
            broker = stack.enter_context(Broker())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the wheel says that XDG_RUNTIME_DIR is not set
                postgres = stack.enter_context(Postgres())
            os.environ |= {"TIDEMILL_DATABASE_URL": postgres.database(), "TIDEMILL_BROKER_URL": broker.url}
            faults = FAULTS | server_faults(postgres, broker)
        else:
            faults = FAULTS | file_faults(home / "tidemill.db")
        return _rehearse(mode, minutes, seed, faults)


def _rehearse(mode: str, minutes: float, seed: int, faults: dict[str, Fault]) -> int:
    from tidemill import migrations
    from tidemill.producer.rehearsing import rehearsal

    migrations.upgrade()
    plan = rehearsal.Plan(max(100, round(minutes * PROMPTS_A_MINUTE)), minutes * 60, seed, faults)
    outcome = rehearsal.rehearse(plan)
    print(json.dumps({"mode": mode, **outcome.to_json()}, indent=1), flush=True)
    return len(outcome.books.problems)


def main(arguments: Sequence[str]) -> int:
    """Run all modes, each in a process of its own; 0 if all promises held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all modes together")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--mode", choices=MODES, help="only this one")
    parsed = parser.parse_args(arguments)
    if parsed.mode:
        return min(1, run(parsed.mode, parsed.minutes, parsed.seed))
    print(f"seed {parsed.seed}", flush=True)
    command = [sys.executable, "-m", "tests.chaos"]
    codes = [
        subprocess.run(
            [*command, f"--mode={mode}", f"--seed={parsed.seed}", f"--minutes={parsed.minutes / len(MODES)}"],
            check=False,
        ).returncode
        for mode in MODES
    ]
    return max(codes)


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "TIDEMILL_"))]:
        del os.environ[name]
    sys.exit(main(sys.argv[1:]))
