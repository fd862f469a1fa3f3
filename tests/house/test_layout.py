"""Why this module exists: rules about the code's shape hold because a test reads the code, not because somebody recalls
them.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.house.sources import PACKAGES, ROOT, Module, document, modules

DOORS = {
    "openai": {"models/provider.py"},
    "httpx2": {"models/provider.py"},
    "aiohttp": {"models/provider.py"},
    "redis": {"worker/limits.py"},
    "pandas": {"producer/intake.py", "producer/results.py"},
    "pyarrow": {"producer/intake.py", "producer/results.py"},
    "celery": {"models/broker.py", "worker/app.py", "worker/tasks.py"},
    "kombu": {"models/broker.py"},
    "PIL": {"producer/images.py"},
    "matplotlib": {"producer/curves.py"},
    "fsspec": {"models/blobs.py"},
    "fastapi": {"producer/gateway"},
}
"""A library -> the only files (or folders) that may import it."""

GUARDED_BY_CONTRACT = ("openai", "aiohttp", "redis", "pandas", "PIL", "matplotlib", "fsspec", "celery")
STARTS = "Why this module exists"
PLACEHOLDERS = {"__init__.py", "__main__.py"}


# --- imports ---


def imported(module: Module) -> Iterator[str]:
    """Top-level names of what a module imports, anywhere in it but for type checking."""
    skipped = {id(node) for branch in ast.walk(module.tree) if _is_typing_only(branch) for node in ast.walk(branch)}
    for node in ast.walk(module.tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("library", list(DOORS))
def test_a_library_has_one_door(library: str) -> None:
    users = {module.name for module in modules() if library in imported(module)}
    assert {name for name in users if not name.startswith(tuple(DOORS[library]))} == set()


def test_producer_and_worker_never_meet_and_models_stands_alone() -> None:
    may_import = {
        "models": {"models"},
        "migrations": {"models", "migrations"},
        "producer": {"models", "migrations", "producer"},
        "worker": {"models", "migrations", "worker"},
    }
    for module in modules():
        ours = set(imported(module)) & set(PACKAGES)
        assert ours <= may_import[module.name.partition("/")[0]], module.name


@pytest.mark.parametrize("library", GUARDED_BY_CONTRACT)
def test_a_door_has_a_contract_that_lint_runs(library: str) -> None:
    found = [each for each in _contracts() if library in each.get("forbidden_modules", ())]
    assert len(found) == 1
    assert set(found[0]["source_modules"]) == set(PACKAGES)
    open_to = {rule.split(" -> ")[0] for rule in found[0]["ignore_imports"] if rule.endswith(f" -> {library}")}
    assert open_to == {name.removesuffix(".py").replace("/", ".") for name in DOORS[library]}


def test_the_layers_have_a_contract_that_lint_runs() -> None:
    layers = [each["layers"] for each in _contracts() if each["type"] == "layers"]
    assert layers == [["producer | worker", "migrations", "models"]]
    assert "lint-imports" in (ROOT / "Makefile").read_text("utf-8")


def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return list(settings["tool"]["importlinter"]["contracts"])


# --- what the documents say of it ---


def test_the_design_names_every_module_and_no_other() -> None:
    tree = document("DESIGN.md").partition("\n## Layout\n")[2].partition("\n## ")[0]
    named, folder = set(), ""
    for line in re.findall(r"(?m)^ {4}( *)(\S+)(?: |$)", tree):
        indent, name = line
        folder = name if not indent and name.endswith("/") else folder
        if name.endswith(".py"):
            named.add(folder + name)
    empty = {module.name for module in modules() if module.name.endswith("/__init__.py")}
    versions = {module.name for module in modules() if module.name.startswith("migrations/versions/")}
    assert named == {module.name for module in modules()} - empty - versions


def test_modules_and_functions_that_the_documents_speak_of_exist() -> None:
    names = {
        node.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for name in ("DESIGN.md", "CONTRIBUTING.md"):
        text = document(name)
        for path in re.findall(r"\b(?:models|producer|worker|migrations|tests)/[\w/]+\.py\b", text):
            assert (ROOT / path).is_file(), f"{name} speaks of {path}"
    for called in re.findall(r"`(?:\w+\.)*(\w+)\(\w*\)`", document("DESIGN.md")):
        assert called in names, f"DESIGN.md speaks of {called}()"


def test_the_state_machine_in_the_design_has_the_states_and_transitions_of_the_code() -> None:
    import models.transitions as code
    from models.tables import STATES

    told = document("DESIGN.md").partition("\n## The state machine\n")[2].partition("\n## ")[0]
    for state in STATES:
        assert re.search(rf"\b{state}\b", told), state
    for arrow in ("enqueue", "claim", "release", "rescue", "cancel", "revive"):
        assert callable(getattr(code, arrow))
        assert f"\n| {arrow} |" in told


# --- docstrings, names ---


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.name))
def test_a_module_says_why_it_exists(module: Module) -> None:
    said = ast.get_docstring(module.tree) or ""
    if module.name.startswith("migrations/versions/"):
        assert said, "a revision says what it changes"
    elif module.name.endswith("/__init__.py"):
        assert said.endswith((".", ":")) or "\n" in said, "a package says what it is for"
    else:
        assert said.startswith(STARTS)


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


def test_names_are_those_of_the_glossary() -> None:
    found = [
        f"{module.name}: {name} ({AVOIDED[word]})"
        for module in modules()
        for name in _names(module)
        for word in _words(name)
        if word in AVOIDED
    ]
    assert found == []


def _names(module: Module) -> Iterator[str]:
    yield module.name.rpartition("/")[2].removesuffix(".py")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _words(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
