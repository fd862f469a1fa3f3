"""A flow is written as its user does it: `tidemill("ask", "-i", path)`, then a look at what came out.

Nothing is imported of what is tested: the command runs in a process of its own, and tests read its output and, where a
promise is about the database, the tables.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from tests.flows import warm
from tests.waiting import LIMIT_SECONDS, limit, wait_until
from tidemill.simulator import reply_tag

SUMMARY = (
    r"^{rows} rows?: {succeeded} succeeded, {failed} failed, {open} open · [\d,]+ tokens · "
    r"(<?\$[\d.,]+|unknown price)( and unknown prices)? · \d+ s$"
)
"""A run's last line, as the issue draws it, with places for four counts."""


def summary(rows: int, succeeded: int, failed: int = 0, open_: int = 0) -> str:
    """The pattern of a run's last line."""
    return SUMMARY.format(rows=f"{rows:,}", succeeded=f"{succeeded:,}", failed=f"{failed:,}", open=open_)


COMMAND = (sys.executable, "-P", "-m", "tidemill.producer.cli.commands")
"""`tidemill`, as it is in this checkout."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """What it wrote to standard error, without what it says every ten seconds, which a slow machine may need."""
        return re.sub(r"(?m)^tidemill: No answer yet after .*\n", "", self.err)

    @property
    def last_line(self) -> str:
        """Of standard error."""
        return self.err.rstrip("\n").rpartition("\n")[2]

    def ok(self) -> "Ran":
        """Itself, when it exited with 0."""
        assert self.code == 0, self
        return self


class Running:
    """A command under way, in a process group of its own, as a terminal would start it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, nth: int) -> None:
        self._out, self._err = folder / f".out-{nth}", folder / f".err-{nth}"
        with self._out.open("wb") as out, self._err.open("wb") as err, Path(os.devnull).open("rb") as nothing:
            self.process = _start(command, environment, folder, (nothing.fileno(), out.fileno(), err.fileno()))

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text(encoding="utf-8")

    def until(self, predicate: Callable[[], object], what: str, seconds: float = LIMIT_SECONDS) -> None:
        """Wait until the predicate holds while it runs."""
        wait_until(lambda: predicate() or self.process.poll() is not None, what, seconds)
        assert predicate(), f"it ended before {what}: {self.err}"

    def says(self, words: str, seconds: float = LIMIT_SECONDS) -> None:
        """Wait until it has written these words to standard error."""
        self.until(lambda: words in self.err, f"it says {words!r}", seconds)

    def signal(self, number: signal.Signals) -> None:
        """To the whole group, as a terminal does it on Ctrl-C."""
        os.killpg(self.process.pid, number)

    def ended(self, seconds: float = LIMIT_SECONDS) -> Ran:
        """Wait for its end."""
        code = self.process.wait(limit(seconds))
        return Ran(code, self._out.read_text(encoding="utf-8"), self.err)

    def kill(self) -> None:
        """End it and all that it started, whatever they do."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Tidemill:
    """The command line in one user's world: some variables and a working folder."""

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        command: Sequence[str] = COMMAND,
        python: str = sys.executable,
    ) -> None:
        self.environment = dict(environment)
        self.folder = folder
        self._command = command
        self._python = python
        self._started = 0
        self._engines: dict[str, Engine] = {}

    def __call__(
        self,
        *args: str | Path,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = LIMIT_SECONDS,
        **env: str,
    ) -> Ran:
        """Run `tidemill` with these arguments to its end."""
        return self._run([*self._command, *map(str, args)], input, timeout, env)

    def python(self, script: str, input: str | None = None, timeout: float = LIMIT_SECONDS, **env: str) -> Ran:  # noqa: A002
        """Run a Python script where tidemill is installed."""
        return self._run([self._python, "-c", script], input, timeout, env)

    def _run(self, command: list[str], given: str | bytes | None, timeout: float, env: Mapping[str, str]) -> Ran:
        environment = self._environment(env)
        given = given.encode() if isinstance(given, str) else given or b""
        if (args := _warm_arguments(command, environment)) is not None:
            return Ran(*warm.run(args, environment, self.folder, given, limit(timeout)))
        done = subprocess.run(
            command,
            env=environment,
            cwd=self.folder,
            input=given,
            capture_output=True,
            timeout=limit(timeout),
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def on_a_terminal(self, *args: str, look: Callable[[bytes], None] = lambda _shown: None) -> str:
        """What a terminal gets of both streams while `tidemill` runs with these arguments to its end.

        `look` is called with what is shown by then, each time that there is more.
        """
        leader, terminal = pty.openpty()
        environment = self._environment({"TERM": "xterm", "PYTHONIOENCODING": "utf-8"})
        with Path(os.devnull).open("rb") as nothing:
            streams = nothing.fileno(), terminal, terminal
            process = _start([*self._command, *args], environment, self.folder, streams)
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # so a terminal says that nobody is there any more
            while piece := os.read(leader, 65_536):
                shown += piece
                look(shown)
        os.close(leader)
        process.wait(limit())
        return shown.decode()

    @contextmanager
    def started(self, *args: str | Path, **env: str) -> Iterator[Running]:
        """Start `tidemill` with these arguments; nothing of it is left when the block ends."""
        self._started += 1
        command = [*self._command, *map(str, args)]
        running = Running(command, self._environment(env), self.folder, self._started)
        try:
            yield running
        finally:
            running.kill()

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TIDEMILL_"))}
        return own | self.environment | dict(more)

    def wait_for_duties(self) -> None:
        """Wait until every worker has done each of its regular duties once more."""
        for _ in range(2):  # a round may have begun before this was asked
            before = self._last_seen()
            wait_until(lambda: before.isdisjoint(self._last_seen()), "every worker has been seen again")  # noqa: B023

    def _last_seen(self) -> set[tuple[str, str]]:
        return {(row.id, str(row.seen_at)) for row in self.query("SELECT id, seen_at FROM workers")}

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the working folder."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def prompts(self, name: str, prompts: list[str]) -> Path:
        """A JSONL file in the working folder, one prompt a row."""
        return self.write(name, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))

    @property
    def engine(self) -> Engine:
        """The database behind it, connected to anew each time, without any code of what is tested."""
        url = (
            self.environment.get("TIDEMILL_DATABASE_URL")
            or f"sqlite:///{self.environment['TIDEMILL_HOME']}/tidemill.db"
        )
        if url not in self._engines:
            self._engines[url] = create_engine(
                url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool
            )
        return self._engines[url]

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        """The rows of a SELECT."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), parameters))


def _start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
) -> subprocess.Popen[bytes] | warm.Command:
    """Start a command in a session of its own, warm where that is the same."""
    if (args := _warm_arguments(command, environment)) is not None:
        return warm.Command(args, environment, folder, streams)
    stdin, stdout, stderr = streams
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
    )


def _warm_arguments(command: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """What tests/flows/warm.py is given of a command; None for one that must start cold."""
    if not warm.can_run(environment):
        return None
    if tuple(command[: len(COMMAND)]) == COMMAND:
        return list(command[len(COMMAND) :])
    return list(command[1:]) if tuple(command[:2]) == (sys.executable, "-c") else None


def answers(rows: list[dict[str, Any]], column: str = "prompt") -> bool:
    """Whether every row succeeded with the very reply to its own prompt."""
    return all(row["status"] == "succeeded" and row["reply"].endswith(reply_tag(row[column])) for row in rows)
