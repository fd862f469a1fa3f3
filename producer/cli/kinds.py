"""What can be done to a batch depends on its kind only here, in a table from kind to functions."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tidemill import migrations
from tidemill.producer.batches import control, run
from tidemill.producer.batches.progress import resolve
from tidemill.producer.training import fine_tune_control


class Verbs(NamedTuple):
    """Command -> what does it to the batch of an id, printing JSON if the second argument says so.

    As they are here they fit every kind that has plain rows.
    """

    watch: Callable[[str, bool], None] = run.watch
    results: Callable[[str, str], None] = run.results
    """Its second argument is where the rows go."""
    retry: Callable[[str, bool], None] = partial(control.change, "retry")
    pause: Callable[[str, bool], None] = partial(control.change, "pause")
    resume: Callable[[str, bool], None] = partial(control.change, "resume")
    cancel: Callable[[str, bool], None] = partial(control.change, "cancel")


KINDS = {
    # The provider must hear of it, too.
    "train": Verbs(
        watch=fine_tune_control.watch,
        results=fine_tune_control.results,
        pause=partial(fine_tune_control.change, "pause"),
        resume=partial(fine_tune_control.change, "resume"),
        cancel=partial(fine_tune_control.change, "cancel"),
    ),
}
"""Kinds of job whose batches want something else; all others are not named."""


def verbs_for(batch: str) -> tuple[Verbs, str]:
    """What can be done to the batch that somebody means, and its id.

    Raises:
        InputError: no batch or more than one is meant.
    """
    migrations.ensure()
    row = resolve(batch)
    return KINDS.get(row.kind, Verbs()), row.id
