"""What a command does to a batch depends on its kind, and a kind that nobody named has what all have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rows import add_batch, add_jobs, batch_row, put, success, take
from tidemill.models.errors import InputError
from tidemill.models.settings import settings
from tidemill.producer.batches.ends import Ends
from tidemill.producer.batches.saving import Selection
from tidemill.producer.cli.kinds import VERBS, Verbs, verbs_for

pytestmark = pytest.mark.usefixtures("database")


@pytest.mark.parametrize("kind", ["ask", "describe", "riddle"])
def test_a_kind_that_is_not_named_has_plain_rows(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_batch("b-1", kind=kind, provider=settings().provider)
    ids = add_jobs(2, "b-1")
    verbs, batch_id = verbs_for("b")
    verbs.pause(batch_id, True)
    assert batch_row("b-1").state == "paused"
    verbs.resume(batch_id, True)
    put(*map(success, take(ids[:1])))
    verbs.cancel(batch_id, True)
    verbs.retry(batch_id, True)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["batch"], list(each)[1]) for each in printed] == [
        ("b-1", verb) for verb in ("pause", "resume", "cancel", "retry")
    ]
    put(*map(success, take(ids[1:])))
    verbs.watch(batch_id, True, Ends())
    assert json.loads(capsys.readouterr().out)["succeeded"] == 2
    verbs.results(batch_id, [str(tmp_path / "out.jsonl")], False, Selection())
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_fine_tune_is_a_batch_without_rows_of_its_own() -> None:
    add_batch("tune-1", kind="train")
    verbs, batch_id = verbs_for("latest")
    assert batch_id == "tune-1"
    assert verbs.watch is not Verbs().watch
    with pytest.raises(InputError, match="tune-1 is a fine-tune and has no rows; `tidemill fine-tunes show tune-1`"):
        verbs.results(batch_id, ["-"], False, Selection())


def test_retrying_is_the_same_for_all() -> None:
    assert VERBS["train"]().retry is Verbs().retry


def test_a_batch_that_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match="There is no batch 'nope'"):
        verbs_for("nope")


def test_nobody_waits_for_celery_to_stop_a_batch() -> None:
    program = "import sys; from tidemill.producer.cli import kinds; print('celery' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
