"""Every run gets an empty, migrated database, the same prompts and a clean environment, and leaves nothing."""

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from tests.benchmarks.trees import Tree
from tests.pictures import encoded, photo
from tests.servers import Broker, Postgres

TIDEMILL = str(Path(sys.executable).with_name("tidemill"))

_OURS = ("OPENAI_", "TIDEMILL_")
_NO_CACHED_BYTECODE = "PYTHONDONTWRITEBYTECODE"
"""Nobody's tool is measured compiling itself anew at each start."""
_COMMAND_SECONDS = 60.0
_CITIES = ("Lisbon", "Oslo", "Vienna", "Kyoto", "Quito", "Nairobi", "Boston", "Perth", "Turin", "Ghent")
_THINGS = ("kettle", "bicycle", "lamp", "printer", "backpack", "radio", "blender", "tent", "watch", "keyboard")
_TROUBLES = (
    "arrived a week late and with a scratch",
    "works far better than the old one did",
    "stopped working on the second morning",
    "came in the wrong colour but is lovely",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run takes place: a folder, an environment, an empty database with our tables."""

    folder: Path
    environment: Mapping[str, str]
    database_url: str


class Lab(AbstractContextManager["Lab"]):
    """Servers, prompts and places for runs; servers start when the first run needs them, all ends with the context."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def prompts(self, rows: int) -> Path:
        """A JSONL file of so many distinct prompts of about 190 characters, each with its custom_id."""
        path = self.folder / f"prompts-{rows}.jsonl"
        if not path.exists():
            with path.open("w") as file:
                for number in range(rows):
                    file.write(json.dumps({"custom_id": f"order-{number}", "prompt": _prompt(number)}) + "\n")
        return path

    def problems(self, rows: int) -> Path:
        """A JSONL file of so many distinct questions and worked answers, in form and length like those of GSM8K."""
        path = self.folder / f"problems-{rows}.jsonl"
        if not path.exists():
            with path.open("w") as file:
                for number in range(rows):
                    file.write(json.dumps(_problem(number)) + "\n")
        return path

    def photo(self, number: int, width: int, height: int) -> Path:
        """A JPEG like a photo, one of a few dozen."""
        path = self.folder / f"photo-{width}-{number}.jpg"
        if not path.exists():
            path.write_bytes(encoded(photo(width, height, number), "JPEG", quality=85))
        return path

    @contextmanager
    def place(self, provider_url: str, *, shared: bool) -> Iterator[Place]:
        """A place of its own for one run, embedded or shared; removed afterwards."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        environment = _clean_environment() | {
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": provider_url,
            "TIDEMILL_HOME": str(folder),
        }
        try:
            if not shared:
                shutil.copy(self._migrated_file, folder / "tidemill.db")
                yield Place(folder, environment, f"sqlite:///{folder / 'tidemill.db'}")
                return
            self._broker.flush()
            url = self._postgres.database(template=self._migrated_database)
            environment |= {"TIDEMILL_DATABASE_URL": url, "TIDEMILL_BROKER_URL": self._broker.url}
            yield Place(folder, environment, url)
            # Its dead rows would have the vacuum at work during the runs that follow.
            self._postgres.execute(f"DROP DATABASE {_name(url)} WITH (FORCE)")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def move_servers(self, cores: Collection[int]) -> None:
        """Let the servers that run, and all that they start later, use these cores only."""
        for server in (self.__dict__.get("_postgres"), self.__dict__.get("_broker")):
            if server is not None:
                root = psutil.Process(server.pid)
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.Error):
                        process.cpu_affinity(list(cores))

    @cached_property
    def _broker(self) -> Broker:
        return self._stack.enter_context(Broker())

    @cached_property
    def _postgres(self) -> Postgres:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel says where it keeps its lock
            return self._stack.enter_context(Postgres())

    @cached_property
    def _migrated_file(self) -> Path:
        self._migrate({"TIDEMILL_HOME": str(self.folder)})
        return self.folder / "tidemill.db"

    @cached_property
    def _migrated_database(self) -> str:
        url = self._postgres.database()
        self._migrate({"TIDEMILL_DATABASE_URL": url})
        return _name(url)

    def _migrate(self, where: Mapping[str, str]) -> None:
        run((TIDEMILL, "db", "upgrade"), {**_clean_environment(), **where}, self.folder, _COMMAND_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path, seconds: float) -> Tree:
    """Run a command to its end; the tree knows what it used.

    Raises:
        RunError: it failed or took longer than so many seconds.
    """
    with Tree(command, environment, folder) as tree:
        tree.wait(seconds)
    return tree


def _clean_environment() -> dict[str, str]:
    not_theirs = (*_OURS, _NO_CACHED_BYTECODE)
    return {name: value for name, value in os.environ.items() if not name.startswith(not_theirs)}


def _name(database_url: str) -> str:
    return database_url.partition("?")[0].rpartition("/")[2]


def _prompt(number: int) -> str:
    city, thing = _CITIES[number % 10], _THINGS[number // 10 % 10]
    trouble = _TROUBLES[number // 100 % 4]
    return (
        f"Customer {number} from {city} writes that the {thing} from our shop {trouble}. "
        "Say in one sentence how the customer feels, then propose what we should answer, friendly and briefly."
    )


def _problem(number: int) -> dict[str, str]:
    city, thing = _CITIES[number % 10], _THINGS[number // 10 % 10]
    price, share, made = number % 89 + 7, number % 13 + 2, number + 40
    sold = made - share
    return {
        "question": (
            f"A workshop in {city} makes {made} {thing}s in a year. It gives {share} of them to a school nearby and "
            f"sells the remainder at the market for ${price} each. Tools and rent come to {share} times the price of "
            f"one {thing}. How much in dollars does the workshop have left at the end of the year?"
        ),
        "answer": (
            f"The workshop sells {made} - {share} = <<{made}-{share}={sold}>>{sold} {thing}s.\n"
            f"It takes {sold} * {price} = $<<{sold}*{price}={sold * price}>>{sold * price} at the market.\n"
            f"Tools and rent come to {share} * {price} = $<<{share}*{price}={share * price}>>{share * price}.\n"
            f"So it has {sold * price} - {share * price} = $<<{sold * price}-{share * price}={(sold - share) * price}>>"
            f"{(sold - share) * price} left.\n#### {(sold - share) * price}"
        ),
    }
