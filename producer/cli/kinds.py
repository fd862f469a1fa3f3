"""What a command does to a batch depends on the kind of its jobs; this table says how."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tidemill import migrations
from tidemill.producer.batches import control, run
from tidemill.producer.batches.progress import resolve
from tidemill.producer.training import fine_tune_control


class Verbs(NamedTuple):
    """For each command the function that does it, given a batch's id and whether to print JSON.

    The defaults fit every kind that has plain rows.
    """

    watch: Callable[[str, bool], None] = run.watch
    results: Callable[[str, str], None] = run.results
    """Its second argument is where the rows go."""
    retry: Callable[[str, bool], None] = partial(control.change, "retry")
    pause: Callable[[str, bool], None] = partial(control.change, "pause")
    resume: Callable[[str, bool], None] = partial(control.change, "resume")
    cancel: Callable[[str, bool], None] = partial(control.change, "cancel")


VERBS = {
    # The provider must be told, too.
    "train": Verbs(
        watch=fine_tune_control.watch,
        results=fine_tune_control.results,
        pause=partial(fine_tune_control.change, "pause"),
        resume=partial(fine_tune_control.change, "resume"),
        cancel=partial(fine_tune_control.change, "cancel"),
    ),
}
"""Kind of job -> its functions, where the defaults do not fit."""


def verbs_for(batch: str) -> tuple[Verbs, str]:
    """The functions for the batch that the user names, and its id.

    Raises:
        InputError: no batch or more than one is meant.
    """
    migrations.ensure()
    row = resolve(batch)
    return VERBS.get(row.kind, Verbs()), row.id
