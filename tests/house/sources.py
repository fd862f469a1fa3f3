"""House tests read the project's own files; this is where they find them."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "producer", "worker", "migrations", "simulator")
"""Our folders; each is imported as `tidemill.` and its name."""

DOCUMENTS = (
    *("README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)


@dataclass(frozen=True)
class Module:
    """A Python file of ours; `name` is its path from the project's folder."""

    name: str
    text: str
    tree: ast.Module


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file of the packages that are installed."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(
        Module(path.relative_to(ROOT).as_posix(), text := path.read_text("utf-8"), ast.parse(text)) for path in paths
    )


@cache
def document(name: str) -> str:
    """The text of a document."""
    return (ROOT / name).read_text("utf-8")


ALL_PYTHON = ("docs/python.md",)
"""Documents whose code is Python throughout: a block there may go on with what an earlier one has imported."""


def python_of(name: str) -> list[str]:
    """The Python programs in a document: its indented blocks that import from Tidemill."""
    blocks = re.findall(r"(?m)(?:^ {4}.*\n|^\n(?= {4}))+", document(name))
    return [
        "\n".join(line[4:] for line in block.splitlines())
        for block in blocks
        if "<<" not in block and (name in ALL_PYTHON or re.search(r"(?m)^ {4}(?:from|import) tidemill\b", block))
    ]


def section(text: str, heading: str) -> str:
    """What stands under a heading of Markdown, up to the next one of its level or above."""
    head, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r} after {head[:60]!r}"
    level = len(heading) - len(heading.lstrip("#"))
    lines = rest.splitlines()
    ends = (
        number
        for number, line in enumerate(lines)
        if line.startswith("#") and len(line) - len(line.lstrip("#")) <= level and " " in line
    )
    return "\n".join(lines[: next(ends, len(lines))])


def first_cells(table: str) -> list[str]:
    """The first cell of each row of a Markdown table, without its head."""
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [row.split("|")[1].strip() for row in rows if not set(row) <= set("|-: ")][1:]


def headings(text: str) -> list[str]:
    """The headings of Markdown as links name them: `Options of `ask`` is `options-of-ask`."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return [re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles]


@cache
def our_files() -> tuple[Path, ...]:
    """Files that belong to the project: what git has or would take, else everything that is not hidden or built."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return tuple(_walked())
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def _walked() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [each for each in folders if not each.startswith(".") and each not in ("__pycache__", "build")]
        yield from (Path(folder) / each for each in files)
