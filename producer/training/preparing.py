"""A run of `tidemill train` is put together here: from options to the report, the exported files or the job."""

import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tidemill import migrations
from tidemill.models import shutdown
from tidemill.models.errors import InputError, SettingsError
from tidemill.models.files import replacing, status
from tidemill.models.remote_files import is_url
from tidemill.models.settings import settings
from tidemill.producer.batches.progress import counted
from tidemill.producer.intake.sources import Files, shown
from tidemill.producer.screen.display import Ticker, say, ticked
from tidemill.producer.screen.printing import JsonLines, print_json, print_line, print_text
from tidemill.producer.training import training_budget
from tidemill.producer.training.columns import Columns
from tidemill.producer.training.dataset_report import Report
from tidemill.producer.training.datasets import Dataset, DatasetOptions, build
from tidemill.producer.training.dialogue_examples import StoredDialogues, examples_of_dialogues
from tidemill.producer.training.example_files import InputSummary, examples_of, tables_in
from tidemill.producer.training.examples import METHODS, BadRow, Example
from tidemill.producer.training.tuning import Terms, check, send_off


@dataclass(frozen=True, slots=True)
class Source:
    """Where examples are from: files and folders, and how to read them; stored dialogues; or both.

    `validation` is a file to check with.
    """

    paths: Sequence[str]
    columns: Columns
    negatives: Sequence[str] = ()
    validation: str | None = None
    dialogues: StoredDialogues | None = None
    called: Mapping[str, str] = field(default_factory=dict)
    """Path -> what people are told of that file instead, because they have not named it."""


def train(
    source: Source,
    options: DatasetOptions,
    terms: Terms,
    *,
    strict: bool,
    dry_run: bool,
    export: str | None,
    as_json: bool,
) -> None:
    """Check and price examples, and print the report; write them with `export`, or submit them.

    The report goes to stdout; but to stderr if the examples or the job's id go to stdout.

    Raises:
        InputError: an option or a source cannot be used.
    """
    check_all(source, options, terms, sends=not (dry_run or export))
    targets = _targets(export, source, options)
    with tempfile.TemporaryDirectory(prefix="tidemill-train-") as scratch:
        dataset = dataset_of(source, options, Path(scratch))
        stopped = dataset.report.stops(strict)
        sent_off = not (stopped or dry_run or export)
        aside = export == "-" or sent_off
        if not as_json:
            print_text(dataset.report.text(), err=aside)
        elif not sent_off:
            print_json(dataset.report.to_json() | training_budget.to_json(dataset, terms.spending), err=aside)
        if stopped:
            raise InputError(why_stopped(dataset.report))
        if export is not None and not dry_run:
            _export(dataset, targets)
        elif not dry_run:
            send_off(dataset, options, terms, *names_of(source), as_json=as_json)
        elif not as_json:
            print_line(f"\n{_next(dataset, terms)}")


def check_all(source: Source, options: DatasetOptions, terms: Terms, *, sends: bool) -> None:
    """Raise InputError for what can be seen to be wrong before anything is read; say what will end at the provider.

    Args:
        source, options, terms: as for `train`.
        sends: whether a model is to be trained; if not, one that has been shut down is only spoken of.
    """
    _check(source, options)
    check(terms)
    training_budget.check_terms(options, terms.spending)
    _check_shutdowns(options.model, sends=sends)


def _check_shutdowns(model: str, *, sends: bool) -> None:
    """Say what ends at the provider. A model that has ended stops a run only if the run sends something."""
    provider = settings().provider
    try:
        ends = shutdown.check(model, provider)
    except SettingsError as error:
        if sends:
            raise
        ends = str(error)
    model_sentence = None if sends else ends  # submitting says it too
    for sentence in (model_sentence, shutdown.fine_tuning(provider)):
        if sentence is not None:
            say(sentence)


def dataset_of(source: Source, options: DatasetOptions, folder: Path) -> Dataset:
    """Read, check and split examples into `folder`.

    Raises:
        InputError: a file cannot be read, or its columns do not fit.
    """
    inputs = InputSummary()
    paths, columns, method = source.paths, source.columns, options.method
    aside = [] if source.validation is None else [source.validation]
    examples: Iterator[Example | BadRow] = iter(())
    if paths:
        examples = examples_of(
            paths, columns, method, inputs, negatives=source.negatives, without=aside, called=source.called
        )
    if source.dialogues is not None:
        migrations.ensure()
        examples = chain(examples, examples_of_dialogues(source.dialogues, inputs))
    validation = examples_of(aside, columns, method, inputs, use="to check with") if aside else None
    return build(ticked(examples, Ticker("read")), options, folder, inputs=inputs, validation=validation)


