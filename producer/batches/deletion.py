"""What may never come back is deleted only after a question that says what goes with it and what stays."""

import sys

import typer

from tidemill import migrations
from tidemill.models import batches, erasure
from tidemill.models.database import reading, transact_in_pieces
from tidemill.models.erasure import Extent
from tidemill.models.errors import InputError
from tidemill.models.scope import Scope
from tidemill.producer.batches.progress import counted, progress, resolve
from tidemill.producer.screen.display import Ticker
from tidemill.producer.screen.printing import print_json, print_line


def delete_batch(batch_name: str, keep_costs: bool, is_sure: bool, as_json: bool) -> None:
    """Delete a batch that has ended, with its answers, once somebody has said yes.

    Raises:
        InputError: nobody has, or it may not go.
    """
    migrations.ensure()
    batch_id = resolve(batch_name).id
    costs = "what its calls cost is kept" if keep_costs else "what its calls cost is forgotten, too"
    rows = counted(progress(Scope(batch_id)).rows, "row")
    question = f"Delete {batch_id} with {rows} and all answers? The same command would ask them anew; {costs}."
    ask_first(question, f"{batch_id} was not deleted", is_sure)
    deleted = transact_in_pieces(
        lambda connection, after: batches.delete(connection, batch_id, after, keep_costs=keep_costs), Ticker("deleted")
    )
    if as_json:
        return print_json({"batch": batch_id, "delete": deleted})
    print_line(f"{batch_id}: deleted, with {counted(deleted, 'row')}.")
    return None


def delete_dialogue(turn_id: int, is_sure: bool, as_json: bool) -> None:
    """Delete the dialogue that a turn belongs to, with all of its turns, once somebody has said yes.

    Raises:
        InputError: nobody has, there is no such dialogue, or one of its turns is open.
    """
    migrations.ensure()
    with reading() as connection:
        extent = erasure.extent(connection, turn_id)
    if extent is None:
        raise InputError(
            f"There is no dialogue {turn_id}. `tidemill dialogues list` shows all that there are; a batch is named by "
            "its id."
        )
    for sentence in _warnings(extent):
        print_line(sentence, err=True)
    question = f"Delete the dialogue {extent.root_id} with {counted(extent.turns, 'turn')}?"
    ask_first(question, f"Dialogue {extent.root_id} was not deleted", is_sure)
    transact_in_pieces(lambda connection, _: erasure.erase(connection, extent.root_id), Ticker("deleted", "turns"))
    if as_json:
        marks = {"batches": extent.batches, "datasets": extent.datasets}
        return print_json({"dialogue": extent.root_id, "delete": extent.turns, **marks})
    print_line(f"dialogue {extent.root_id}: deleted, with {counted(extent.turns, 'turn')}.")
    return None


def _warnings(extent: Extent) -> list[str]:
    """What goes and what stays, before anybody is asked."""
    names = ", ".join(extent.batches)
    sentences = [
        f"All messages of dialogue {extent.root_id} go. Its rows stay in {names}, without a word, as `deleted`: they "
        "keep what their calls cost, and the same command does not ask them again."
    ]
    if extent.datasets:
        sentences.append(
            f"It is in training data that stays, here and at the provider: {', '.join(extent.datasets)}. A model that "
            "was trained on it keeps what it has learnt."
        )
    return sentences


def ask_first(question: str, otherwise: str, is_sure: bool) -> None:
    """Ask on the terminal, unless somebody is sure.

    Raises:
        InputError: the answer is no, or there is nobody to ask; its sentence begins with `otherwise`.
    """
    if not is_sure and not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        raise InputError(f"{otherwise}; --yes deletes it without a question.")
