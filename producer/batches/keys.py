"""A row is recognized by what it asks, not by where it stands or how it is spelled, and is never mistaken for another.

A row's key is a hash of its own id and its request, each in canonical form, plus which occurrence of that it is.
Counting occurrences of a million rows would hold a million hashes; here only contents that came twice are remembered.
Whether a content has come before shows when its row is stored: then its key is taken.

Until version 0.1 the hash was of the spelling. Rows of that time are found by it and get their new key when they come
again.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from tidemill.models.canonical import canonical
from tidemill.models.text import dumps
from tidemill.producer.intake.tables import Row

_WHOLE_FLOAT = re.compile(r"(0|-?[1-9][0-9]*)\.0+")
"""An id as a column of floats spells it, in a CSV too: a frame's whole numbers are floats as soon as one is missing."""


class Prepared(NamedTuple):
    """A row on its way to be stored: its digest, and what is stored of it as JSON texts.

    `content` is the digest of what a picture's row asks, by which its twins are found. `spelled` is the digest that
    version 0.1 had for the row, mostly the same one.
    """

    digest: str
    spelled: str
    custom_id: str | None
    request: str
    columns: str
    content: str | None
    refusal: tuple[str, str] | None
    line: int

    @classmethod
    def of(cls, row: Row) -> Self:
        """Prepare a row."""
        request = dumps(row.request)
        asked = row.request if row.asked is None else row.asked
        by_value = row.content if row.content and row.asked is None else dumps(canonical(asked))
        own_id, spelled_id = _id_by_value(row.custom_id), row.spelled_id or row.custom_id
        spelling = row.content or request
        digest = spelled = _digest(dumps(own_id) + by_value)
        if own_id != spelled_id or by_value != spelling:
            spelled = _digest(dumps(spelled_id) + spelling)
        content = None if row.content is None else _digest(row.content)
        return cls(digest, spelled, row.custom_id, request, dumps(row.columns), content, row.refusal, row.line)


def _id_by_value(custom_id: str | None) -> str | None:
    whole = None if custom_id is None else _WHOLE_FLOAT.fullmatch(custom_id)
    return whole[1] if whole else custom_id


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Occurrences:
    """How often contents came in rows that are stored, by both digests, as far as a key needs it."""

    def __init__(self) -> None:
        self._by_value: Counter[str] = Counter()
        self._by_spelling: Counter[str] = Counter()

    def keys(self, rows: Sequence[Prepared]) -> list[str]:
        """The key of each of the next rows."""
        return keys_of([row.digest for row in rows], self._by_value)

    def spelled_keys(self, rows: Sequence[Prepared]) -> list[str]:
        """The key that version 0.1 had for each of them."""
        return keys_of([row.spelled for row in rows], self._by_spelling)

    def note_earlier(self, digests: Iterable[str], rows: Sequence[Prepared]) -> None:
        """Note that contents of these rows have come in an earlier chunk: they are numbered after those."""
        known = set(digests)
        self._by_value.update(known)
        self._by_spelling.update({row.spelled for row in rows if row.digest in known})

    def count(self, rows: Sequence[Prepared]) -> None:
        """Count rows that have been stored; contents that came once are not remembered."""
        for before, digests in (
            (self._by_value, [row.digest for row in rows]),
            (self._by_spelling, [row.spelled for row in rows]),
        ):
            for digest, count in Counter(digests).items():
                if count > 1 or digest in before:
                    before[digest] += count


def keys_of(digests: Sequence[str], repeated: Counter[str]) -> list[str]:
    """The key of each row: its digest alone, or with the number of its occurrence from the second on.

    `repeated` has how often contents came in earlier rows, where that was more than once.
    """
    if not repeated and len(set(digests)) == len(digests):
        return list(digests)
    here: Counter[str] = Counter()
    keys = []
    for digest in digests:
        here[digest] += 1
        occurrence = repeated.get(digest, 0) + here[digest]
        keys.append(digest if occurrence == 1 else f"{digest}-{occurrence}")
    return keys
