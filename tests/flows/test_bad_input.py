"""Bad input: one sentence that says what to fix, exit 2, no traceback, and nothing is sent or lost."""

import csv
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.tidemill import Ran, Tidemill, answers
from tests.waiting import limit
from tidemill.simulator import Simulator, prompt_hash

GOOD = '{"prompt": "never asked"}\n'


@dataclass(frozen=True, slots=True)
class Bad:
    """A command that cannot work: arguments, what it says, files to write first, variables."""

    args: tuple[str, ...]
    says: str
    files: tuple[tuple[str, bytes], ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def _file(name: str, content: bytes, says: str, *more: str) -> Bad:
    return Bad(("ask", "-i", name, "-o", "out.jsonl", *more), says, ((name, content),))


def _good(says: str, *more: str, **env: str) -> Bad:
    return Bad(("ask", "-i", "good.jsonl", *more), says, env=tuple(env.items()))


BAD = {
    "a file that is not there": Bad(("ask", "-i", "nowhere.csv"), "nowhere.csv does not exist; check the path"),
    "a folder": Bad(("ask", "-i", "."), "is a folder; name a file in it"),
    "a column that is not there": _file(
        *("columns.csv", b"id,question\n1,why?\n"), "has no column 'prompt'; its columns are: 'id', 'question'",
        *("--column", "prompt"),
    ),
    "a placeholder that is not there": _file(
        *("filled.csv", b"id,question\n1,why?\n"), "has no column 'text', which the template names; its columns are",
        *("-t", "Is {text} kind?"),
    ),
    "an empty file": _file("empty.csv", b"", "empty.csv is empty: it holds no prompt"),
    "a header without rows": _file("header.csv", b"prompt\n", "header.csv is empty: it holds no prompt"),
    "a binary file": _file("binary.csv", os.urandom(64) + b"\0" + os.urandom(64), "binary.csv is not text"),
    "an image": _file("image.txt", b"\x89PNG\r\n\x1a\n" + bytes(64), "is an image, not text"),
    "a broken JSON line": _file(
        *("broken.jsonl", GOOD.encode() + b'{"prompt": \n' + GOOD.encode()),
        "broken.jsonl line 2: is not valid JSON",
    ),
    "latin-1": _file("latin.csv", "prompt\ncafé\n".encode("latin-1"), "latin.csv is not UTF-8: there is a byte 0xe9"),
    "a quote that is never closed": _file("quote.csv", b'prompt\n"why?\nthe end\n', "a quote that opens here is never"),
    "standard input that is empty": Bad(("ask", "-i", "-"), "standard input is empty"),
    "an output in a folder that is not there": _good("does not exist; create it first", "-o", "no/where.jsonl"),
    "an output that is a folder": _good("is a folder", "-o", "folder.jsonl"),
    "an output where nothing can be written": _good("cannot be written", "-o", "/proc/out.jsonl"),
    "an output of unknown ending": _good("has no known ending", "-o", "out.docx"),
    "a URL that is none": _good("OPENAI_BASE_URL: is not an http(s) URL", OPENAI_BASE_URL="localhost:8000"),
    "a URL with a port that is none": _good("OPENAI_BASE_URL: is not", OPENAI_BASE_URL="http://localhost:80b0/v1"),
    "a URL with half a bracket": _good("OPENAI_BASE_URL: is not an http(s) URL", OPENAI_BASE_URL="http://[::1/v1"),
    "a URL with a key in it": _good("OPENAI_BASE_URL: takes only host", OPENAI_BASE_URL="http://sk-1@localhost/v1"),
    "a key that no header can hold": _good("OPENAI_API_KEY", OPENAI_API_KEY="sk-\nsecret"),
    "a database of an unknown kind": _good("TIDEMILL_DATABASE_URL names mysql", TIDEMILL_DATABASE_URL="mysql://x/y"),
    "a database that does not answer": _good("Connection refused", TIDEMILL_DATABASE_URL="postgresql://127.0.0.1:9/x"),
    "a broker of an unknown kind": _good("TIDEMILL_BROKER_URL", TIDEMILL_BROKER_URL="carrier-pigeon://x"),
    "a window that is no number": _good("TIDEMILL_WINDOW: Input should be a valid integer", TIDEMILL_WINDOW="many"),
    "a home that cannot be made": _good("Set TIDEMILL_HOME", TIDEMILL_HOME="/proc/nowhere"),
    "a home that holds something else": _good("not a database", TIDEMILL_HOME="strange"),
    "a database file that is damaged": _good("The file is", TIDEMILL_HOME="damaged"),
    "a parameter without a value": _good("--param 'seed' is not KEY=VALUE", "--param", "seed"),
    "a schema that is not there": _good("--schema no.json: No such file", "--schema", "no.json"),
    "a schema that is none": _good("--schema bad.json is no JSON schema", "--schema", "bad.json"),
    "a schema that refers to what is not there": _good(
        "--schema refers.json refers at #/items/$ref to \"http://127.0.0.1:9/x\", which is not in this document",
        *("--schema", "refers.json"),
    ),
    "an endpoint that is none": _good("--endpoint is 'completions'", "--endpoint", "completions"),
    "a transport that is none": _good("--transport is 'pigeon'", "--transport", "pigeon"),
    "a batch that is not there": Bad(("results", "nothing"), "There is no batch 'nothing'"),
    "a dialogue that is not there": Bad(("dialogues", "show", "4711"), "There is no dialogue 4711"),
    "a flag that is there twice": _good("--column was given 2 times", "--column", "a", "--column", "b"),
    "a pipe beside a file": _good("cannot be one of several inputs", "-i", "-"),
    "a glob that fits nothing": Bad(("ask", "-i", "no/*.csv"), "no/*.csv fits no file"),
    "an address that does not answer": Bad(("ask", "-i", "http://127.0.0.1:9/a.csv?k=canary"), "cannot be reached"),
    "an address where nothing is written": _good("https:// is only read", "-o", "https://host/a.csv"),
    "a text that is not there": _good("no.md does not exist", "--system", "@no.md"),
    "a prompt and a column": Bad(("ask", "why?", "--column", "prompt"), "--column is about the rows of a file"),
    "a prompt that is a file": Bad(("ask", "good.jsonl"), "good.jsonl is a file: -i good.jsonl asks its rows"),
    "a format that is none": _good("must be one of csv, tsv", "--format", "xml"),
    "a server that nothing has moved from": _good("no batch of these questions", "--moved-from", "there:1"),
    "moved and new at once": _good("drop one", "--moved-from", "there:1", "--new"),
    "an empty prompt": Bad(("ask", "  "), "prompt is empty"),
    "neither a prompt nor a file": Bad(("ask",), "Give a prompt, or a file of prompts with -i"),
    "both a prompt and a file": Bad(("ask", "why?", "-i", "good.jsonl"), "A prompt and the file"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tried(_simulator_process: Simulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """What became of each of `BAD`."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "folder.jsonl").mkdir()
    for home, content in (("strange", b"no database " * 100), ("damaged", _damaged())):
        (folder / home).mkdir()
        (folder / home / "tidemill.db").write_bytes(content)
    environment = {"TIDEMILL_HOME": str(folder / "home"), "OPENAI_BASE_URL": _simulator_process.url}
    user = Tidemill(environment, folder)
    user.write("good.jsonl", GOOD)
    user.write("bad.json", '{"type": "no such type"}')
    user.write("refers.json", '\ufeff{"items": {"$ref": "http://127.0.0.1:9/x"}}')
    user("status").ok()
    for bad in BAD.values():
        for name, content in bad.files:
            user.write(name, content)
    return {name: Tidemill(environment | dict(bad.env), folder)(*bad.args) for name, bad in BAD.items()}


def _damaged() -> bytes:
    """A database file whose pages after the first are noise."""
    path = Path("whole.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [("x" * 500,)] * 100)
    connection.close()
    content = path.read_bytes()
    path.unlink()
    return content[:4096] + bytes(range(256)) * ((len(content) - 4096) // 256)


@pytest.mark.parametrize("name", BAD)
def test_one_sentence_and_exit_2_for(name: str, tried: dict[str, Ran], simulator: Simulator) -> None:
    ran = tried[name]
    assert ran.code == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("tidemill: "), ran
    assert BAD[name].says in ran.err
    assert ran.err.count("\n") == 1, ran
    assert "Traceback" not in ran.err
    assert "defect" not in ran.err
    assert simulator.counters()["paid"] == 0


def test_broken_lines_are_named_and_the_others_go_on_with_skip_bad_rows(anywhere: Tidemill) -> None:
    lines = ['{"prompt": "before"}', "{broken", '{"prompt": ""}', "[1]", '{"prompt": "after"}']
    path = anywhere.write("broken.jsonl", "\n".join(lines))
    assert anywhere("ask", "-i", path, "-o", "-", "--transport", "http").code == 2
    ran = anywhere("ask", "-i", path, "-o", "-", "--skip-bad-rows", "--transport", "http").ok()
    assert [row["prompt"] for row in ran.rows] == ["before", "after"]
    assert answers(ran.rows)
    for number in (2, 3, 4):
        assert f"line {number}: " in ran.err


def test_a_cell_of_10_mb_is_a_prompt_like_any_other(tidemill: Tidemill, simulator: Simulator) -> None:
    cell = 'wörds, "quotes" and\nlines; ' * 400_000
    with (tidemill.folder / "huge.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["prompt"], ["small"], [cell], ["last"]])
    tidemill.environment["TIDEMILL_LEASE_SECONDS"] = str(limit(30))  # moving it takes seconds on a busy machine
    ran = tidemill("ask", "-i", "huge.csv", "-o", "huge.jsonl", "--transport", "http").ok()
    assert "3 succeeded" in ran.last_line
    assert simulator.paid_by_prompt() == {prompt_hash(prompt): 1 for prompt in ("small", cell, "last")}
    with (tidemill.folder / "huge.jsonl").open(encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    are_the_same = prompts == ["small", cell, "last"]
    assert are_the_same  # and nobody prints them


def test_the_input_is_never_overwritten_by_its_own_answers(tidemill: Tidemill, simulator: Simulator) -> None:
    path = tidemill.prompts("same.jsonl", ["one"])
    before = path.read_bytes()
    ran = tidemill("ask", "-i", "same.jsonl", "-o", path)
    assert (ran.code, path.read_bytes(), simulator.counters()["total"]) == (2, before, 0)
    assert "is the input itself; name another file" in ran.err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "> /dev/full"])
def test_a_closed_or_full_output_shows_no_traceback(tidemill: Tidemill, closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -P -m tidemill.producer.cli.commands status --json {closed}"
    ran = subprocess.run(
        ["sh", "-c", command],
        env=os.environ | tidemill.environment,
        cwd=tidemill.folder,
        capture_output=True,
        text=True,
        timeout=limit(),
        check=False,
    )
    assert "Traceback" not in ran.stderr
    assert ran.returncode == (2 if "full" in closed else 0), ran.stderr
