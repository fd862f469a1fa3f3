"""A checked dataset becomes a train job, once: the same on the same terms is the same job.

The files go into the store of blobs, where any worker can read them; the job holds the dataset's id and nothing else.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import typer
from sqlalchemy import Row as Found

from tidemill import migrations
from tidemill.models import blobs
from tidemill.models.bulk import insert_for
from tidemill.models.database import writing
from tidemill.models.errors import InputError
from tidemill.models.fine_tunes import keep_dataset
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES, dataset_dialogues
from tidemill.models.text import dumps
from tidemill.producer.asking.question import make_options
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.run import stop_like_ctrl_c
from tidemill.producer.batches.submit import Order, open_batch, submit
from tidemill.producer.intake.tables import Row
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_json
from tidemill.producer.training import fine_tunes
from tidemill.producer.training.datasets import Dataset, How, Part

SUFFIX_CHARACTERS = 64
_LINKS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How a dataset is trained on, and what the command does then.

    `hyperparameters` are the provider's by name, those that were said; `params` are further fields of the request.
    """

    suffix: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    transport: str = "sdk"
    name: str | None = None
    new: bool = False
    wait: bool = False
    detach: bool = False


def check(terms: Terms) -> None:
    """Raise InputError for terms that no provider takes."""
    if terms.suffix is not None and not 0 < len(terms.suffix) <= SUFFIX_CHARACTERS:
        raise InputError(f"--suffix has {len(terms.suffix)} characters; it may have 1 to {SUFFIX_CHARACTERS}.")


def send_off(dataset: Dataset, how: How, terms: Terms, name: str, source: str, *, as_json: bool) -> None:
    """Submit a dataset and say under which id; without a broker, stay until the provider has taken it.

    Args:
        name: what the job is called where `terms` say nothing else.
        source: what the examples are of, for people.

    Raises:
        NotTrainedError: the provider took it not, or with `wait` the job ended without a model.
    """
    migrations.ensure()
    batch, resumed = _submitted(dataset, how, terms, name, source)
    row = fine_tunes.find(batch.id)
    if resumed:
        say(f"{batch.id} is this very job: {fine_tunes.status_of(row)}; --new trains again.")
    if terms.wait:
        return fine_tunes.watch(batch.id, as_json)
    if settings().embedded and not terms.detach and row.state in OPEN_STATES:
        stop_like_ctrl_c()
        row = fine_tunes.follow_until_created(batch)
    if as_json:
        print_json(fine_tunes.to_json(row) | {"report": dataset.report.to_json()})
    fine_tunes.check(row)
    if not as_json:
        typer.echo(batch.id)
        say(_what_now(row))
    return None


def _submitted(dataset: Dataset, how: How, terms: Terms, name: str, source: str) -> tuple[Batch, bool]:
    parts = {"training": dataset.train, "validation": dataset.validation}
    stored = {name: None if part is None else _stored(part) for name, part in parts.items()}
    hashes = [None if each is None else each["sha256"] for each in stored.values()]
    dataset_id = hashlib.sha256(dumps([how.method, *hashes]).encode()).hexdigest()[:24]
    name = (terms.name or terms.suffix or name)[:200]
    report = dataset.report.to_json()
    with writing() as connection:
        keep_dataset(connection, id=dataset_id, name=name, source=source, method=how.method, report=report, **stored)
        links = [{"dataset_id": dataset_id, "dialogue_id": each} for each in dataset.dialogues]
        for start in range(0, len(links), _LINKS_AT_ONCE):
            linked = insert_for(connection)(dataset_dialogues).on_conflict_do_nothing()
            connection.execute(linked, links[start : start + _LINKS_AT_ONCE])
    options = make_options({"model": how.model, "params": _params(how, terms), "transport": terms.transport})
    # Files and jobs are one server's own: at another one it is another job.
    row = Row(dataset_id, {}, {"dataset": dataset_id, "provider": settings().provider}, 1)
    opened = open_batch(Order(options, rows=[row], kind="train", name=name, new=terms.new, on_bad_row=say))
    submit(opened)
    return Batch(opened.batch_id, opened.submission), opened.resumed


def _stored(part: Part) -> dict[str, Any]:
    content = part.path.read_bytes()
    blobs.put(content, part.sha256)
    return {"sha256": part.sha256, "bytes": len(content), "examples": part.examples, "tokens": part.tokens}


def _params(how: How, terms: Terms) -> dict[str, Any]:
    """The fields of the request for a job, but for model and files."""
    hyperparameters = {"n_epochs": how.epochs, **terms.hyperparameters}
    said = {name: value for name, value in hyperparameters.items() if value is not None}
    method: dict[str, Any] = {"type": how.method}
    if said:
        method[how.method] = {"hyperparameters": said}
    params: dict[str, Any] = {"suffix": terms.suffix, "seed": how.seed or None}
    if said or how.method != "supervised":
        params["method"] = method  # left out where all is as it would be: older servers do not know it
    return {name: value for name, value in params.items() if value is not None} | terms.params


def _what_now(row: Found[Any]) -> str:
    follow = f"`tidemill fine-tunes watch {row.id}` follows"
    if row.remote_id is not None:
        return f"{row.remote_id} at the provider: {row.status}; {follow}."
    return f"submitted; {follow if not settings().embedded else follow + ' and runs it here'}."
