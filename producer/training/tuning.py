"""A checked dataset becomes a train job, once: the same dataset on the same terms is the same job.

The files go into the store of blobs, where any worker can read them. The job has the dataset's id and its provider.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sqlalchemy import Connection

from tidemill import migrations
from tidemill.models import blobs
from tidemill.models.bulk import insert_for
from tidemill.models.database import transact
from tidemill.models.errors import InputError
from tidemill.models.fine_tunes import keep_dataset
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.server_names import host_of, server_name
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES, dataset_dialogues
from tidemill.models.text import dumps
from tidemill.producer.asking.question import make_options
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.order import DryRun, Order
from tidemill.producer.batches.run import stop_like_ctrl_c
from tidemill.producer.batches.spending import UNSAID, Spending
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.tables import Row
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_json, print_line
from tidemill.producer.training import training_budget
from tidemill.producer.training.datasets import Dataset, DatasetOptions, Part
from tidemill.producer.training.fine_tune_control import check_trained, follow_until_created, watch
from tidemill.producer.training.fine_tune_lookup import FineTuneRow, find, status_of, to_json

SUFFIX_CHARACTERS = 64
_LINKS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How a model is trained on a dataset, and what the command does then.

    `hyperparameters` are the provider's, by name; None leaves one to it. `params` are further fields of the request.
    """

    suffix: str | None = None
    hyperparameters: JsonObject = field(default_factory=dict)
    params: JsonObject = field(default_factory=dict)
    transport: str = "sdk"
    name: str | None = None
    new: bool = False
    wait: bool = False
    detach: bool = False
    ends: Ends = field(default_factory=Ends)
    """With `wait`: when to stop waiting."""
    spending: Spending = UNSAID
    """How much it may cost."""


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A stored dataset as the one row of an order. It names the server too, because files and jobs belong to one."""

    kind: ClassVar[str] = "train"
    dataset_id: str
    provider: str
    report: DryRun
    """The report on its examples."""

    @property
    def is_one(self) -> bool:
        """False: a fine-tune has no answer to show."""
        return False

    @property
    def is_partial(self) -> bool:
        """False: there is only this row."""
        return False

    @property
    def files(self) -> Sequence[Path]:
        """None: its files have been read already."""
        return ()

    def chunks(self, _options: Options, _on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """The one row, with the dataset's id and its provider."""
        request = {"dataset": self.dataset_id, "provider": self.provider}
        asked = request | {"provider": host_of(server_name(self.provider))}
        yield [Row(self.dataset_id, {}, request, 1, asked=asked)]

    def estimate(self, _order: Order) -> DryRun:
        """The report on the examples, with their price."""
        return self.report


def check(terms: Terms) -> None:
    """Raise InputError for terms that no provider takes."""
    if terms.suffix is not None and not 0 < len(terms.suffix) <= SUFFIX_CHARACTERS:
        raise InputError(f"--suffix has {len(terms.suffix)} characters; it may have 1 to {SUFFIX_CHARACTERS}.")


def send_off(dataset: Dataset, options: DatasetOptions, terms: Terms, name: str, source: str, *, as_json: bool) -> None:
    """Submit a dataset and print the job's id; without a broker, stay until the provider has the job.

    Args:
        name: what the job is called, unless `terms` have a name or a suffix.
        source: where the examples are from, for people.

    Raises:
        NotTrainedError: the provider did not take it, or with `wait` the job ended without a model.
    """
    migrations.ensure()
    batch, resumed = submit_job(dataset, options, terms, name, source)
    row = find(batch.id)
    if resumed:
        say(f"{batch.id} is this very job: {status_of(row)}; --new trains again.")
    if terms.wait:
        return watch(batch.id, as_json, terms.ends)
    if settings().embedded and not terms.detach and row.state in OPEN_STATES:
        stop_like_ctrl_c()
        row = follow_until_created(batch)
    if as_json:
        print_json(to_json(row) | {"report": dataset.report.to_json()})
    check_trained(row)
    if not as_json:
        print_line(batch.id)
        say(_next_step(row))
    return None


def submit_job(dataset: Dataset, options: DatasetOptions, terms: Terms, name: str, source: str) -> tuple[Batch, bool]:
    """Store a dataset and its job; returns the job's batch, and whether there was this very job already."""
    training_budget.check_fits(dataset, options, terms.spending)
    parts = {"training": dataset.train, "validation": dataset.validation}
    stored = {name: None if part is None else _store(part) for name, part in parts.items()}
    hashes = [None if each is None else each["sha256"] for each in stored.values()]
    dataset_id = hashlib.sha256(dumps([options.method, *hashes]).encode()).hexdigest()[:24]
    name = (terms.name or terms.suffix or name)[:200]
    report = dataset.report.to_json() | {"places": dataset.places}
    links = [{"dataset_id": dataset_id, "dialogue_id": each} for each in dataset.dialogues]

    def keep(connection: Connection) -> None:
        keep_dataset(
            connection, id=dataset_id, name=name, source=source, method=options.method, report=report, **stored
        )
        for start in range(0, len(links), _LINKS_AT_ONCE):
            statement = insert_for(connection)(dataset_dialogues).on_conflict_do_nothing()
            connection.execute(statement, links[start : start + _LINKS_AT_ONCE])

    transact(keep)
    asked = {"model": options.model, "params": _params(options, terms), "transport": terms.transport}
    row = DatasetRow(dataset_id, settings().host, dataset.report)
    opened = open_batch(
        Order(make_options(asked), row, name=name, new=terms.new, on_bad_row=say, spending=terms.spending)
    )
    submit(opened)
    return Batch(opened.batch_id, opened.submission), opened.resumed


def _store(part: Part) -> JsonObject:
    content = part.path.read_bytes()
    blobs.put(content, part.sha256)
    return {"sha256": part.sha256, "bytes": len(content), "examples": part.examples, "tokens": part.tokens}


def _params(options: DatasetOptions, terms: Terms) -> JsonObject:
    """The fields of the request for a job, except model and files."""
    hyperparameters = {"n_epochs": options.epochs, **terms.hyperparameters}
    chosen = {name: value for name, value in hyperparameters.items() if value is not None}
    method: JsonObject = {"type": options.method}
    if chosen:
        method[options.method] = {"hyperparameters": chosen}
    params: JsonObject = {"suffix": terms.suffix, "seed": options.seed or None}
    if chosen or options.method != "supervised":
        params["method"] = method  # left out if it says nothing: older servers do not know it
    return {name: value for name, value in params.items() if value is not None} | terms.params


def _next_step(row: FineTuneRow) -> str:
    follow = f"`tidemill fine-tunes watch {row.id}` follows"
    if row.remote_id is not None:
        return f"{row.remote_id} at the provider: {row.status}; {follow}."
    return f"submitted; {follow if not settings().embedded else follow + ' and runs it here'}."
