"""Scripts and notebooks train models as the command line does: `from tidemill import train`."""

import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast, overload

from tidemill import migrations
from tidemill.models.allowed import check_names, check_values
from tidemill.models.errors import InputError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Transport
from tidemill.models.rereading import reread_settings
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES
from tidemill.models.text import dumps
from tidemill.producer.asking.dialogues import Filters
from tidemill.producer.asking.python_words import in_python_words
from tidemill.producer.batches import showing
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.off_the_loop import off_the_loop
from tidemill.producer.batches.spending import spending_of
from tidemill.producer.intake.tables import ANY_TABLE, ArrowTable, as_frame, is_frame, open_source
from tidemill.producer.intake.tables import Source as Rows
from tidemill.producer.screen.display import say
from tidemill.producer.screen.printing import print_text
from tidemill.producer.training import fine_tune_control, fine_tune_lookup
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.dataset_report import Report
from tidemill.producer.training.datasets import DEFAULT_MODEL, DatasetOptions
from tidemill.producer.training.dialogue_examples import StoredDialogues, day
from tidemill.producer.training.preparing import Source, check_all, dataset_of, names_of, why_stopped
from tidemill.producer.training.tuning import Terms, submit_job

if TYPE_CHECKING:
    import pandas as pd

    Examples = str | Path | Iterable[str | Path] | pd.DataFrame | ArrowTable | Iterable[Mapping[str, object]]

__all__ = ["FineTune", "TrainOptions", "afine_tune", "atrain", "fine_tune", "train"]

_FRAME = "frame.jsonl"
"""Where examples are written that come from no file."""


class TrainOptions(TypedDict, total=False):
    """The options of `train`, named as those of the command line."""

    from_dialogues: bool
    """Train on the stored dialogues that fit `batch` to `min_length`."""
    batch: str | None
    sentiment: str | None
    assistant: str | None
    since: str | datetime | None
    until: str | datetime | None
    answered_by: str | None
    search: str | None
    min_length: int | None
    model: str | None
    method: str
    val: float
    validation: str | Path | None
    seed: int
    epochs: int | None
    system: str | None
    prompt_column: str | None
    reply_column: str | None
    system_column: str | None
    preferred_column: str | None
    non_preferred_column: str | None
    negative: Sequence[str | Path]
    strict: bool
    skip_bad_rows: bool
    suffix: str | None
    batch_size: int | None
    learning_rate: float | None
    beta: float | None
    params: JsonObject | None
    transport: Transport | None
    name: str | None
    new: bool
    budget: str | float | None
    """US dollars that training may cost at most, as `--budget`."""
    detach: bool
    """Return without waiting until the provider has the job, which is waited for where no broker is set."""


@dataclass(frozen=True, slots=True, repr=False)
class FineTune:
    """A fine-tune; each look reads what is stored by then. `await fine_tune` waits for its end."""

    id: str
    report: Report | None = field(default=None, compare=False)
    """On its examples, where they were checked here: `report.text()`."""

    @property
    def status(self) -> str:
        """Its status, in the provider's words where it has said something."""
        return fine_tune_lookup.status_of(fine_tune_lookup.find(self.id))

    @property
    def job(self) -> str | None:
        """The id of its job at the provider; None: it has none yet."""
        return cast("str | None", self.facts()["remote_id"])

    @property
    def model(self) -> str | None:
        """The name of the trained model, to be asked with `model=`; None: it is not trained yet."""
        return cast("str | None", self.facts()["fine_tuned_model"])

    @property
    def cost(self) -> float | None:
        """What the training has cost, in USD; None where that is not known."""
        return cast("float | None", self.facts()["cost_usd"])

    def facts(self) -> JsonObject:
        """What `tidemill fine-tunes list --json` says of it."""
        return fine_tune_lookup.to_json(fine_tune_lookup.find(self.id))

    def wait(self, timeout: float | None = None) -> str:
        """Follow it to its end, which may take hours, and return the model's name.

        Without a broker it is followed inside this call. The provider trains in any case, and another `wait()` goes on.

            model = tidemill.fine_tune("latest").wait()

        Raises:
            NotTrainedError: it has ended without a model; the text says why.
            NotEndedError: `timeout` seconds are over.
            InputError: it is at another server.
        """
        reread_settings()
        fine_tune_control.take_up(self.id)
        Batch(self.id).wait(timeout, window=1)
        return self._trained()

    def __await__(self) -> Generator[Any, None, str]:
        """Wait on a thread; the value is the model's name. A cancelled task stops the waiting alone."""
        return self._waited().__await__()

    async def _waited(self) -> str:
        reread_settings()
        fine_tune_control.take_up(self.id)
        await Batch(self.id)
        return self._trained()

    def _trained(self) -> str:
        row = fine_tune_lookup.find(self.id)
        fine_tune_control.check_trained(row)
        return str(row.fine_tuned_model)

    def pause(self) -> None:
        """Pause it, at the provider too; InputError if that cannot be."""
        self._tell("pause")

    def resume(self) -> None:
        """Go on with it, at the provider too; InputError if that cannot be."""
        self._tell("resume")

    def cancel(self) -> None:
        """Cancel it, at the provider too; InputError if it has ended."""
        self._tell("cancel")

    def _tell(self, verb: str) -> None:
        reread_settings()
        _, objection = fine_tune_control.tell(verb, self.id)
        if objection is not None:
            raise InputError(objection)

    def __repr__(self) -> str:
        """One line; only the id where the database does not answer."""
        facts = showing.soon(self.facts) or {}
        shown = (facts.get("status"), facts.get("remote_id"), facts.get("fine_tuned_model"))
        return f"<{' · '.join([f'FineTune {self.id}', *filter(None, shown)])}>"


