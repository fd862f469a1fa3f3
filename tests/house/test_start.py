"""One prompt is asked with few imports and few statements: each costs milliseconds before the answer is there."""

import json
import os
import subprocess
import sys

from tests.waiting import limit

NOT_NEEDED = {
    *("PIL", "alembic", "dotenv", "fsspec", "jsonschema", "matplotlib", "numpy", "openai", "pandas", "psycopg"),
    *(
        "py3langid",
        "pydantic_settings",
        "redis",
        "prometheus_client",
        "rich.console",
        "sqlalchemy.dialects.postgresql",
        "tidemill.worker.train",
        "toktok",
    ),
}
MOST_STATEMENTS = 27
"""Different ones: each is built and compiled once a process, which takes longer than to execute it."""

MOST_COMMITS = 4
"""By the threads of the command itself: a batch, its rows, their end, and what the worker's start and end write."""

PROGRAM = """
import json, os, sys, threading
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tidemill.producer.cli import commands

statements, commits = set(), []
by_time = ("heartbeat", "maintenance")  # how often they have come round by the end, the machine decides
is_counted = lambda statement: "BEGIN" not in statement and threading.current_thread().name not in by_time
event.listen(Engine, "before_cursor_execute", lambda *of: is_counted(of[2]) and statements.add(of[2]))
event.listen(Engine, "commit", lambda _connection: commits.append(threading.current_thread().name))
sys.argv = ["tidemill", "ask", "Why is the sea salty?", "--transport", "http"]
code = commands.run()
own = [name for name in commits if name in ("MainThread", "submit")]
print(json.dumps([code, sorted(sys.modules), sorted(statements), len(own)]), flush=True)
os._exit(0)
"""


def test_one_prompt_imports_and_executes_little(embedded_environment: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env=os.environ | embedded_environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit(),
        check=False,
    )
    answer, outcome = ran.stdout.splitlines()
    assert answer, ran.stderr
    code, modules, statements, commits = json.loads(outcome)
    assert code == 0
    assert NOT_NEEDED & set(modules) == set()
    assert len(statements) <= MOST_STATEMENTS, "\n".join(statements)
    assert commits <= MOST_COMMITS
