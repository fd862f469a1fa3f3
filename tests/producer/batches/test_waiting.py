"""Scripts and notebooks wait for several batches at once, on threads; one worker serves them all, and none is left."""

import asyncio
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment, WaitUntil
from tests.waiting import limit
from tidemill import ask
from tidemill.models import embedded
from tidemill.models.errors import InputError, SettingsError, TidemillError
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.deletion import delete_dialogue
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.follow import follow
from tidemill.producer.batches.progress import list_batches
from tidemill.producer.screen.display import Quiet
from tidemill.simulator import Simulator


@pytest.fixture
def provider(embedded_home: Path, simulator: Simulator, use_environment: UseEnvironment) -> Iterator[Simulator]:
    """The simulator, as the provider of this process, which must have no worker in the end."""
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "first-key"})
    yield simulator
    assert not embedded.is_running()
    assert not [each.name for each in threading.enumerate() if each.name in ("consumer", "heartbeat", "courier")]


def submit(name: str, prompts: int = 3) -> Batch:
    return ask([f"{name} {number}" for number in range(prompts)], name=name, transport="http")


class Stopped(Quiet):
    """A display at which its user stops the wait, or which fails, at the first look."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.sentences: list[str] = []

    def update(self, counts: object, *, reading: bool) -> None:
        """Stop."""
        raise self.error

    def say(self, sentence: str) -> None:
        """Keep it."""
        self.sentences.append(sentence)


def test_several_waits_share_one_worker_and_end_each_for_itself(provider: Simulator, wait_until: WaitUntil) -> None:
    provider.control(gate="shut")
    long, short, stopped = submit("long", 40), submit("short"), submit("stopped", 2)
    left_alone = submit("left alone")  # in this process's memory, too, and nobody waits for it

    async def cell() -> list[bool]:
        waits = [asyncio.to_thread(each.wait) for each in (long, short, long)]
        return [each.all_succeeded for each in await asyncio.gather(*waits)]

    with ThreadPoolExecutor(1) as pool:
        notebook = pool.submit(asyncio.run, cell())
        wait_until(lambda: provider.counters()["in_flight"] >= 8, "two batches are under way")
        for error in (KeyboardInterrupt, ZeroDivisionError):
            display = Stopped(error)
            with pytest.raises(error):
                stopped.wait(display=display)
            assert bool(display.sentences) is (error is KeyboardInterrupt)
        provider.control(gate="open")
        assert notebook.result(limit()) == [True, True, True]
    assert left_alone.progress().states["queued"] == 3

    async def next_cell() -> bool:
        return stopped.wait().all_succeeded and left_alone.wait().all_succeeded

    assert asyncio.run(next_cell())  # in a running loop, as notebooks have one
    paid = provider.paid_by_prompt()
    assert (len(paid), set(paid.values())) == (48, {1})


def _ask_in_a_fork() -> None:
    os._exit(0 if submit("in the fork").wait().all_succeeded else 1)


def test_a_dialogue_that_somebody_deleted_stops_no_run_that_may_not_fail(provider: Simulator) -> None:
    first = submit("some", 1)
    first.wait()
    delete_dialogue(first.turn or 0, is_sure=True, as_json=False)
    batch = submit("some", 2)
    assert batch.id == first.id
    assert follow(batch.scope, 4, Quiet(), ends=Ends(fail_fast=True)).states["succeeded"] == 1


def test_a_fork_has_a_worker_of_its_own(provider: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    submit("before the fork")
    with monkeypatch.context() as parent:
        parent.setattr(embedded._shared, "runner", object())  # as if somebody waited here
        fork = multiprocessing.get_context("fork").Process(target=_ask_in_a_fork)
        fork.start()
    fork.join(limit())
    assert fork.exitcode == 0
    assert [each.progress.states["succeeded"] for each in list_batches(9)] == [3, 0]
    assert len(provider.paid()) == 3


def test_what_a_notebook_changes_is_taken_up_by_the_next_call(
    provider: Simulator, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil, tmp_path: Path
) -> None:
    before = submit("before")
    for name, value, why in (
        ("OPENAI_API_KEY", '"second-key"', "begins or ends with a quote"),
        ("TIDEMILL_WINDOW", "many", "Input should be a valid integer"),
        ("SSL_CERT_FILE", "/gone.pem", "which is not there"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1", "names 127.0.0.1:9/v1; let it name 127.0.0.1:"),
    ):
        with monkeypatch.context() as cell:
            cell.setenv(name, value)
            with pytest.raises(TidemillError, match=f"{name}.*{re.escape(why)}"):
                before.wait()
            if name != "OPENAI_BASE_URL":
                with pytest.raises(SettingsError, match=name):
                    submit("never stored")
    assert [each.id for each in list_batches(9)] == [before.id]
    provider.control(gate="shut")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(before.wait)]
        wait_until(lambda: provider.counters()["in_flight"] == 3, "it is under way")
        with monkeypatch.context() as cell:
            cell.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
            with pytest.raises(SettingsError, match=r"^OPENAI_BASE_URL cannot change while a wait\(\) runs"):
                submit("nowhere")
        monkeypatch.setenv("OPENAI_API_KEY", "second-key")
        waiting.append(pool.submit(submit("after").wait))
        provider.control(gate="open")
        assert all(each.result(limit()).all_succeeded for each in waiting)
    keys = {(call["prompt"].split()[0], call["caller"]) for call in provider.paid()}
    assert len(keys) == len({caller for _, caller in keys}) == 2
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("TIDEMILL_MODEL", "another-model")
    submit("there")
    assert [each.model for each in list_batches(9)] == ["another-model"]
    with pytest.raises(InputError, match="There is no batch"):
        before.wait()
