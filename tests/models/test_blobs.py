"""A picture is stored once, whole, and comes back as it was or not at all."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from tests.conftest import UseEnvironment
from tests.house.sources import ROOT
from tests.waiting import limit
from tidemill.models import blobs
from tidemill.models.blobs import BlobError, BlobMissingError
from tidemill.models.settings import settings

Names = Callable[[], list[str]]
"""The paths of all files in the store, from its root, sorted."""


@pytest.fixture(params=["folder", "memory"])
def names(request: pytest.FixtureRequest, tmp_path: Path, use_environment: UseEnvironment) -> Names:
    """The test runs over a folder and over fsspec's memory, which stands in for an object store."""
    url = str(tmp_path / "blobs") if request.param == "folder" else f"memory://{tmp_path.name}/pictures"
    use_environment({"TIDEMILL_BLOBS_URL": url})
    files, root = fsspec.url_to_fs(url)
    return lambda: sorted(path.removeprefix(f"{root}/") for path in files.find(root))


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stored(content: bytes) -> str:
    blobs.put(content, hash_of(content))
    return hash_of(content)


@pytest.fixture
def folder(tmp_path: Path, use_environment: UseEnvironment) -> Path:
    use_environment({"TIDEMILL_BLOBS_URL": str(tmp_path / "blobs")})
    return tmp_path / "blobs"


def test_a_picture_comes_back_as_it_was_under_its_hash(names: Names) -> None:
    content = bytes(range(256)) * 500
    sha256 = stored(content)
    assert blobs.get(sha256) == content
    assert names() == [f"{sha256[:2]}/{sha256}"]


def test_what_is_there_already_is_not_written_again(folder: Path) -> None:
    sha256 = stored(b"picture")
    before = (folder / sha256[:2] / sha256).stat()
    assert stored(b"picture") == sha256
    after = (folder / sha256[:2] / sha256).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_missing_picture_is_an_error_of_its_own_that_names_the_store(names: Names) -> None:
    check = blobs.check()
    with pytest.raises(BlobMissingError, match=r"^The file abababababab is not in \S+; let TIDEMILL_BLOBS_URL"):
        blobs.get("ab" * 32)
    assert blobs.shown_url() in check
    assert names() == []


@pytest.mark.parametrize("damaged", [b"", b"pict", b"pictur\0", b"picture and more"])
def test_a_damaged_picture_is_never_returned_and_one_cut_short_is_stored_anew(
    folder: Path, names: Names, damaged: bytes
) -> None:
    sha256 = stored(b"picture")
    files, root = fsspec.url_to_fs(settings().effective_blobs_url)
    files.pipe_file(f"{root}/{sha256[:2]}/{sha256}", damaged)
    with pytest.raises(BlobMissingError, match=f"is damaged; delete {sha256[:2]}/{sha256} there"):
        blobs.get(sha256)
    if len(damaged) != len(b"picture"):
        stored(b"picture")
        assert blobs.get(sha256) == b"picture"


