"""What can be done to a batch depends on its kind only here, in a table from kind to functions.

Whoever pauses or cancels a batch wants it at once, so what brings Celery along is imported when it is needed.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tidemill import migrations
from tidemill.producer.batches import control
from tidemill.producer.batches.progress import resolve


def _watch(batch_id: str, as_json: bool) -> None:
    from tidemill.producer.batches import run

    run.watch(batch_id, as_json)


def _results(batch_id: str, output: str) -> None:
    from tidemill.producer.batches import run

    run.results(batch_id, output)


class Verbs(NamedTuple):
    """Command -> what does it to the batch of an id, printing JSON if the second argument says so.

    As they are here they fit every kind that has plain rows.
    """

    watch: Callable[[str, bool], None] = _watch
    results: Callable[[str, str], None] = _results
    """Its second argument is where the rows go."""
    retry: Callable[[str, bool], None] = partial(control.change, "retry")
    pause: Callable[[str, bool], None] = partial(control.change, "pause")
    resume: Callable[[str, bool], None] = partial(control.change, "resume")
    cancel: Callable[[str, bool], None] = partial(control.change, "cancel")


def _of_fine_tune() -> Verbs:
    """The provider must hear of it, too."""
    from tidemill.producer.training import fine_tune_control

    return Verbs(
        watch=fine_tune_control.watch,
        results=fine_tune_control.results,
        pause=partial(fine_tune_control.change, "pause"),
        resume=partial(fine_tune_control.change, "resume"),
        cancel=partial(fine_tune_control.change, "cancel"),
    )


KINDS: dict[str, Callable[[], Verbs]] = {"train": _of_fine_tune}
"""Kinds of job whose batches want something else; all others are not named."""


def verbs_for(batch: str) -> tuple[Verbs, str]:
    """What can be done to the batch that somebody means, and its id.

    Raises:
        InputError: no batch or more than one is meant.
    """
    migrations.ensure()
    row = resolve(batch)
    return KINDS.get(row.kind, Verbs)(), row.id
