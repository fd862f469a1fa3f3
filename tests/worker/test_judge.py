"""Batches are judged in a child process, and all the same where it dies, is killed or cannot start."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import limit
from tidemill.worker import judge
from tidemill.worker.judge import Judge
from tidemill.worker.sentiment import Judgement

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


PARENT = """
import signal, sys, time
from tidemill.worker.judge import Judge
judging = Judge()
future = judging.submit([(1, "What a wonderful answer!")])
assert future.result(600)[0][1].sentiment == "positive"
print(judging._child.pid, sorted({"numpy", "vader", "py3langid", "multiprocessing"} & set(sys.modules)), flush=True)
time.sleep(600)
"""


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