def test_many_threads_may_store_the_same_pictures_at_once(names: Names) -> None:
    pictures = [bytes([number]) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(16) as threads:
        hashes = list(threads.map(stored, pictures * 16))
    assert names() == sorted(f"{each[:2]}/{each}" for each in set(hashes))
    assert [blobs.get(hash_of(each)) for each in pictures] == pictures


PUT_ALL = """
import hashlib, sys
from tidemill.models import blobs
sys.stdin.readline()
for number in range(50):
    content = bytes([number]) * 10_000
    blobs.put(content, hashlib.sha256(content).hexdigest())
"""

KILLED_BEFORE_THE_RENAME = """
import os, signal
from pathlib import Path
from tidemill.models import blobs
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
blobs.put(b"picture", "{sha256}")
"""


def child(code: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdin=subprocess.PIPE)


def test_two_processes_may_store_the_same_pictures_at_once(folder: Path) -> None:
    children = [child(PUT_ALL) for _ in range(2)]
    for each in children:
        assert each.stdin is not None
        each.stdin.write(b"\n")
        each.stdin.close()
    assert [each.wait(limit()) for each in children] == [0, 0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 50
    assert all(hash_of(path.read_bytes()) == path.name for path in files)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_what_a_killed_process_left_behind_does_no_harm(folder: Path) -> None:
    sha256 = hash_of(b"picture")
    killed = child(KILLED_BEFORE_THE_RENAME.format(sha256=sha256))
    killed.communicate(timeout=limit())
    assert killed.returncode < 0
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".tmp"]
    with pytest.raises(BlobMissingError):
        blobs.get(sha256)
    stored(b"picture")
    assert blobs.get(sha256) == b"picture"


def test_check_leaves_nothing_behind_and_says_where_pictures_are_kept(names: Names) -> None:
    assert blobs.check() == f"pictures are kept in {settings().blobs_url}"
    assert names() == []


def test_the_default_is_a_folder_beside_the_database(embedded_home: Path) -> None:
    sha256 = stored(b"picture")
    assert (embedded_home / "blobs" / sha256[:2] / sha256).read_bytes() == b"picture"


def test_a_file_url_works_and_a_relative_folder_stays_where_it_was_first(
    tmp_path: Path, use_environment: UseEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_environment({"TIDEMILL_BLOBS_URL": f"file://{tmp_path}/by-url"})
    sha256 = stored(b"picture")
    assert (tmp_path / "by-url" / sha256[:2] / sha256).is_file()
    use_environment({"TIDEMILL_BLOBS_URL": "a-relative-folder"})
    monkeypatch.chdir(tmp_path)
    stored(b"picture")
    monkeypatch.chdir("/")
    assert blobs.get(sha256) == b"picture"
    assert (tmp_path / "a-relative-folder" / sha256[:2] / sha256).is_file()


# --- errors ---


def sentence_for(url: str, use_environment: UseEnvironment) -> str:
    use_environment({"TIDEMILL_BLOBS_URL": url})
    with pytest.raises(BlobError) as caught:
        stored(b"picture")
    with pytest.raises(BlobError) as checked:
        blobs.check()
    assert str(checked.value) == str(caught.value)
    return str(caught.value)


def test_a_store_that_cannot_be_written_is_one_sentence_with_the_way_out(
    tmp_path: Path, use_environment: UseEnvironment
) -> None:
    (tmp_path / "file").touch()
    for url in (f"{tmp_path}/file/blobs", f"file://{tmp_path}/file/blobs"):
        expected = f"The pictures' store {url} cannot be used: Not a directory; set TIDEMILL_BLOBS_URL to a folder."
        assert sentence_for(url, use_environment) == expected
    assert "Protocol not known: gopher; fix TIDEMILL_BLOBS_URL." in sentence_for("gopher://x", use_environment)


@pytest.mark.parametrize(
    ("module", "url", "extra"), [("s3fs", "s3://bucket/x", "s3"), ("gcsfs", "gs://bucket/x", "gcs")]
)
def test_a_missing_driver_is_named_with_its_extra(
    module: str, url: str, extra: str, use_environment: UseEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    sentence = sentence_for(url, use_environment)
    assert sentence.startswith(f"The pictures' store {url} cannot be used: ")
    assert sentence.endswith(f"; pip install 'tidemill[{extra}]'.")


@pytest.mark.parametrize(
    "url",
    [
        "gopher://me:canary@bucket/x",
        "gopher://me:cana/ry@bucket/x?token=canary#canary",
        "gopher://bucket/x?key=canary",
        "simplecache::gopher://me:canary@bucket/x",
    ],
)
def test_no_secret_of_the_url_is_told(url: str, use_environment: UseEnvironment) -> None:
    sentence = sentence_for(url, use_environment)
    assert "canary" not in sentence
    assert "cana/ry" not in sentence
    assert "bucket/x" in sentence
    assert "keep keys out of it" in sentence


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder: Path) -> None:
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(BlobError, match=f"store {folder} cannot be used: File too large; "):
            stored(b"x" * 50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


# --- remove ---


def age(folder: Path, sha256: str, seconds: float) -> str:
    at = time.time() - seconds
    os.utime(folder / sha256[:2] / sha256, (at, at))
    return sha256


def test_only_files_that_are_old_and_ours_are_offered_and_removed(folder: Path) -> None:
    assert list(blobs.old_files()) == []
    young, old = (stored(content) for content in (b"young", b"old"))
    age(folder, old, blobs.GRACE_SECONDS + 60)
    age(folder, young, blobs.GRACE_SECONDS - 60)
    foreign = folder / old[:2] / "notes.txt"
    foreign.write_text("somebody else's")
    os.utime(foreign, (0, 0))
    assert [(file.sha256, file.bytes) for file in blobs.old_files()] == [(old, 3)]
    assert [blobs.remove(each) for each in (old, old, young)] == [True, False, False]
    assert [path.name for path in folder.rglob("*") if len(path.name) == 64] == [young]


def test_a_file_that_is_stored_again_is_young_again(folder: Path) -> None:
    sha256 = stored(b"picture")
    age(folder, sha256, blobs.GRACE_SECONDS + 60)
    (offered,) = blobs.old_files()
    stored(b"picture")  # a command that stores its row in a moment
    assert not blobs.remove(offered.sha256)
    assert blobs.get(sha256) == b"picture"


@pytest.mark.parametrize(
    "time_of",
    [
        {"mtime": 1e9},
        {"LastModified": datetime(2001, 9, 9, tzinfo=UTC)},
        {"updated": "2001-09-09T01:46:40.000Z"},
        {"created": datetime(2001, 9, 9, tzinfo=UTC)},
    ],
    ids=str,
)
def test_each_stores_own_word_for_the_time_is_understood(time_of: dict[str, object]) -> None:
    file = blobs._stored_file({"name": "bucket/ab/abc", "size": 3, **time_of})
    assert (file.sha256, file.bytes) == ("abc", 3)
    assert 20 * 365 * 86_400 < file.age_seconds < 100 * 365 * 86_400


def test_a_file_of_an_unknown_age_is_young() -> None:
    assert blobs._stored_file({"name": "ab/abc", "size": 3, "time": 1e9}).age_seconds == 0.0


def test_an_object_store_is_given_an_old_file_again(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = stored(b"picture")
    monkeypatch.setattr(blobs, "GRACE_SECONDS", -1.0)  # all is old
    assert [file.sha256 for file in blobs.old_files()] == [sha256]
    stored(b"picture")
    assert blobs.remove(sha256)
    assert names() == []
