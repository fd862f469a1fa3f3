"""The table of faults is what users choose from, and one part has one trouble at a time."""

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.models.errors import InputError
from tidemill.producer.rehearsing.faults import FAULTS, Fault, Stage, Trouble, part_of
from tidemill.producer.rehearsing.rehearsal import chosen
from tidemill.producer.rehearsing.timeline import Timeline


def test_faults_are_chosen_by_name_or_by_the_part_they_are_done_to() -> None:
    assert chosen(None) == FAULTS
    assert list(chosen("kill-command, broker")) == ["kill-command", "broker-cut", "broker-silent", "broker-slow"]
    with pytest.raises(InputError, match="There is no fault earthquake"):
        chosen("kill,earthquake")


def stage(seed: int = 0) -> Any:
    return SimpleNamespace(chance=random.Random(seed), fleet=SimpleNamespace(note_outage=lambda _since: None))


def order_of(seed: int, faults: dict[str, Fault]) -> list[str]:
    timeline = Timeline(cast("Stage", stage(seed)), faults, "b", 0.0)
    for _ in range(2 * len(faults)):
        timeline._begin_trouble()
    return timeline.done


def test_the_seed_decides_the_order() -> None:
    faults: dict[str, Fault] = {name: lambda _stage: Trouble("something") for name in FAULTS}
    assert order_of(1, faults) == order_of(1, faults) != order_of(2, faults)
    assert set(order_of(1, faults)) == set(FAULTS), "every fault has its turn"


def test_a_part_in_trouble_gets_no_second_one_until_the_first_is_over() -> None:
    ended: list[str] = []
    faults: dict[str, Fault] = {
        name: (lambda _stage, name=name: Trouble(name, 3600.0, lambda: ended.append(name)))  # type: ignore[misc]
        for name in ("database-cut", "database-slow", "broker-cut")
    }
    timeline = Timeline(cast("Stage", stage()), faults, "b", 0.0)
    for _ in range(9):
        timeline._begin_trouble()
    assert sorted(map(part_of, timeline.done)) == ["broker", "database"]
    timeline._end_troubles(everything=True)
    assert sorted(ended) == sorted(timeline.done)
