"""Rules about the code's shape hold because a test reads the code, not because somebody recalls
them.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.house.sources import DOCUMENTS, PACKAGES, ROOT, Module, document, modules, section

DOORS = {
    "openai": {"models/transports.py"},
    "httpx2": {"models/transports.py"},
    "aiohttp": {"models/transports.py", "models/remote_files.py"},
    "redis": {"worker/limits.py"},
    "pandas": {"producer/intake/tables.py", "producer/intake/packed.py", "producer/batches/results.py"},
    "pyarrow": {"producer/intake/packed.py", "producer/intake/arrow_tables.py", "producer/batches/results.py"},
    "polars": {"producer/batches/polars_frame.py"},
    "IPython": {"producer/screen/notebook.py"},
    "celery": {"models/broker.py", "models/messages.py", "worker/app.py"},
    "kombu": {"models/broker.py", "models/messages.py"},
    "PIL": {
        f"producer/describing/{name}.py" for name in ("images", "opening", "loading", "showing", "colours", "depths")
    },
    "matplotlib": {"producer/training/curves.py"},
    "fsspec": {"models/remote_files.py"},
    "backports": {"producer/intake/compressed.py"},
    "prometheus_client": {"worker/exporter.py"},
    "xlsxwriter": {"producer/batches/workbooks.py"},
}
"""A library -> the only files that import it."""

GUARDED_BY_CONTRACT = (
    *("openai", "aiohttp", "redis", "pandas", "PIL", "matplotlib", "fsspec", "celery", "polars", "IPython"),
    *("prometheus_client", "xlsxwriter"),
)
LABELS = ("Why ", "This module ", "This file ", "Module ")


# --- imports ---


@cache
def imported(module: Module) -> frozenset[str]:
    """Dotted names of what a module imports, anywhere in it but for type checking: `tidemill.models.cost`, `redis`."""
    return frozenset(_imported(module.tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    skipped = {id(node) for branch in ast.walk(tree) if _is_typing_only(branch) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _libraries(module: Module) -> set[str]:
    return {name.partition(".")[0] for name in imported(module)}


def _packages(module: Module) -> set[str]:
    """Our packages that a module imports from."""
    return {name.split(".")[1] for name in imported(module) if name.startswith("tidemill.")}


@pytest.mark.parametrize("library", list(DOORS))
def test_a_library_has_one_door(library: str) -> None:
    users = {module.name for module in modules() if library in _libraries(module)}
    assert users == DOORS[library]


def test_producer_and_worker_never_meet_and_models_stands_alone() -> None:
    may_import = {
        "models": {"models"},
        "migrations": {"models"},
        "producer": {"models", "migrations", "producer", "simulator"},
        "worker": {"models", "migrations", "worker"},
        "simulator": {"simulator"},
    }
    met: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for module in modules():
        package = module.name.partition("/")[0]
        assert _packages(module) <= may_import[package], module.name
        met[package] |= _packages(module)
    assert met == may_import, "this test reads imports, and each package imports all that it may"


def test_everything_of_ours_is_imported_from_tidemill() -> None:
    found = {f"{module.name}: {name}" for module in modules() for name in _libraries(module) & set(PACKAGES)}
    assert found == set()


@pytest.mark.parametrize("package", ["producer", "worker"])
def test_the_old_names_say_what_the_new_ones_are(package: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {package}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"^ImportError: .*tidemill", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("library", GUARDED_BY_CONTRACT)
def test_a_door_has_a_contract_that_lint_runs(library: str) -> None:
    found = [each for each in _contracts() if library in each.get("forbidden_modules", ())]
    assert len(found) == 1
    assert found[0]["source_modules"] == ["tidemill"]
    open_to = {rule.split(" -> ")[0] for rule in found[0]["ignore_imports"] if rule.endswith(f" -> {library}")}
    assert open_to == {f"tidemill.{name.removesuffix('.py').replace('/', '.')}" for name in DOORS[library]}


def test_the_layers_have_contracts_that_lint_runs() -> None:
    layers = [each["layers"] for each in _contracts() if each["type"] == "layers"]
    assert layers == [
        ["tidemill.producer | tidemill.worker", "tidemill.migrations", "tidemill.models | tidemill.simulator"],
        ["cli", "rehearsing", "describing | training | comparing | costing", "asking", "batches", "intake", "screen"],
    ]
    assert "lint-imports" in (ROOT / "Makefile").read_text("utf-8")


def test_no_imports_form_a_circle_not_even_inside_functions_or_for_types() -> None:
    names = {_dotted(module): module for module in modules()}
    imports = {name: _imports_of(module, set(names)) for name, module in names.items()}
    assert sum(map(len, imports.values())) > len(imports), "this test reads imports"
    while leaves := {name for name, others in imports.items() if not others & imports.keys()}:
        imports = {name: others for name, others in imports.items() if name not in leaves}
    assert imports.keys() == set(), "these import each other, or what does"


def _dotted(module: Module) -> str:
    return f"tidemill.{module.name.removesuffix('.py').replace('/', '.').removesuffix('.__init__')}"


def _imports_of(module: Module, names: set[str]) -> set[str]:
    """Our modules that a module imports anywhere; a package counts only where something of its own is imported."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in names else node.module)
    return (found & names) - {_dotted(module)}


