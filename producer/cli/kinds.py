"""What a command does to a batch depends on the kind of its jobs; this table says how.

Pausing and cancelling must act at once, so what loads Celery is imported when it is needed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tidemill import migrations
from tidemill.producer.batches import control
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.progress import resolve

if TYPE_CHECKING:
    from tidemill.producer.batches.saving import Selection


def _watch(batch_id: str, as_json: bool, ends: Ends) -> None:
    from tidemill.producer.batches import run

    run.watch(batch_id, as_json, ends)


def _results(batch_id: str, outputs: Sequence[str], escape_formulas: bool, selection: "Selection") -> None:
    from tidemill.producer.batches import saving

    saving.results(batch_id, outputs, escape_formulas, selection)


class Verbs(NamedTuple):
    """For each command the function that does it, given a batch's id and whether to print JSON.

    The defaults fit every kind that has plain rows.
    """

    watch: Callable[[str, bool, Ends], None] = _watch
    """Its further argument says when to stop although rows are open."""
    results: Callable[[str, Sequence[str], bool, "Selection"], None] = _results
    """Its further arguments are where the rows go, whether formulas are escaped in CSV, and which rows are wanted."""
    retry: Callable[[str, bool], None] = partial(control.change, "retry")
    pause: Callable[[str, bool], None] = partial(control.change, "pause")
    resume: Callable[[str, bool], None] = partial(control.change, "resume")
    cancel: Callable[[str, bool], None] = partial(control.change, "cancel")


def _of_fine_tune() -> Verbs:
    """The provider must be told, too."""
    from tidemill.producer.training import fine_tune_control

    return Verbs(
        watch=fine_tune_control.watch,
        results=fine_tune_control.results,
        pause=partial(fine_tune_control.change, "pause"),
        resume=partial(fine_tune_control.change, "resume"),
        cancel=partial(fine_tune_control.change, "cancel"),
    )


VERBS: dict[str, Callable[[], Verbs]] = {"train": _of_fine_tune}
"""Kind of job -> its functions, where the defaults do not fit."""


def verbs_for(batch: str) -> tuple[Verbs, str]:
    """The functions for the batch that the user names, and its id.

    Raises:
        InputError: no batch or more than one is meant.
    """
    migrations.ensure()
    row = resolve(batch)
    return VERBS.get(row.kind, Verbs)(), row.id
