"""What can befall a fleet and its servers is a table, so that every rehearsal draws from the same and names the same.

A fault does one thing to one part of the stage, says what, and says when and how it ends.
"""

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from tidemill.producer.rehearsing.fleet import Fleet, children_of
from tidemill.producer.rehearsing.proxy import Proxy
from tidemill.simulator import Simulator

LEASE_SECONDS = 5.0
"""Of the workers of a rehearsal: short, so that leases do end in it."""

_MODES = ("500", "503", "429", "reset", "502html", "wrongjson")
"""Ways of the simulator in which every call can fail for a while."""


class Trouble(NamedTuple):
    """A fault that has happened: what it is, in so many seconds its end, and what ends it, if something must."""

    text: str
    seconds: float = 0.0
    end: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """All that a fault can be done to. `database` and `broker` are None where no proxy stands before them."""

    fleet: Fleet
    provider: Simulator
    database: Proxy | None
    broker: Proxy | None
    chance: random.Random


Fault: TypeAlias = Callable[[Stage], Trouble | None]
"""Does it; None where there is nothing at present that it could be done to."""


# --- processes ---


def _kill(stage: Stage) -> Trouble | None:
    if not (victims := stage.fleet.workers()):
        return None
    member, pid = stage.chance.choice(victims)
    stage.fleet.kill(member, pid)
    return Trouble(f"kill -9 of {member.name}")


def _kill_command(stage: Stage) -> Trouble | None:
    victims = [member for member, _ in stage.fleet.workers() if member.has_workers]
    if not victims:
        return None
    member = stage.chance.choice(victims)
    stage.fleet.kill_command(member)
    return Trouble(f"kill -9 of the command that keeps {member.name}", 2 * LEASE_SECONDS, stage.fleet.end_orphans)


def _freeze(stage: Stage) -> Trouble | None:
    if not (victims := stage.fleet.workers()):
        return None
    member, pid = stage.chance.choice(victims)
    stage.fleet.freeze(member, pid)
    seconds = LEASE_SECONDS * stage.chance.uniform(1.2, 2)
    return Trouble(f"{member.name} is frozen", seconds, lambda: stage.fleet.thaw(pid))


def _freeze_a_judge(stage: Stage) -> Trouble | None:
    owners = {pid: member for member, pid in stage.fleet.workers()}
    judges = sorted(children_of(list(owners)).items())
    if not judges:
        return None
    pid, owner = stage.chance.choice(judges)
    _signal(pid, signal.SIGSTOP)
    seconds = LEASE_SECONDS * stage.chance.uniform(1.2, 2)
    return Trouble(f"the judge of {owners[owner].name} is frozen", seconds, partial(_signal, pid, signal.SIGCONT))


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


# --- connections ---


def _disturbed(server: str, how: str, text: str, longest_seconds: float) -> Fault:
    """What a proxy does to the connections with a server, for a while."""

    def disturb(stage: Stage) -> Trouble | None:
        proxy: Proxy | None = getattr(stage, server)
        if proxy is None:
            return None
        getattr(proxy, how)()
        return Trouble(text, stage.chance.uniform(0.1, longest_seconds), proxy.open)

    return disturb


# --- the provider ---


def _provider_fails(stage: Stage) -> Trouble:
    mode = stage.chance.choice(_MODES)
    stage.provider.control(mode=mode)
    end = partial(stage.provider.control, mode="ok")
    return Trouble(f"the provider answers every call with {mode}", stage.chance.uniform(0.2, 3), end)


def _provider_hangs(stage: Stage) -> Trouble:
    stage.provider.control(gate="shut")
    end = partial(stage.provider.control, gate="open")
    return Trouble("the provider keeps every call waiting", stage.chance.uniform(0.5, 1.5 * LEASE_SECONDS), end)


FAULTS: dict[str, Fault] = {
    "kill": _kill,
    "kill-command": _kill_command,
    "freeze": _freeze,
    "judge": _freeze_a_judge,
    "database-cut": _disturbed("database", "cut", "the database is cut off (RST)", LEASE_SECONDS),
    "database-silent": _disturbed("database", "silence", "the database is silent", 2 * LEASE_SECONDS),
    "database-slow": _disturbed("database", "slow", "the database is slow", 2 * LEASE_SECONDS),
    "broker-cut": _disturbed("broker", "cut", "the broker is cut off (RST)", LEASE_SECONDS),
    "broker-silent": _disturbed("broker", "silence", "the broker is silent", 2 * LEASE_SECONDS),
    "broker-slow": _disturbed("broker", "slow", "the broker is slow", 2 * LEASE_SECONDS),
    "provider-fails": _provider_fails,
    "provider-hangs": _provider_hangs,
}
"""Name -> fault. What stands before a hyphen is the part that it is done to: one trouble at a time for each."""


def part_of(fault: str) -> str:
    """What a fault is done to, as its name says."""
    return fault.partition("-")[0]