def test_only_one_module_starts_interpreters_so_that_none_reads_the_working_folder() -> None:
    users = {module.name for module in modules() if "sys.executable" in module.text}
    assert users == {"models/interpreters.py", "producer/cli/doctor.py", "simulator/client.py"}


def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return list(settings["tool"]["importlinter"]["contracts"])


# --- what the documents say of it ---


def test_the_design_names_every_folder_and_room_and_no_other() -> None:
    tree = section(document("DESIGN.md"), "## Folders and rooms")
    named, above = set(), ""
    for indent, name in re.findall(r"(?m)^ {4}( *)([a-z]+/)(?: |$)", tree):
        above = above if indent else name
        named.add(above + name if indent else name)
    rooms = {path.parent.relative_to(ROOT).as_posix() + "/" for path in (ROOT / "producer").glob("*/__init__.py")}
    assert named == {"tidemill/", "tests/", *(f"{package}/" for package in PACKAGES), *rooms}


def test_modules_and_functions_that_the_documents_speak_of_exist() -> None:
    names = {
        node.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    path = r"\b(?:models|producer|worker|migrations|tests)/[\w/]+\.py\b"
    named = {(name, file) for name in DOCUMENTS for file in re.findall(path, document(name))}
    assert {(name, file) for name, file in named if not (ROOT / file).is_file()} == set()
    assert set(re.findall(r"`(?:\w+\.)*(\w+)\(\w*\)`", document("DESIGN.md"))) <= names


def test_the_state_machine_in_the_design_has_the_states_and_transitions_of_the_code() -> None:
    from tidemill.models import claims, transitions, twins
    from tidemill.models.tables import STATES

    told = document("DESIGN.md").partition("\n## The state machine\n")[2].partition("\n## ")[0]
    for state in STATES:
        assert re.search(rf"\b{state}\b", told), state
    arrows = [transitions.enqueue, claims.claim, twins.share, transitions.release, transitions.rescue]
    for arrow in (*arrows, transitions.cancel, transitions.revive, transitions.erase):
        assert f"\n| {arrow.__name__} |" in told


# --- docstrings, names ---


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.name))
def test_a_module_says_why_it_exists(module: Module) -> None:
    said = ast.get_docstring(module.tree) or ""
    if module.name.startswith("migrations/versions/"):
        assert said, "a revision says what it changes"
    elif module.name.endswith("/__init__.py"):
        assert said.endswith((".", ":")) or "\n" in said, "a package says what it is for"
    else:
        first = said.splitlines()[0] if said else ""
        assert len(first.split()) >= 5 and not first.startswith(LABELS), "a module opens by saying why it exists"


AVOIDED = {
    "manager": "say what it does",
    "helper": "say what it does",
    "helpers": "say what it does",
    "util": "say what it does",
    "utils": "say what it does",
    "common": "say what it is",
    "misc": "say what it is",
    "service": "say what it does",
    "services": "say what it does",
    "data": "say which: rows, messages, answers",
    "info": "say which",
    "conversation": "dialogue",
    "vendor": "provider",
    "todo": "job",
    "workitem": "job",
}


NAMED_BY_LIBRARIES = {"data_received"}
"""By asyncio's protocols."""


def test_names_are_those_of_the_glossary() -> None:
    found = [
        f"{module.name}: {name} ({AVOIDED[word]})"
        for module in modules()
        for name in _names(module)
        for word in _words(name)
        if word in AVOIDED and name not in NAMED_BY_LIBRARIES
    ]
    assert found == []


def _names(module: Module) -> Iterator[str]:
    yield module.name.rpartition("/")[2].removesuffix(".py")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _words(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
