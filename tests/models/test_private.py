"""Dialogues are for the eyes of their owner, and a home is where its path says, whatever characters are in it."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UseEnvironment
from tests.rows import add_batch
from tidemill import migrations
from tidemill.models import blobs, database
from tidemill.models.settings import Settings, settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="rights of files are those of POSIX")
PICTURE = ("ab" * 32, b"picture")


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def rights(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_database_folders_and_pictures_are_their_owner_s_alone(tmp_path: Path, use_environment: UseEnvironment) -> None:
    home = tmp_path / "home"
    use_environment({"TIDEMILL_HOME": str(home)})
    migrations.ensure()
    add_batch()
    sha256, content = PICTURE
    blobs.put(content, sha256)
    assert {str(path.relative_to(tmp_path)): rights(path) for path in home.rglob("*")} | {"home": rights(home)} == {
        "home": "0o700",
        "home/tidemill.db": "0o600",
        "home/tidemill.db-wal": "0o600",
        "home/tidemill.db-shm": "0o600",
        "home/blobs": "0o700",
        f"home/blobs/{sha256[:2]}": "0o700",
        f"home/blobs/{sha256[:2]}/{sha256}": "0o600",
    }


@pytest.fixture
def open_home(tmp_path: Path, use_environment: UseEnvironment) -> Path:
    """A home as older versions made it, open in another process: everybody may read."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("tidemill.db", "tidemill.db-wal"):
        (home / name).touch()
    use_environment({"TIDEMILL_HOME": str(home)})
    return home


def test_a_default_home_that_everybody_could_read_is_closed_when_it_is_opened(
    open_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings.model_fields["home"], "default_factory", lambda: open_home)
    database.engine()
    assert {rights(open_home)} == {"0o700"}
    assert {rights(path) for path in open_home.iterdir()} == {"0o600"}


def test_a_home_that_somebody_chose_keeps_its_rights(open_home: Path) -> None:
    database.engine()
    assert rights(open_home) == "0o755"
    assert {rights(path) for path in open_home.iterdir()} == {"0o644"}


# --- a store of pictures for several users ---


@pytest.fixture
def shared(tmp_path: Path, use_environment: UseEnvironment) -> Path:
    """A folder that everybody in its group may write to."""
    folder = tmp_path / "shared"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, -1, 54_321)
    folder.chmod(0o2770)
    use_environment({"TIDEMILL_BLOBS_URL": str(folder)})
    return folder


def test_what_is_stored_in_a_shared_folder_has_its_group_and_its_rights(shared: Path) -> None:
    sha256, content = PICTURE
    blobs.put(content, sha256)
    shard, group = shared / sha256[:2], shared.stat().st_gid
    assert (rights(shard), rights(shard / sha256)) == ("0o2770", "0o660")
    assert {shard.stat().st_gid, (shard / sha256).stat().st_gid} == {group}


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="only root can be two users")
def test_a_second_user_of_the_group_can_store_beside_the_first(shared: Path) -> None:
    for folder in (*shared.parents, shared):
        if rights(folder) == "0o700":
            folder.chmod(0o711)
    os.chown(shared, 12_001, 54_321)
    settings()
    for uid, end in ((12_001, "1"), (12_002, "2"), (12_001, "3")):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([54_321])
                os.setgid(uid)
                os.setuid(uid)
                os.umask(0o077)
                blobs.put(PICTURE[1], PICTURE[0][:-1] + end)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    files = sorted((shared / PICTURE[0][:2]).iterdir())
    assert [(path.name[-1], path.stat().st_uid) for path in files] == [("1", 12_001), ("2", 12_002), ("3", 12_001)]


# --- a home of any name ---


@pytest.mark.parametrize("name", ["what?", "a#b", "%41", "a b", "a@b", "naïve 朝", "a::b", "file:x", "a%"])
def test_a_home_of_any_name_holds_database_and_pictures(
    tmp_path: Path, use_environment: UseEnvironment, name: str
) -> None:
    home = tmp_path / name
    use_environment({"TIDEMILL_HOME": str(home)})
    migrations.ensure()
    blobs.check()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in home.iterdir()} >= {"tidemill.db", "blobs"}
