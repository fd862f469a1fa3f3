"""kill -9 of the command, again and again: the same command goes on, and pays again only what was in flight."""

import random
import time
from pathlib import Path

from tests.chaos.checker import a_seed, check
from tests.flows.tidemill import Tidemill
from tidemill.simulator import Simulator

PROMPTS = [f"embedded chaos {number}" for number in range(1_000)]
WINDOW = 64


def test_killed_at_random_moments_it_loses_nothing_and_records_nothing_twice(
    tmp_path: Path, sqlite_template: bytes
) -> None:
    seed = a_seed()
    chance = random.Random(seed)
    home = tmp_path / "home"
    home.mkdir()
    (home / "tidemill.db").write_bytes(sqlite_template)
    faults = {"500": 0.01, "reset": 0.005, "cut": 0.005, "429ms": 0.005}
    with Simulator(latency_ms=150, seed=seed, faults=faults) as provider:
        # A command that is killed in its first moments is known to nobody, and the next one waits for its leases.
        variables = {"TIDEMILL_HOME": str(home), "OPENAI_BASE_URL": provider.url, "TIDEMILL_LEASE_SECONDS": "3"}
        user = Tidemill(variables, tmp_path)
        path = user.prompts("chaos.jsonl", PROMPTS)
        command = ("ask", "-i", path, "-o", "answers.jsonl", "--window", str(WINDOW), "--transport", "http")

        kills = 0
        for moment in sorted(chance.sample(range(30, 900), 5)):
            with user.started(*command) as running:
                running.until(_paid(provider, moment), f"{moment} calls are paid")
                time.sleep(chance.uniform(0, 0.3))  # not always at the same point of a bulk
                running.process.kill()  # the command alone: nobody tells its child
                kills += 1
        ran = user(*command)

        assert ran.code == 0, ran.err
        provider.wait_until_idle()
        books = check(user, provider.paid(), PROMPTS)
    print(books)
    assert books.paid_more_than_once <= kills * 2 * WINDOW  # in flight, and answered but not yet stored
    assert len((tmp_path / "answers.jsonl").read_bytes().splitlines()) == len(PROMPTS)


def _paid(provider: Simulator, least: int):  # type: ignore[no-untyped-def]
    return lambda: provider.counters()["paid"] >= least
