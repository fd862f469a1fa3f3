"""An installed Tidemill: one top-level name, and nothing of the folder or the project that its user works in.

The wheel is built from this tree and installed into an environment of its own. Its dependencies are those of the tests:
a path to them is added there, without what their environment says of a Tidemill in this folder.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.flows.tidemill import Tidemill
from tests.house.sources import PACKAGES, ROOT
from tests.waiting import limit
from tidemill.simulator import Simulator, reply_tag

OWN_FILES = [path.name for path in (ROOT / "tidemill").iterdir() if path.is_file() and not path.is_symlink()]
"""In the folder `tidemill`, beside the links."""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=limit(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def built(target: str, tree: Path, folder: Path) -> Path:
    """What hatchling makes of a tree, in a folder that it makes."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=tree)
    (made,) = folder.iterdir()
    return made


def contents(wheel: Path) -> dict[str, int]:
    """Name -> checksum of each file, without what is said of the build."""
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist() if ".dist-info/" not in each.filename}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


# --- the wheel ---


def test_a_wheel_has_one_top_level_name_and_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tidemill"}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    ours = {f"tidemill/{path.relative_to(ROOT).as_posix()}" for path in files if path.parent.name != "__pycache__"}
    assert set(contents(wheel)) == ours | {f"tidemill/{name}" for name in OWN_FILES}


def test_a_wheel_from_the_source_archive_is_the_same(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (tree,) = (tmp_path / "unpacked").iterdir()
    assert contents(built("wheel", tree, tmp_path / "wheel")) == contents(wheel)


def test_a_wheel_from_a_clone_without_links_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """Git writes a text file in a link's place where the file system, or Windows, has no links."""
    clone = tmp_path / "clone"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", *(f"tidemill/{each}" for each in OWN_FILES)):
        (clone / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    for name in PACKAGES:
        link = ROOT / "tidemill" / name
        (clone / "tidemill" / name).write_text(str(link.readlink()) if link.is_symlink() else link.read_text(), "utf-8")
    assert contents(built("wheel", clone, tmp_path / "wheel")) == contents(wheel)


# --- where it is installed ---


class Installed(NamedTuple):
    """An environment that has the wheel."""

    command: Path
    python: Path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    ours = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (Path(paths["purelib"]) / "dependencies.pth").write_text("\n".join(sorted(ours)), "utf-8")
    return Installed(folder / "bin" / "tidemill", python)


PLANTED = """
import os, pathlib
pathlib.Path(os.environ["MARKERS"], f"{os.getpid()}").write_text(__file__)
raise ImportError(f"{__file__} is no part of Tidemill")
"""
"""A file of the user's that must not be run by us; it says so, even where its error is caught."""

NAMES_OF_OURS = {
    "modules": ("models.py", "worker.py", "producer.py", "migrations/__init__.py", "simulator.py"),
    "packages": (
        "models/user.py",
        "worker/__init__.py",
        "worker/tasks.py",
        "producer/cli.py",
        "migrations/env.py",
        "simulator/__main__.py",
    ),
}
OTHERS = ("tidemill.py", "redis.py", "celery.py", "celeryconfig.py", "openai.py", "sqlalchemy/__init__.py", "numpy.py")

ANOTHER_PROJECT = {
    "DJANGO_SETTINGS_MODULE": "theirs.settings",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "CELERY_LOADER": "theirs.loader.Loader",
    "CELERY_CONFIG_MODULE": "celeryconfig",
    "CELERY_CUSTOM_WORKER_POOL": "theirs.pool:Pool",
}
"""Variables of a project with Django and Celery, in whose shell somebody starts us."""


@pytest.fixture
def markers(tmp_path: Path) -> Iterator[Path]:
    """A folder that stays empty as long as nothing planted is run."""
    made = tmp_path / "markers"
    made.mkdir()
    yield made
    assert [path.read_text("utf-8") for path in made.iterdir()] == []


def plant(folder: Path, *names: str) -> None:
    for name in (*names, "theirs/settings.py", "theirs/loader.py", "theirs/pool.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(PLANTED, "utf-8")


def user_of(installed: Installed, environment: dict[str, str], folder: Path, markers: Path) -> Tidemill:
    around = {"MARKERS": str(markers), "PYTHONPATH": "", **ANOTHER_PROJECT}
    return Tidemill(environment | around, folder, command=[str(installed.command)], python=str(installed.python))


@pytest.mark.parametrize("form", NAMES_OF_OURS)
def test_a_command_runs_nothing_of_the_folder_that_it_is_called_in(
    form: str, installed: Installed, embedded_environment: dict[str, str], folder: Path, markers: Path
) -> None:
    plant(folder, *NAMES_OF_OURS[form], *OTHERS)
    user = user_of(installed, embedded_environment, folder, markers)
    ran = user("ask", "Is it you?", "--transport", "sdk").ok()
    assert ran.out.endswith(f"{reply_tag('Is it you?')}\n")
    assert ran.said == ""


@pytest.mark.parametrize("form", NAMES_OF_OURS)
def test_a_worker_runs_nothing_of_the_folder_that_it_is_started_in(
    form: str, installed: Installed, shared_environment: dict[str, str], folder: Path, markers: Path
) -> None:
    plant(folder, *NAMES_OF_OURS[form], *OTHERS)
    user = user_of(installed, shared_environment, folder, markers)
    with user.started("worker", "--processes", "1"):
        assert user("ask", "Is it you?", "--transport", "http").ok().out.endswith(f"{reply_tag('Is it you?')}\n")


SCRIPT = """
import os, sys
from tidemill import ask
batch = ask(["Is it you?"], transport="http")
batch.wait()
print(batch.to_frame()["reply"][0])
print(sys.modules["tidemill"].__file__)
"""


@pytest.mark.parametrize("form", NAMES_OF_OURS)
def test_a_script_beside_files_of_our_names_imports_tidemill_alone(
    form: str, installed: Installed, embedded_environment: dict[str, str], folder: Path, markers: Path
) -> None:
    plant(folder, *NAMES_OF_OURS[form])
    ran = user_of(installed, embedded_environment, folder, markers).python(SCRIPT).ok()
    reply, file = ran.out.splitlines()
    assert reply.endswith(reply_tag("Is it you?"))
    assert Path(file).is_relative_to(installed.python.parents[1])


def test_a_rehearsal_needs_nothing_but_the_wheel(
    installed: Installed, embedded_environment: dict[str, str], folder: Path, markers: Path
) -> None:
    plant(folder, *NAMES_OF_OURS["modules"], *OTHERS)
    user = user_of(installed, embedded_environment, folder, markers)
    ran = user("rehearse", "--prompts", "5", "--minutes", "0", "--json").ok()
    assert (ran.json["lost"], ran.json["calls_paid"] >= 5, ran.json["problems"]) == (0, True, [])


def test_a_user_s_own_folder_models_is_importable_beside_it(
    installed: Installed, folder: Path, simulator: Simulator
) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "user.py").write_text("NAME = 'theirs'", "utf-8")
    user = Tidemill({"OPENAI_BASE_URL": simulator.url}, folder, python=str(installed.python))
    ran = user.python("import tidemill, models.user; print(models.user.NAME)", PYTHONPATH="").ok()
    assert ran.out == f"theirs{os.linesep}"
