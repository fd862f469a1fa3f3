"""A table with named rows can get more from outside: by a call, or from another installed package."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from typing import Generic, TypeVar

from tidemill.models.errors import SettingsError

Row = TypeVar("Row")


class Registry(Generic[Row]):
    """Rows by name: ours, then registered ones, then those of installed packages.

    A package names its rows in the entry points of a group: `[project.entry-points."tidemill.endpoints"]` with
    `echo = "its_package.module:ROW"`. Looking for them takes some milliseconds, so it is done only for names that
    are not known yet.

    Args:
        group: of the entry points.
        noun: what a row is called in a sentence.
        rows: ours.
    """

    def __init__(self, group: str, noun: str, rows: Mapping[str, Row]) -> None:
        self._group = group
        self._noun = noun
        self._rows = dict(rows)

    def register(self, name: str, row: Row) -> None:
        """Add a row, or replace the one of that name, in this process only."""
        self._rows[name] = row

    def __getitem__(self, name: str) -> Row:
        """The row of this name.

        Raises:
            SettingsError: there is none; the text lists all names.
        """
        if name not in self._rows:
            for entry in _installed(self._group).select(name=name):
                self._rows[name] = entry.load()
        if name not in self._rows:
            raise SettingsError(f"There is no {self._noun} {name!r}; there are {', '.join(self.names())}.")
        return self._rows[name]

    def names(self) -> tuple[str, ...]:
        """Names of all rows, ours first."""
        return tuple(dict.fromkeys([*self._rows, *sorted(_installed(self._group).names)]))


@cache
def _installed(group: str) -> EntryPoints:
    return entry_points(group=group)
