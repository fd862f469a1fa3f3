"""A chaos run ends with the comparison that users get from `tidemill rehearse`, here as one assertion."""

import os
import random
from collections.abc import Sequence

from tests.flows.tidemill import Tidemill
from tidemill.producer.rehearsing.books import Books, PaidCall, compare


def a_seed() -> int:
    """Another one each time, printed; CHAOS_SEED=.. repeats a run, as far as the machine lets it."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    return seed


def check(user: Tidemill, paid: Sequence[PaidCall], prompts: Sequence[str]) -> Books:
    """Compare the books, and raise AssertionError where a promise did not hold."""
    with user.engine.connect() as connection:
        books = compare(connection, prompts, paid)
    assert not books.problems, f"{books}: {'; '.join(books.problems)}"
    return books