def fine_tune(name: str = "latest") -> FineTune:
    """A fine-tune that is stored.

        tidemill.fine_tune("latest").status

    Args:
        name: its id, the beginning of that, the provider's id, the model's name, or `latest`.

    Raises:
        InputError: none or more than one has the name.
    """
    reread_settings()
    migrations.ensure()
    return FineTune(str(fine_tune_lookup.find(name).id))


@overload
def train(
    source: "Examples | None" = None, *, dry_run: Literal[False] = False, **options: Unpack[TrainOptions]
) -> FineTune: ...


@overload
def train(source: "Examples | None" = None, *, dry_run: Literal[True], **options: Unpack[TrainOptions]) -> Report: ...


@in_python_words
def train(
    source: "Examples | None" = None, *, dry_run: bool = False, **options: Unpack[TrainOptions]
) -> FineTune | Report:
    """Check examples, and have a model trained on them; the same examples on the same terms are the same job.

    Without a broker it returns once the provider has the job. `wait()` on what it returns follows it to its end.

        job = tidemill.train("qa.csv", val=0.1, epochs=3, suffix="support")
        model = job.wait()

    Args:
        source: a file or a folder of examples, or several; a frame or table of pandas, polars or Arrow; or rows as
            mappings. None for stored dialogues alone, with `from_dialogues=True`.
        dry_run: return only the report, with the price; nothing is sent or stored.
        **options: the fields of `TrainOptions`; each is described in `tidemill train --help`.

    Raises:
        OptionError: there is no such option, or not with that value.
        InputError: the examples cannot be used; the report is on stderr.
        NotTrainedError: the provider refuses the job.
        SettingsError, DatabaseError, BlobError: one sentence that says what to fix.
    """
    reread_settings()
    check_names(options, TrainOptions.__annotations__)
    check_values({name: options.get(name) for name in ("model", "params", "transport")})
    dataset_options, terms = _dataset_options(options), _terms(options)
    with tempfile.TemporaryDirectory(prefix="tidemill-train-") as scratch:
        examples = _source(source, options, Path(scratch))
        check_all(examples, dataset_options, terms, sends=not dry_run)
        dataset = dataset_of(examples, dataset_options, Path(scratch))
        if dry_run:
            return dataset.report
        if dataset.report.stops(options.get("strict", False)):
            print_text(dataset.report.text(), err=True)
            raise InputError(why_stopped(dataset.report))
        migrations.ensure()
        job, was_there = submit_job(dataset, dataset_options, terms, *names_of(examples))
    row = fine_tune_lookup.find(job.id)
    if was_there:
        say(f"{job.id} is this very job: {fine_tune_lookup.status_of(row)}; new=True trains again.")
    if settings().embedded and not terms.detach and row.state in OPEN_STATES:
        fine_tune_control.check_trained(fine_tune_control.follow_until_created(job))
    return FineTune(job.id, dataset.report)


def _source(source: "Examples | None", options: TrainOptions, folder: Path) -> Source:
    """Where the examples are from; those of a frame are written into the folder first."""
    fitting = Filters(
        batch=options.get("batch"),
        sentiment=options.get("sentiment"),
        assistant=options.get("assistant"),
        model=options.get("answered_by"),
        since=day("since", _text(options.get("since"))),
        until=day("until", _text(options.get("until"))),
        least_characters=options.get("min_length"),
    )
    stored = StoredDialogues(options.get("search"), fitting)
    if not options.get("from_dialogues") and stored != StoredDialogues(None, Filters()):
        raise InputError("Filters of stored dialogues were passed without from_dialogues=True; add it, or drop them.")
    columns = Columns(
        prompt=options.get("prompt_column"),
        reply=options.get("reply_column"),
        system=options.get("system_column"),
        preferred=options.get("preferred_column"),
        non_preferred=options.get("non_preferred_column"),
        system_text=options.get("system"),
    )
    return Source(
        _paths(source, folder),
        columns,
        [str(each) for each in options.get("negative", ())],
        _text(options.get("validation")),
        stored if options.get("from_dialogues") else None,
        called={str(folder / _FRAME): "the frame"},
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _paths(source: "Examples | None", folder: Path) -> list[str]:
    if source is None or isinstance(source, str | Path):
        return [] if source is None else [str(source)]
    rows = as_frame(cast("Rows", source))
    if not is_frame(rows):
        listed = list(cast("Iterable[Any]", rows))
        if all(isinstance(each, str | Path) for each in listed):
            return [str(each) for each in listed]
        rows = listed
    path = folder / _FRAME
    inputs = open_source(rows, False, say, say, ANY_TABLE)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{dumps(record)}\n" for each in inputs for _, record in each.records)
    return [str(path)]


def _dataset_options(options: TrainOptions) -> DatasetOptions:
    return DatasetOptions(
        method=options.get("method", "supervised"),
        model=options.get("model") or DEFAULT_MODEL,
        validation=options.get("val", 0.0),
        seed=options.get("seed", 0),
        epochs=options.get("epochs"),
        skip_bad_rows=options.get("skip_bad_rows", False),
    )


def _terms(options: TrainOptions) -> Terms:
    return Terms(
        suffix=options.get("suffix"),
        hyperparameters={
            "batch_size": options.get("batch_size"),
            "learning_rate_multiplier": options.get("learning_rate"),
            "beta": options.get("beta"),
        },
        params=options.get("params") or {},
        transport=options.get("transport") or "sdk",
        name=options.get("name"),
        new=options.get("new", False),
        detach=options.get("detach", False),
        spending=spending_of(options.get("budget")),
    )


afine_tune = off_the_loop(fine_tune)
atrain = off_the_loop(train)
