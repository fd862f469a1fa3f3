"""Batches are judged in a child process, and all the same where it dies, hangs, is stopped or cannot start."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import limit, wait_until
from tidemill.worker import judge
from tidemill.worker.judge import Judge
from tidemill.worker.sentiment import UNJUDGEABLE, Judgement

ROOT = Path(judge.__file__).parents[2]
BATCH = [
    (7, "What a wonderful answer!"),
    (3, "Das ist eine sehr gute Antwort."),
    (9, "42"),
    (1, "a\x00\ud800 terrible"),
]
JUDGED = [(7, "positive", "en"), (3, "unknown", "de"), (9, "neutral", None), (1, "negative", "en")]


def brief(results: list[tuple[int, Judgement]]) -> list[tuple[int, str, str | None]]:
    return [(key, judgement.sentiment, judgement.language) for key, judgement in results]


@pytest.fixture
def judging() -> Iterator[Judge]:
    judging = Judge()
    yield judging
    judging.close()


def child_of(judging: Judge) -> int:
    assert judging._child is not None
    return judging._child.pid


def test_batches_are_judged_in_one_child(judging: Judge) -> None:
    assert judging._child is None  # nothing starts before it is needed
    futures = [judging.submit(BATCH) for _ in range(3)]
    assert [brief(future.result(limit())) for future in futures] == [JUDGED] * 3
    child = psutil.Process(child_of(judging))
    assert child.nice() == os.nice(0) + 5
    child.send_signal(signal.SIGINT)
    assert brief(judging.submit(BATCH).result(limit())) == JUDGED
    assert child.pid == child_of(judging)
    assert judging.submit([]).result(limit()) == []
    judging.close()
    assert not child.is_running()
    judging.close()
    with pytest.raises(RuntimeError):
        judging.submit(BATCH)


def test_a_killed_child_is_replaced(judging: Judge) -> None:
    judging.submit(BATCH).result(limit())
    killed = child_of(judging)
    os.kill(killed, signal.SIGKILL)
    assert brief(judging.submit(BATCH).result(limit())) == JUDGED
    assert child_of(judging) != killed


def test_where_no_child_can_live_this_process_judges(judging: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert brief(judging.submit(BATCH).result(limit())) == JUDGED
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert brief(judging.submit(BATCH).result(limit())) == JUDGED


def test_a_stopped_child_is_replaced(judging: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "TEXT_SECONDS", limit(0.5))
    judging.submit(BATCH).result(limit())
    stopped = psutil.Process(child_of(judging))
    stopped.suspend()
    long = [(key, "It rains. " * 20_000) for key in range(8)]  # more than a pipe holds: even sending to it blocks
    assert len(judging.submit(long).result(limit())) == 8
    assert brief(judging.submit(BATCH).result(limit())) == JUDGED
    assert not stopped.is_running()


HOSTILE = """
import os, re, time
from tidemill.worker import judge

def hostile(texts, good=judge.judge):
    for text in texts:
        if "hang" in text:
            time.sleep(600)
        if "backtrack" in text:
            re.match("(a+)+$", "a" * 60 + "b")  # no other thread of the child runs meanwhile
        if "crash" in text:
            os.abort()
        if "overflow" in text:
            raise RecursionError
    return good(texts)

judge.judge = hostile
judge.serve()
"""


def test_a_text_that_no_child_survives_costs_only_its_own_sentiment(
    judging: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "CHILD", HOSTILE)
    monkeypatch.setattr(judge, "TEXT_SECONDS", limit(0.5))
    batch = [(number, "What a wonderful answer!") for number in range(80)]
    batch[10], batch[11], batch[50], batch[79] = (10, "crash"), (11, "hang"), (50, "overflow"), (79, "crash")
    results = dict(judging.submit(batch).result(limit()))
    assert list(results) == list(range(80))
    assert {key for key, judgement in results.items() if judgement == UNJUDGEABLE} == {10, 11, 50, 79}
    assert {results[key].sentiment for key in range(80)} == {"positive", "unknown"}
    assert brief(judging.submit(BATCH).result(limit())) == JUDGED


@pytest.mark.parametrize("busy", [False, True], ids=["starting", "busy"])
def test_closing_does_not_wait_for_a_child_that_hangs(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "TEXT_SECONDS", 3600.0)
    monkeypatch.setattr(judge, "CHILD", HOSTILE if busy else "import time; time.sleep(600)")
    monkeypatch.setattr(judge, "START_SECONDS", 3600.0)
    judging = Judge()
    futures = [judging.submit([(1, "hang")]), judging.submit([(2, "hang")])]
    wait_until(lambda: judging._child is not None, "it starts")
    child = psutil.Process(child_of(judging))
    judging.finish_within(0.2)
    assert [future.result(limit()) for future in futures] == [[], []]
    judging.close()
    assert not child.is_running()


def test_the_child_has_no_key_in_its_environment(judging: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"OPENAI_API_KEY": "sk-1", "PGPASSWORD": "p", "AWS_SECRET_ACCESS_KEY": "a", "TIDEMILL_DATABASE_URL": "d"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    judging.submit(BATCH).result(limit())
    assert not secrets.keys() & psutil.Process(child_of(judging)).environ().keys()


PARENT = """
import signal, sys, time
from tidemill.worker.judge import Judge
judging = Judge()
future = judging.submit([(1, "What a wonderful answer!")])
assert future.result(600)[0][1].sentiment == "positive"
print(judging._child.pid, sorted({"numpy", "vader", "py3langid", "multiprocessing"} & set(sys.modules)), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["stopped", "hang", "backtrack"])
def test_a_child_that_is_stopped_or_busy_ends_with_a_parent_that_is_killed(state: str) -> None:
    script = f"""
import sys, time
from tidemill.worker import judge
judge.CHILD = {"from tidemill.worker import judge; judge.TEXT_SECONDS = 0.4" + HOSTILE!r}
judging = judge.Judge()
judging.submit([]).result(600)
judging.submit([(1, {state!r})])
print(judging._child.pid, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if state == "stopped":
            child.suspend()
            wait_until(lambda: child.status() == psutil.STATUS_STOPPED, "it is stopped")
        parent.kill()
    psutil.wait_procs([child], timeout=limit())
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("how", ["-c", "script"])
def test_the_child_ends_with_a_parent_that_is_killed(how: str, tmp_path: Path) -> None:
    """The script has no `__main__` guard: a child that imported it again would judge for ever."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, "-c", PARENT] if how == "-c" else [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as parent:
        assert parent.stdout is not None
        pid, loaded = parent.stdout.readline().split(maxsplit=1)
        child = psutil.Process(int(pid))
        parent.kill()
    assert loaded.strip() == "[]"  # the models are in the child alone
    psutil.wait_procs([child], timeout=limit())
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_child_imports_nothing_heavy() -> None:
    heavy = "{'sqlalchemy', 'celery', 'redis', 'openai', 'aiohttp', 'pydantic'}"
    code = f"import sys, tidemill.worker.judge as j; j.judge(['Good.']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
