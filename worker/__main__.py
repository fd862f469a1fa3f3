"""`tidemill worker --processes N` runs N workers, Celery's if there is a broker, and restarts those that die.

Each is a process of its own. A signal to stop goes to all of them, and they drain. They do so, too, when this process
is gone and has said nothing: it holds the other end of their standard input.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from logging import ERROR, INFO
from types import FrameType

from tidemill.migrations import ensure
from tidemill.models import interpreters
from tidemill.models.call_settings import check_client
from tidemill.models.errors import TidemillError
from tidemill.models.settings import export_file, settings
from tidemill.worker import starting, stopping
from tidemill.worker.fleet import Fleet

RESTART_SECONDS = 2.0


def command(number: int, *more: str) -> list[str]:
    """The command line that starts one worker; `more` is the pipe for its counts, if it has one."""
    module = "alone" if settings().embedded else "app"
    return interpreters.command("-c", f"from tidemill.worker.{module} import run; run()", f"tidemill{number}@%h", *more)


class Supervisor:
    """Keeps this number of workers running until it is told to stop; a fleet hears what they count."""

    def __init__(self, processes: int, fleet: Fleet | None = None) -> None:
        self._stopping = self._is_hurried = False
        self._fleet = fleet
        self._kill_at = float("inf")
        self._restarted: set[int] = set()
        self._processes = [self._start(number) for number in range(processes)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        if self._fleet is None:
            return self._open(command(number))
        ours, its = os.pipe()
        try:
            process = self._open(command(number, str(its)), its)
        finally:
            os.close(its)
        self._fleet.listen(number, ours)
        return process

    @staticmethod
    def _open(command: list[str], *pipes: int) -> subprocess.Popen[bytes]:
        # In a session of its own: the terminal's Ctrl-C reaches only us, and each worker gets exactly one signal.
        return subprocess.Popen(  # noqa: S603  # our own command
            command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=pipes
        )

    def stop(self, *_: int | FrameType | None) -> None:
        """Tell every worker to drain; the second time, to stop at once."""
        self._is_hurried = self._stopping
        signal_number = signal.SIGQUIT if self._stopping else signal.SIGTERM
        if not self._stopping:
            self._kill_at = time.monotonic() + stopping.longest_seconds() + stopping.FROZEN_SECONDS
        self._stopping = True
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal_number)

    def run(self) -> int:
        """Watch until all have stopped; returns the first exit code that is not 0."""
        while True:
            if time.monotonic() > self._kill_at:
                for process in self._processes:
                    process.kill()  # it is frozen: others would have ended by themselves
            for number, process in enumerate(self._processes):
                if process.poll() is not None and not self._stopping:
                    if process.returncode == TidemillError.exit_code and number not in self._restarted:
                        self.stop()  # it has printed why, and would only print it again
                        break
                    # A worker that ran before may have been restarted while the database was away.
                    self._restarted.add(number)
                    starting.say(f"worker {number} ended with {process.returncode}; starting it again", event="restart")
                    time.sleep(RESTART_SECONDS)
                    if not self._stopping:  # a signal to stop may have come meanwhile
                        self._processes[number] = self._start(number)
            if self._stopping and all(process.poll() is not None for process in self._processes):
                if self._is_hurried:
                    starting.say("told to stop twice, so nothing was waited for", event="stopped_at_once")
                return next((process.returncode for process in self._processes if process.returncode), 0)
            time.sleep(0.1)


def main() -> int:
    """Run as `python -m worker`."""
    parser = argparse.ArgumentParser(prog="tidemill worker")
    parser.add_argument("--processes", type=int, default=1)
    processes = parser.parse_args().processes
    try:
        starting.show_log()
        check_client(settings())
        ensure()
        fleet = _served()
        export_file()
    except TidemillError as error:
        starting.say(error, level=ERROR, event="cannot_start")
        return error.exit_code
    if sentence := starting.missing_key():
        starting.say(sentence)
    supervisor = Supervisor(processes, fleet)
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    sentence = f"{processes} worker(s), {settings().window} calls in flight each; Ctrl-C stops."
    starting.say(sentence, level=INFO, event="starting")
    return supervisor.run()


def _served() -> Fleet | None:
    """The fleet whose counts are served, where metrics are asked for. Raises SettingsError if the port is taken."""
    port = settings().metrics_port
    if port is None:
        return None
    from tidemill.worker import exporter  # with prometheus-client, which nobody else needs

    fleet = Fleet()
    exporter.serve(port, fleet)
    return fleet


if __name__ == "__main__":
    sys.exit(main())
