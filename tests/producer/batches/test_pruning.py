"""`tidemill prune` says what would go, deletes it once somebody is sure, and never what is open or named by a row."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.conftest import UseEnvironment
from tests.rows import add_batch, add_jobs, count, put, set_batch, set_job, success, take
from tidemill.models import blobs, pruning, transitions
from tidemill.models.clock import now_after
from tidemill.models.database import Piece, reading, writing
from tidemill.models.errors import InputError, OptionError
from tidemill.models.tables import batches, jobs, kept_costs
from tidemill.producer.batches.pruning import prune

both = pytest.mark.usefixtures("database")
"""Others are about what is said or done around the database, whichever it is."""

OLD = now_after(-100 * 86_400.0)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, embedded_home: Path, use_environment: UseEnvironment) -> Path:
    """A folder for the stored files."""
    use_environment({"TIDEMILL_BLOBS_URL": str(tmp_path / "blobs")})
    return tmp_path / "blobs"


def put_file(store: Path, content: bytes, days: float) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    blobs.put(content, sha256)
    at = time.time() - days * 86_400
    os.utime(store / sha256[:2] / sha256, (at, at))
    return sha256


def add_old(batch_id: str, rows: int = 3) -> list[int]:
    add_batch(batch_id, created_at=OLD, read_at=OLD)
    ids = add_jobs(rows, batch_id)
    put(*map(success, take(ids)))
    with writing() as connection:
        connection.execute(update(jobs).where(jobs.c.batch_id == batch_id).values(finished_at=OLD))
    return ids


def run(capsys: pytest.CaptureFixture[str], **how: Any) -> dict[str, Any]:
    prune("90d", **{"keep_costs": False, "dry_run": False, "is_sure": True, "as_json": True, **how})
    out: dict[str, Any] = json.loads(capsys.readouterr().out)
    return out


def batch_ids() -> set[str]:
    with reading() as connection:
        return set(connection.scalars(select(batches.c.id)))


def stored(store: Path) -> set[str]:
    return {path.name for path in store.rglob("*") if path.is_file()}


@both
def test_old_batches_and_the_files_that_only_they_named_go_and_nothing_else(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_old, of_young, orphan, young = (
        put_file(store, name.encode(), days)
        for name, days in {"of old": 100, "of young": 100, "orphan": 2, "young": 0.5}.items()
    )
    set_job(add_old("old")[0], request={"prompt": "", "picture": {"path": "a", "sha256": of_old}})
    set_job(add_old("open")[0], state="running", lease_until=now_after(9.0))
    add_old("paused, not read to its end")
    set_batch("paused, not read to its end", state="paused", read_at=None)
    add_batch("young", read_at=now_after(0.0))
    set_job(add_jobs(1, "young")[0], request={"prompt": "", "picture": {"path": "a", "sha256": of_young}})
    result = run(capsys, dry_run=True)
    assert (result["batches"], result["rows"], result["files"]) == (["old"], 3, 2)
    with pytest.raises(InputError, match="Nothing was deleted; --yes"):
        run(capsys, is_sure=False)
    assert stored(store) == {of_old, of_young, orphan, young}
    assert run(capsys) | {"before": result["before"]} == result | {"bytes": result["bytes"]}
    assert batch_ids() == {"open", "paused, not read to its end", "young"}
    assert stored(store) == {of_young, young}
    assert len(result["staying"]) == 2
    assert count(kept_costs) == 0


def test_a_dialogue_over_several_batches_goes_at_once_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    (first, *_) = add_old("first")
    set_job(add_old("second")[0], dialogue_id=first)
    set_job(add_old("third")[0], dialogue_id=first)
    set_batch("third", read_at=now_after(0.0))
    result = run(capsys)
    assert batch_ids() == {"first", "second", "third"}
    assert [each.partition(" stays")[0] for each in result["staying"]] == ["second", "first"]
    set_batch("third", read_at=OLD)
    assert set(run(capsys)["batches"]) == {"first", "second", "third"}
    assert batch_ids() == set()


@both
def test_a_prune_that_is_killed_in_the_middle_is_typed_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_old("one", 5)
    add_old("two", 5)
    monkeypatch.setattr(transitions, "PIECE_ROWS", 2)
    delete, pieces = pruning.delete_old, iter(range(100))

    def delete_or_die(*args: Any, **how: Any) -> Piece:
        if next(pieces) == 5:
            raise KeyboardInterrupt
        return delete(*args, **how)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pruning, "delete_old", delete_or_die)
        run(capsys, keep_costs=True)
    assert 0 < count(jobs) < 10
    run(capsys, keep_costs=True)
    assert (count(jobs), batch_ids()) == (0, set())
    with reading() as connection:
        kept = connection.execute(select(kept_costs.c.batch_id, kept_costs.c.calls, kept_costs.c.cost_usd_e12)).all()
    assert sorted(map(tuple, kept)) == [(each, 5, 5 * 250_000_000_000) for each in ("one", "two")]


def test_nothing_to_do_is_no_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, is_sure=False)["batches"] == []


def test_a_duration_without_its_unit_is_refused() -> None:
    with pytest.raises(OptionError, match="write it with its unit"):
        prune("90", keep_costs=False, dry_run=False, is_sure=True, as_json=False)


def test_a_store_that_is_away_keeps_no_batch(tmp_path: Path, use_environment: UseEnvironment) -> None:
    add_old("old")
    (tmp_path / "file").write_text("no folder")
    use_environment({"TIDEMILL_BLOBS_URL": str(tmp_path / "file" / "blobs")})
    with pytest.raises(blobs.BlobError, match=r"^Deleted 1 batch, but not all stored files\. The pictures' store"):
        prune("90d", keep_costs=False, dry_run=False, is_sure=True, as_json=True)
    assert batch_ids() == set()


def test_the_usual_store_stays_where_another_database_is_beside_it(
    embedded_home: Path, tmp_path: Path, use_environment: UseEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment({"TIDEMILL_BLOBS_URL": "", "TIDEMILL_DATABASE_URL": f"sqlite:///{tmp_path / 'other.db'}"})
    orphan = put_file(embedded_home / "blobs", b"orphan", 2)
    prune("90d", keep_costs=False, dry_run=False, is_sure=True, as_json=True)
    assert "it may hold files of" in capsys.readouterr().err
    assert stored(embedded_home / "blobs") == {orphan}
    use_environment({"TIDEMILL_DATABASE_URL": ""})
    assert run(capsys)["files"] == 1
