"""Stopping: Ctrl-C, SIGTERM and a full disk lose nothing; the same command continues."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.flows.tidemill import Running, Tidemill, answers, summary
from tests.waiting import limit, wait_until
from tidemill.simulator import Simulator, prompt_hash

HTTP = ("--transport", "http")
PROMPTS = [f"stopped {number}" for number in range(60)]
IN_DOUBT = [f"!!german {number}" for number in range(30)]
"""Their replies are in a language that the judge's child must name."""
PROCESSES, WINDOW = 2, 8
"""A process that knows no limit begins with 8 calls; more follow where no reply comes for 5 s, if its window allows."""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_stopped_once_calls_in_flight_end_and_are_kept(
    tidemill: Tidemill, simulator: Simulator, how: signal.Signals
) -> None:
    simulator.control(gate="shut")
    path = tidemill.prompts("stopped.jsonl", PROMPTS)
    command = ("ask", "-i", path, "-o", "answers.jsonl", "--window", "20", *HTTP)
    with tidemill.started(*command) as running:
        running.until(_in_flight(simulator, 20), "20 calls are in flight")
        running.signal(how)
        running.says("20 calls in flight may end")
        simulator.control(gate="open")
        ran = running.ended()
    assert (ran.code, ran.out) == (130, "")
    assert "Nothing is lost: the same command continues from here." in ran.err
    assert "Traceback" not in ran.err
    assert simulator.counters()["paid"] == 20
    assert tidemill.query("SELECT count(*) FROM dialogues") == [(20,)]
    assert tidemill.query("SELECT count(*) FROM jobs WHERE state = 'running'") == [(0,)]
    assert len((tidemill.folder / "answers.jsonl").read_text().splitlines()) == 20

    assert re.match(summary(60, 60), tidemill(*command).ok().last_line)
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in PROMPTS}


def test_stopped_twice_it_ends_at_once(tidemill: Tidemill, simulator: Simulator) -> None:
    simulator.control(gate="shut")
    path = tidemill.prompts("stopped.jsonl", PROMPTS)
    command = ("ask", "-i", path, "-o", "-", "--window", "20", *HTTP)
    with tidemill.started(*command) as running:
        running.until(_in_flight(simulator, 20), "20 calls are in flight")
        running.signal(signal.SIGINT)
        running.says("Ctrl-C again stops at once")
        running.signal(signal.SIGINT)
        ran = running.ended()
    assert simulator.counters()["in_flight"] == 20, "it waited for its calls"
    assert (ran.code, ran.out) == (130, "")
    assert "Traceback" not in ran.err

    simulator.control(gate="open")
    assert answers(tidemill(*command).ok().rows)
    simulator.wait_until_idle()
    assert max(simulator.paid_by_prompt().values()) <= 2
    assert simulator.counters()["paid"] <= 60 + 20


@pytest.mark.parametrize("anywhere", ["shared"], indirect=True)
def test_stopping_a_command_that_only_watches_stops_no_work(anywhere: Tidemill, simulator: Simulator) -> None:
    simulator.control(gate="shut")
    prompts = [f"watched {number}" for number in range(300)]
    path = anywhere.prompts("watched.jsonl", prompts)
    with anywhere.started("ask", "-i", path, "-o", "-", "--name", "watched", *HTTP) as running:
        stored = "SELECT count(*) FROM jobs WHERE batch_id LIKE 'watched%'"
        running.until(lambda: anywhere.query(stored) == [(300,)], "all rows are stored")
        running.until(_in_flight(simulator, 20), "it is under way")
        running.signal(signal.SIGINT)
        assert running.ended().code == 130
    simulator.control(gate="open")
    assert re.match(summary(300, 300), anywhere("watch", "watched").ok().last_line)
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in prompts}


def _both_stop(worker: Running) -> bool:
    """Whether both of its processes have begun to wait for their calls."""
    return worker.err.count("calls in flight have") == 2


