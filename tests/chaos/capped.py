"""A cap on money, with workers that are killed at random: the paid log of the provider is the judge.

`python -m tests.chaos.capped` goes through both databases, with caps from one call to a thousand; the suite has a small
version in test_caps.py.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.checker import a_seed
from tests.conftest import _migrate
from tests.flows.tidemill import Running, Tidemill
from tests.servers import Postgres
from tests.waiting import wait_until
from tidemill.models.bounds import most_usd_e9
from tidemill.models.options import Options
from tidemill.simulator import Simulator

USD_E9 = {"input": 100, "output": 500}
"""What the provider charges for a token of gpt-6-luna, in 1e-9 USD."""

OPTIONS = ("--model", "gpt-6-luna", "--max-tokens", "60", "--transport", "http", "--detach")
FAULTS = {"500": 0.01, "reset_after": 0.01, "cut": 0.01, "429ms": 0.01}

_LOOK = """
from tidemill.models import budgets
from tidemill.models.database import reading
with reading() as connection:
    assert budgets.imbalances(connection) == [], budgets.imbalances(connection)
    for each in budgets.read_all(connection):
        print(each.spent, each.reserved, each.doubtful, each.next_call, each.left, each.is_reached)
"""
SUMS = (
    "SELECT spent_usd_e9, reserved_usd_e9, doubtful_usd_e9, cap_usd_e9, "
    "(SELECT max(next_call_usd_e9) FROM budgets WHERE kind = 'batch') AS next_call FROM budgets WHERE kind = 'fleet'"
)


@dataclass(frozen=True)
class Outcome:
    """What a run under a cap came to, in 1e-9 USD."""

    cap: int
    bill: int
    spent: int
    doubtful: int
    next_call: int
    answered: int
    kills: int

    @property
    def unused(self) -> int:
        """What the cap would still have allowed."""
        return self.cap - self.spent - self.doubtful


def bill(provider: Simulator) -> int:
    """What the provider will ask for, in 1e-9 USD."""
    return sum(
        USD_E9["input"] * call["input_tokens"] + USD_E9["output"] * call["output_tokens"] for call in provider.paid()
    )


def most_of_a_call() -> int:
    """What one call of these may cost at most, in 1e-9 USD."""
    most = most_usd_e9(Options("gpt-6-luna", max_tokens=60), {"prompt": "capped 1000"})
    assert most is not None
    return most


def run_under_cap(
    user: Tidemill, provider: Simulator, cap: int, rows: int, kills: int, processes: int, window: int
) -> Outcome:
    """Ask so many rows under a cap of the fleet, and kill workers while that lasts; ends when nothing goes on."""
    chance = random.Random(a_seed())
    user("budget", "fleet", f"{cap / 1e9:.9f}").ok()
    user("ask", "-i", user.prompts("capped.jsonl", [f"capped {number}" for number in range(rows)]), *OPTIONS).ok()
    killed = 0
    with user.started("worker", "--processes", str(processes), "--window", str(window)) as running:
        running.until(lambda: provider.counters()["paid"], "calls are paid")
        while killed < kills and not _stands_still(user):
            time.sleep(chance.uniform(0.05, 0.6))
            killed += _kill_one(running, chance)
            assert bill(provider) <= cap
        wait_until(lambda: _stands_still(user), "nothing goes on", 120)
        provider.wait_until_idle()
        wait_until(lambda: _stands_still(user), "what was lost is in doubt", 120)
    user.python(_LOOK).ok()
    (sums,) = user.query(SUMS)
    answered = user.query("SELECT count(*) FROM jobs WHERE state = 'succeeded'")[0][0]
    return Outcome(cap, bill(provider), sums[0], sums[2], sums[4] or 0, answered, killed)


def _kill_one(running: Running, chance: random.Random) -> int:
    with suppress(IndexError, psutil.NoSuchProcess):
        chance.choice(psutil.Process(running.process.pid).children()).kill()
        return 1
    return 0


def _stands_still(user: Tidemill) -> bool:
    """Whether no call is under way, and none may begin."""
    (sums,) = user.query(SUMS)
    is_open = user.query("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")[0][0]
    left = sums[3] - sums[0] - sums[1] - sums[2]
    return bool(not is_open or (sums[1] == 0 and (sums[4] or 0) > 0 and left < sums[4]))


def check(outcome: Outcome) -> None:
    """Raise AssertionError where the promise of a cap was broken."""
    assert outcome.bill <= outcome.cap, outcome
    assert outcome.bill <= outcome.spent + outcome.doubtful, outcome
    assert outcome.unused < outcome.next_call or not outcome.next_call, outcome


def main(arguments: Sequence[str]) -> int:
    """Four workers, a window of 200, twenty kills, on both databases."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.capped")
    parser.add_argument("--calls", type=int, nargs="*", default=[1, 10, 100, 1_000])
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args(arguments)
    for kind in ("sqlite", "postgres"):
        for calls in given.calls:
            with tempfile.TemporaryDirectory() as folder, Simulator(latency_ms=150, faults=FAULTS) as provider:
                variables = {"TIDEMILL_HOME": folder, "OPENAI_BASE_URL": provider.url, "TIDEMILL_LEASE_SECONDS": "3"}
                if kind == "postgres":
                    with Postgres() as server:
                        url = server.database()
                        _migrate(url)
                        _try(variables | {"TIDEMILL_DATABASE_URL": url}, folder, provider, calls, given.kills)
                else:
                    _try(variables, folder, provider, calls, given.kills)
    return 0


def _try(variables: dict[str, str], folder: str, provider: Simulator, calls: int, kills: int) -> None:
    user = Tidemill(variables, Path(folder))
    cap = calls * most_of_a_call()
    outcome = run_under_cap(user, provider, cap, rows=20 * calls + 1_000, kills=kills, processes=4, window=200)
    print(outcome)
    check(outcome)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
