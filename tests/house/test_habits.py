"""What must never happen in our code is looked for in its syntax, not hoped for."""

import ast
from collections.abc import Iterator
from functools import cache

from tests.house.sources import modules

RUNS_SQL = {"text", "execute", "executemany", "exec_driver_sql", "scalar", "scalars"}
_TALLIES = "migrations/versions/0009_tallies.py"
CONSTANT_SQL = {
    ("models/sqlite.py", "_set_pragmas"),
    *((_TALLIES, name) for name in ("upgrade", "downgrade", "_make_triggers_on_sqlite", "_make_triggers_on_postgres")),
    ("migrations/versions/0011_money.py", "_replace_kept_costs"),
    ("migrations/versions/0012_exact_sums.py", "_count_in"),
}
"""Functions whose SQL is put together from constants of ours: neither a PRAGMA nor a trigger takes parameters."""

STATE_COLUMNS = {"state", "epoch", "lease_until", "failures", "losses"}
SETS_STATE = {f"models/{name}.py" for name in ("transitions", "claims", "settling", "twins")}
SETS_SENT = {f"models/{name}.py" for name in ("transitions", "claims", "twins", "feed")}
"""Who may say that a job's message is out or used up; of a fine-tune, somebody's wish is due at once."""

SHOWS_TRACEBACK = {"exception", "print_exc", "print_exception", "print_tb", "format_exc"}
PRINTS_SENTENCES = {"models/dotenv.py", "models/misspelt.py", "simulator/__main__.py", "worker/starting.py"}
"""Before there is a log."""
CELERY_DELAYS = {"countdown", "eta", "expires"}


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """(file, function it stands in, call) for every call in our packages."""
    return tuple(
        (module.name, function, node)
        for module in modules()
        for function, node in _with_function(module.tree, "")
        if isinstance(node, ast.Call)
    )


def _with_function(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield inner, child
        yield from _with_function(child, inner)


def name_of(call: ast.Call) -> str:
    """The name by which something is called, without what it belongs to."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_put_together(node: ast.AST) -> bool:
    """True for text that is made from parts: an f-string, `+`, `%`, `.format` or `.join`."""
    if isinstance(node, ast.BinOp):
        return any(isinstance(side, ast.Constant | ast.JoinedStr) for side in (node.left, node.right))
    made = isinstance(node, ast.Call) and name_of(node) in {"format", "join"}
    return made or isinstance(node, ast.JoinedStr)


def test_sql_is_never_put_together_from_text() -> None:
    found = {
        f"{name}:{call.lineno}"
        for name, function, call in calls()
        if name_of(call) in RUNS_SQL and call.args and is_put_together(call.args[0])
        if (name, function) not in CONSTANT_SQL
    }
    assert found == set()


def test_only_transitions_write_what_belongs_to_the_state_machine() -> None:
    found = {
        f"{name}:{call.lineno}"
        for name, _, call in calls()
        if name_of(call) == "values" and STATE_COLUMNS & {each.arg for each in call.keywords} and _changes_jobs(call)
    }
    assert {each for each in found if each.partition(":")[0] not in SETS_STATE} == set()
    assert found, "this test looks for `update(jobs)..values(state=..)`, and there must be some"


def test_what_was_sent_is_written_only_by_those_whose_affair_it_is() -> None:
    found = {
        name
        for name, _, call in calls()
        if name_of(call) == "values" and "sent_at" in {each.arg for each in call.keywords} and _may_change_jobs(call)
    }
    assert found == SETS_SENT


def _may_change_jobs(call: ast.Call) -> bool:
    """Whether the table is `jobs`, or stands elsewhere: `due = update(jobs)..`, then `due.values(..)`."""
    return _changes_jobs(call) or not any(
        isinstance(inner, ast.Call) and name_of(inner) in {"update", "insert"} for inner in ast.walk(call.func)
    )


def _changes_jobs(call: ast.Call) -> bool:
    targets = (inner for inner in ast.walk(call.func) if isinstance(inner, ast.Call))
    return any(
        name_of(inner) in {"update", "insert"} and getattr(inner.args[0], "id", "") == "jobs"
        for inner in targets
        if inner.args
    )


def test_waiting_is_a_column_and_never_a_delayed_message() -> None:
    found = {
        f"{name}:{call.lineno}"
        for name, _, call in calls()
        if name_of(call) in {"apply_async", "send_task", "retry"} and CELERY_DELAYS & {key.arg for key in call.keywords}
    }
    assert found == set()


def test_stdout_carries_data_only_so_print_names_its_stream() -> None:
    bare = {
        f"{name}:{call.lineno}"
        for name, _, call in calls()
        if isinstance(call.func, ast.Name)
        and call.func.id == "print"
        and "file" not in {key.arg for key in call.keywords}
    }
    assert bare == set()


def test_text_of_strangers_goes_through_one_door_to_the_terminal() -> None:
    """`print` is left to what prints sentences of ours, by way of `one_line` or `printable`."""
    doors = {"echo": {"producer/screen/printing.py"}, "print": {"producer/screen/display.py", *PRINTS_SENTENCES}}
    found = {
        f"{name}:{call.lineno}"
        for name, _, call in calls()
        for door, modules_of_door in doors.items()
        if name_of(call) in {door, "secho"} and name not in modules_of_door and _owner(call) in {"", "typer", "click"}
    }
    assert found == set()
    raw = {module.name for module in modules() if "stdout.buffer" in module.text or "stderr.buffer" in module.text}
    assert raw == {"producer/screen/printing.py"}


def _owner(call: ast.Call) -> str:
    return getattr(getattr(call.func, "value", None), "id", "")


def test_no_traceback_is_shown_to_users() -> None:
    found = set()
    for name, _, call in calls():
        owner = getattr(getattr(call.func, "value", None), "id", "")
        shows = owner in {"log", "logger", "logging", "traceback"} and name_of(call) in SHOWS_TRACEBACK
        always = any(
            key.arg == "exc_info" and isinstance(key.value, ast.Constant) and key.value.value for key in call.keywords
        )
        if shows or always:
            found.add(f"{name}:{call.lineno}")
    assert found == set()


def test_nothing_is_left_to_be_done_in_a_comment() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
    found = [
        f"{module.name}: {line.strip()}"
        for module in modules()
        for line in module.text.splitlines()
        if "#" in line and any(mark in line.partition("#")[2].split() for mark in marks)
    ]
    assert found == []