def test_a_worker_that_is_told_to_stop_ends_its_calls_and_pays_nothing_twice(
    alone: Tidemill, simulator: Simulator
) -> None:
    simulator.control(gate="shut")
    prompts = [f"drained {number}" for number in range(200)]
    path = alone.prompts("drained.jsonl", prompts)
    alone("ask", "-i", path, "--detach", *HTTP).ok()
    with alone.started("worker", "--processes", str(PROCESSES), "--window", str(WINDOW)) as worker:
        worker.until(_in_flight(simulator, PROCESSES * WINDOW), "the windows of both processes are full")
        os.kill(worker.process.pid, signal.SIGTERM)
        wait_until(lambda: _both_stop(worker), "the workers stop, and wait for their calls")
        called = simulator.counters()["in_flight"]
        simulator.control(gate="open")
        assert worker.ended().code == 0
    paid = simulator.counters()["paid"]
    assert paid == called
    assert alone.query("SELECT count(*) FROM dialogues") == [(paid,)]
    assert alone.query("SELECT count(*) FROM jobs WHERE state = 'running'") == [(0,)]
    assert alone.query("SELECT count(*) FROM workers") == [(0,)]
    with alone.started("worker", "--window", "60"):
        alone("watch", "latest").ok()
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in prompts}


def test_plain_celery_runs_the_worker_too(alone: Tidemill) -> None:
    path = alone.prompts("celery.jsonl", ["run by celery 1", "run by celery 2"])
    script = "import sys; from celery.__main__ import main; sys.argv[0] = 'celery'; main()"
    submitted = alone("ask", "-i", path, "--detach", "--json", *HTTP).ok().json["batch"]
    environment = alone.environment | {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", script, "-A", "tidemill.worker.app", "worker", "--loglevel", "WARNING"]
    running = Running(command, environment, alone.folder, 99)
    try:
        assert re.match(summary(2, 2), alone("watch", submitted).ok().last_line)
    finally:
        running.kill()


def _in_flight(simulator: Simulator, calls: int) -> Callable[[], bool]:
    return lambda: simulator.counters()["in_flight"] >= calls


# --- a full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own that is soon full; only root can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fills_while_rows_are_stored_stops_the_command_and_loses_nothing(
    tidemill: Tidemill, simulator: Simulator, small_disk: Path
) -> None:
    prompts = [f"stored on a small disk {number} {'x' * 500}" for number in range(2500)]
    path = tidemill.prompts("stored.jsonl", prompts)
    tidemill.environment["TIDEMILL_HOME"] = str(small_disk)
    command = ("ask", "-i", path, "-o", "answers.jsonl", *HTTP)
    ran = tidemill(*command)
    assert ran.code == 2
    assert "Free space, then run the same command again; what was stored is safe." in ran.last_line
    assert "Traceback" not in ran.err
    _resize(small_disk, "100m")
    assert re.match(summary(2500, 2500), tidemill(*command).ok().last_line)
    assert set(simulator.paid_by_prompt()) == {prompt_hash(prompt) for prompt in prompts}


def test_a_disk_that_fills_while_answers_come_is_waited_for(
    tidemill: Tidemill, simulator: Simulator, small_disk: Path
) -> None:
    simulator.control(reply_chars=20_000)
    prompts = [f"answered on a small disk {number}" for number in range(150)]
    path = tidemill.prompts("answered.jsonl", prompts)
    tidemill.environment["TIDEMILL_HOME"] = str(small_disk)
    with tidemill.started("ask", "-i", path, "-o", "answers.jsonl", *HTTP) as running:
        running.says("Free space")
        _resize(small_disk, "100m")
        ran = running.ended()
    assert ran.code == 0, ran
    assert re.match(summary(150, 150), ran.last_line)
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in prompts}


