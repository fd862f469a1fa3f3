"""A row is recognized by what it asks, not by where it stands, and is never mistaken for another.

A row's key is a hash of its own id and its request, plus which occurrence of that it is. Counting occurrences of a
million rows would hold a million hashes; here only contents that came twice are remembered. Whether a content has
come before shows when its row is stored: then its key is taken.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from tidemill.models.text import dumps
from tidemill.producer.intake.tables import Row


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row on its way to be stored: its digest, and what is stored of it as JSON texts.

    `content` is the digest of what a picture's row asks, by which its twins are found.
    """

    digest: str
    custom_id: str | None
    request: str
    columns: str
    content: str | None
    refusal: tuple[str, str] | None

    @classmethod
    def of(cls, row: Row) -> Self:
        """Prepare a row."""
        request = dumps(row.request)
        digest = _digest(f"{dumps(row.custom_id)}{row.content or request}")
        content = None if row.content is None else _digest(row.content)
        return cls(digest, row.custom_id, request, dumps(row.columns), content, row.refusal)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def keys_of(digests: Sequence[str], repeated: Counter[str]) -> list[str]:
    """The key of each row: its digest alone, or with the number of its occurrence from the second on.

    `repeated` has how often contents came in earlier rows, where that was more than once.
    """
    here: Counter[str] = Counter()
    keys = []
    for digest in digests:
        here[digest] += 1
        occurrence = repeated.get(digest, 0) + here[digest]
        keys.append(digest if occurrence == 1 else f"{digest}-{occurrence}")
    return keys


def count_stored(digests: Iterable[str], repeated: Counter[str]) -> None:
    """Count rows that have been stored; contents that came once are not remembered."""
    for digest, count in Counter(digests).items():
        if count > 1 or digest in repeated:
            repeated[digest] += count