def names_of(source: Source) -> tuple[str, str]:
    """What a job on these examples is called, and where they are from."""
    paths = [source.called.get(path, path) for path in source.paths]
    files = [Files((path,)).name if is_url(path) or path == "-" else Path(path).stem or path for path in paths]
    dialogues = [] if source.dialogues is None else ["dialogues"]
    sources = [*map(shown, paths), *([] if source.dialogues is None else [str(source.dialogues)])]
    return ", ".join([*files, *dialogues]), ", ".join(sources)


def _check(source: Source, options: DatasetOptions) -> None:
    if options.method not in METHODS:
        raise InputError(f"--method is {options.method!r}; it must be one of {', '.join(METHODS)}.")
    if not source.paths and source.dialogues is None:
        raise InputError("Name a file of examples, or say --from-dialogues: tidemill train data.csv --dry-run")
    if source.dialogues is not None and options.method != "supervised":
        raise InputError(f"--from-dialogues gives one reply to a prompt, and --method {options.method} needs two.")
    if options.validation and source.validation is not None:
        raise InputError("--val and --validation were both given; a share is kept aside or a file is: drop one.")
    if not 0 <= options.validation < 1:
        raise InputError(f"--val is {options.validation:g}; it is a share, from 0 to below 1, such as 0.1.")


def _targets(export: str | None, source: Source, options: DatasetOptions) -> list[str]:
    """Where the parts go: training, then validation. A file that is read is never written."""
    if export is None:
        return []
    with_validation = options.validation > 0 or source.validation is not None
    if export == "-":
        if with_validation:
            raise InputError("--export - writes one part only; give a file when there is a validation part too.")
        return ["-"]
    path = Path(export)
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise InputError(f"--export {export}: give a file that ends in .jsonl, which is its format.")
    targets = [str(path), str(path.with_name(f"{path.stem}.validation{path.suffix}"))][: 2 if with_validation else 1]
    sources = [*source.paths, *source.negatives, *([source.validation] if source.validation else [])]
    files = {Path(each).resolve() for each in tables_in(sources, InputSummary()) if each != "-"}
    for target in targets:
        if Path(target).resolve() in files:
            raise InputError(f"{target} is read as input and would be overwritten; choose another place for --export.")
        try:
            there, folder = status(Path(target)), status(Path(target).resolve().parent)
        except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, a loop of symlinks
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{target} cannot be written: {reason}; check --export.") from None
        if (there and stat.S_ISDIR(there.st_mode)) or not folder or not stat.S_ISDIR(folder.st_mode):
            raise InputError(f"{target} cannot be written: there is no such folder, or it is one; check --export.")
    return targets


def _export(dataset: Dataset, targets: Sequence[str]) -> None:
    parts = [dataset.train, *([dataset.validation] if dataset.validation else [])]
    for part, target in zip(parts, targets, strict=True):
        with part.path.open("rb") as source:
            if target == "-":
                out = JsonLines()
                for line in source:
                    out.write(line)
                out.flush()
                continue
            try:
                with replacing(Path(target).resolve()) as file:
                    shutil.copyfileobj(source, file)
            except OSError as error:
                raise InputError(f"{target} cannot be written: {error.strerror}; choose another --export.") from None
            print_line(f"{target}: {counted(part.examples, 'example')}, sha256 {part.sha256[:12]}", err=True)


def why_stopped(report: Report) -> str:
    """Why nothing is written or sent, in a sentence."""
    findings = report.findings
    if not report.stops():
        return f"{_warnings(report)}, and --strict takes warnings for errors; nothing was written or sent."
    drop = findings.bad_rows and not report.skip_bad_rows
    way_out = f", or leave {counted(findings.bad_rows, 'row')} out with --skip-bad-rows" if drop else ""
    return (
        f"{counted(report.stopping_errors, 'error')}, see the report; nothing was written or sent. Fix them{way_out}."
    )


def _warnings(report: Report) -> str:
    return counted(report.findings.level("warning"), "warning")


def _next(dataset: Dataset, terms: Terms) -> str:
    has_warnings = dataset.report.findings.level("warning") > 0
    look = f"  Look at the {_warnings(dataset.report)}; training is possible all the same.\n" if has_warnings else ""
    fits = training_budget.line(dataset, terms.spending)
    look += f"  {fits}\n" if fits else ""
    return (
        f"WHAT NEXT\n{look}  With --export train.jsonl instead of --dry-run the examples are written to a file; "
        "without either\n  the model is trained on them. Nothing was sent."
    )