def _resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP], ids=["ctrl-c", "the terminal is closed"])
def test_a_pipe_that_stays_open_keeps_nobody_from_stopping(
    tidemill: Tidemill, simulator: Simulator, how: signal.Signals
) -> None:
    command = [sys.executable, "-P", "-m", "tidemill.producer.cli.commands", "ask", "-i", "-", "-o", "-", *HTTP]
    with subprocess.Popen(
        command,
        env=os.environ | tidemill.environment,
        cwd=tidemill.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as asking:
        assert asking.stdin is not None and asking.stderr is not None
        try:
            asking.stdin.write(b"".join(b"line %d\n" % number for number in range(40)))
            asking.stdin.flush()
            wait_until(lambda: simulator.counters()["paid"] >= 32, "the first rows are answered")
            asking.send_signal(how)
            assert asking.wait(limit()) == 130
            assert b"Traceback" not in asking.stderr.read()
        finally:
            asking.kill()


@pytest.mark.parametrize("judges", ["working", "stopped"])
def test_a_fleet_whose_supervisor_is_killed_drains_and_leaves_nothing_behind(
    alone: Tidemill, simulator: Simulator, judges: str
) -> None:
    command = ("worker", "--processes", str(PROCESSES), "--window", str(WINDOW))
    with alone.started(*command) as running, _fleet_of(running) as fleet:
        alone("ask", "-i", alone.prompts("d.jsonl", IN_DOUBT), "-o", "-", *HTTP).ok()
        fleet[:] = psutil.Process(running.process.pid).children(recursive=True)
        judging = [each for each in fleet if "worker.judge" in " ".join(each.cmdline())]
        assert judging
        simulator.control(gate="shut")
        alone("ask", "-i", alone.prompts("p.jsonl", PROMPTS), "--detach", *HTTP).ok()
        running.until(_in_flight(simulator, PROCESSES * WINDOW), "the windows of both processes are full")
        if judges == "stopped":
            for each in judging:
                each.suspend()
        running.process.kill()
        running.process.wait()
        wait_until(lambda: _both_stop(running), "the workers stop, and wait for their calls")
        called = simulator.counters()["paid"] + simulator.counters()["in_flight"]
        simulator.control(gate="open")
        psutil.wait_procs(fleet, timeout=limit())
        assert [each for each in fleet if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    assert alone.query("SELECT count(*) FROM dialogues") == [(simulator.counters()["paid"],)]
    assert alone.query("SELECT count(*) FROM jobs WHERE state = 'running'") == [(0,)]
    assert alone.query("SELECT count(*) FROM workers") == [(0,)]
    assert simulator.counters()["paid"] == called


@contextmanager
def _fleet_of(running: Running) -> Iterator[list[psutil.Process]]:
    """Two workers; none of them is left when the block ends, nor what is added to them."""
    supervisor = psutil.Process(running.process.pid)
    fleet: list[psutil.Process] = []
    try:
        running.until(lambda: len(supervisor.children(recursive=True)) == 2, "two workers are up")
        fleet += supervisor.children(recursive=True)
        yield fleet
    finally:
        for process in fleet:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize("anywhere", ["embedded"], indirect=True)
def test_a_judge_that_is_stopped_keeps_nobody_waiting(anywhere: Tidemill, simulator: Simulator) -> None:
    path = anywhere.prompts("judged.jsonl", IN_DOUBT)
    simulator.control(gate=1)
    with anywhere.started("ask", "-i", path, "-o", "-", "--window", "1", *HTTP) as running:
        running.until(lambda: simulator.counters()["paid"] > 0, "a reply is in doubt")
        running.until(lambda: psutil.Process(running.process.pid).children(), "a judge starts")
        (judge,) = psutil.Process(running.process.pid).children()
        running.until(lambda: judge.nice() > os.nice(0), "the judge is ready")
        judge.suspend()
        simulator.control(gate="open")
        assert answers(running.ended().ok().rows)
    assert anywhere.query("SELECT count(*) FROM dialogues WHERE sentiment IS NULL") == [(0,)]
