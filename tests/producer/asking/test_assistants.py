"""Assistants come from files of all kinds or from the command line, and what they say is completed, never overruled."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.conftest import UseEnvironment
from tests.rows import batch_row, count, put, success, take
from tidemill.models.database import reading
from tidemill.models.errors import InputError, OptionError
from tidemill.models.options import Options, ReplyOptions
from tidemill.models.tables import assistants as table
from tidemill.models.tables import dialogues as dialogue_table
from tidemill.models.tables import jobs
from tidemill.producer.asking import assistants, dialogues
from tidemill.producer.asking.prompts import order_for
from tidemill.producer.batches.submit import open_batch, submit

pytestmark = pytest.mark.usefixtures("database")

Captured = pytest.CaptureFixture[str]
SUPPORT = {
    "id": "asst_1",
    "object": "assistant",
    "created_at": 1_699_009_709,
    "name": "support",
    "description": None,
    "instructions": "Be kind.",
    "model": "gpt-4o",
    "temperature": 0.2,
    "top_p": 0.9,
    "tools": [],
    "metadata": {"team": "a"},
    "response_format": "auto",
}


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def import_(capsys: Captured, entries: Any) -> tuple[str, str]:
    """What an import prints on stdout and stderr."""
    Path("a.json").write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    assistants.import_file("a.json")
    printed = capsys.readouterr()
    return printed.out, printed.err


def kept(name: str = "support") -> Any:
    with reading() as connection:
        return connection.execute(select(table).where(table.c.name == name)).one()


# --- import ---


def test_an_import_says_what_it_has_done_and_the_next_one_updates(capsys: Captured) -> None:
    three = [SUPPORT, {"name": "terse"}, {"name": "long", "system": "Take your time.", "max_completion_tokens": 900}]
    assert import_(capsys, three) == ("a.json: 3 added, 0 updated, 0 unchanged\n", "")
    assert (kept().external_id, kept().model) == ("asst_1", "gpt-4o")
    assert kept().options == {"temperature": 0.2, "params": {"top_p": 0.9}}
    assert (kept("long").instructions, kept("long").options) == ("Take your time.", {"max_tokens": 900})
    renamed = {**SUPPORT, "name": "first aid"}
    assert import_(capsys, {"object": "list", "data": [renamed, {"name": "terse"}, {"name": "more"}]}) == (
        "a.json: 1 added, 1 updated, 1 unchanged\n",
        "",
    )
    assert kept("first aid").external_id == "asst_1"
    assert count(table) == 4


def test_what_tidemill_has_no_use_for_is_named(capsys: Captured) -> None:
    tools = {"tools": [{"type": "file_search"}], "tool_resources": {"x": 1}, "voice": "low"}
    _, err = import_(capsys, [{**SUPPORT, **tools}])
    assert err == "tidemill: support: Tidemill has no use for tools, tool_resources, voice; it is left out.\n"


def test_a_schema_is_kept_as_ours_and_a_json_object_as_a_parameter(capsys: Captured) -> None:
    schema = {"type": "object"}
    shaped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    entries = [{"name": "a", "response_format": shaped}, {"name": "b", "response_format": {"type": "json_object"}}]
    assert import_(capsys, entries)[1] == ""
    assert kept("a").options == {"schema": schema}
    assert kept("b").options == {"params": {"response_format": {"type": "json_object"}}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[\n{",
            "a.json line 2: is not JSON: Expecting property name enclosed in double quotes at character 2; fix it",
        ),
        ('[{"name": "x",\n"temperature": 1e999}]', "a.json line 2: 1e999 cannot be used as a number; write another"),
        ('[{"name": "x", "top_p": NaN}]', "a.json line 1: NaN cannot be used as a number"),
        ('"x"', "a.json holds a JSON string; it must be a list of assistants"),
        ('{"name": "x"}', "a.json holds a JSON object; it must be a list of assistants"),
        ('[{"name": "x"}, 7]', "a.json entry 2: is a number; an assistant is an object with at least a name."),
        ('[{"name": "x"}, {"name": null}]', 'a.json entry 2: has no name; add one such as "name": "support".'),
        ('[{"name": "  "}]', "a.json entry 1: has no name"),
        ('[{"name": "a\\u001bb"}]', "a.json entry 1: the name must be at most 200 printable characters."),
        (
            '[{"name": "x", "temperature": "hot"}]',
            "a.json entry 1: temperature is a JSON string; it must be a number from",
        ),
        (
            '[{"name": "x", "max_tokens": 1.5}]',
            "a.json entry 1: max_tokens is a number; it must be a whole number, 1 or",
        ),
        ('[{"name": "x", "temperature": 99}]', "a.json entry 1: temperature is 99; it must be a number from 0 to 2."),
        (
            '[{"name": "x", "max_tokens": -5}]',
            "a.json entry 1: max_tokens is -5; it must be a whole number, 1 or more.",
        ),
        ('[{"name": "x", "top_p": 7}]', "a.json entry 1: top_p is 7; it must be a number from 0 to 1."),
        ('[{"name": "x", "model": ""}]', "a.json entry 1: model is ''; it must be 1 to 200 printable characters."),
        (
            '[{"name": "x", "instructions": "a\\ud83d"}]',
            "a.json entry 1: instructions holds half a character (\\ud83d) at",
        ),
        (
            '[{"name": "x", "schema": {"type": "thing"}}]',
            "a.json entry 1: schema is no JSON schema: 'thing' is not valid",
        ),
        ('[{"name": "x", "instructions": []}]', "a.json entry 1: instructions is a JSON list; it must be text."),
        ('[{"name": "x"}, {"name": "x"}]', "a.json entry 2: the name 'x' is there twice"),
    ],
)
def test_a_bad_entry_is_named_and_nothing_is_stored(capsys: Captured, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        import_(capsys, text)
    assert str(raised.value).startswith(sentence)
    assert count(table) == 0


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("", {}, "the assistant x: model is ''; it must be 1 to 200 printable characters."),
        (None, {"temperature": 99}, "the assistant x: temperature is 99; it must be a number from 0 to 2."),
        (None, {"max_tokens": 0}, "the assistant x: max_tokens is 0; it must be a whole number, 1 or more."),
        (None, {"params": {"top_p": 7}}, "the assistant x: top_p is 7; it must be a number from 0 to 1."),
    ],
)
def test_what_is_added_is_checked_as_what_is_imported(model: str, options: ReplyOptions, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        assistants.add("x", None, model, options)
    assert str(raised.value) == sentence
    assert count(table) == 0


def test_what_is_at_the_edge_is_taken(capsys: Captured) -> None:
    import_(capsys, [{"name": "x", "id": 7, "temperature": 2, "top_p": 0, "max_tokens": 1, "instructions": ""}])
    imported = kept("x")
    assert (imported.external_id, imported.instructions) == ("7", None)
    assistants.add("x", "", None, {"temperature": 2, "max_tokens": 1, "params": {"top_p": 0}})
    assert kept("x") == imported


def test_a_file_in_another_encoding_is_said_with_the_line() -> None:
    Path("a.json").write_bytes(b'[{"name":\n"\xe9"}]')
    with pytest.raises(InputError, match=r"^a\.json line 2: is not UTF-8; save the file in that encoding\.$"):
        assistants.import_file("a.json")


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read: No such file or directory"):
        assistants.import_file("none.json")


def test_a_name_that_another_one_has_is_not_taken_from_it(capsys: Captured) -> None:
    import_(capsys, [SUPPORT, {"name": "other"}])
    with pytest.raises(InputError, match="which is now called 'other'; there is another one of that name"):
        import_(capsys, [{**SUPPORT, "name": "other"}])


# --- use ---


def test_what_the_caller_sets_goes_before_the_assistant_and_that_before_the_rest(capsys: Captured) -> None:
    import_(capsys, [SUPPORT])
    options = {"temperature": 0.0, "params": {"seed": 1}, "system": None, "model": None}
    below = assistants.Choice({"model": "m", "max_tokens": 9, "params": {"seed": 2, "user": "u"}}, 7)
    chosen = assistants.choose(options, "support", below=below)
    assert chosen.options == {
        "system": "Be kind.",
        "model": "gpt-4o",
        "temperature": 0.0,
        "max_tokens": 9,
        "params": {"seed": 1, "user": "u", "top_p": 0.9},
    }
    assert chosen.assistant_id == kept().id
    assert assistants.choose(options, None, below=below).assistant_id == 7


def test_the_default_one_is_used_and_said_where_none_is_named(capsys: Captured) -> None:
    import_(capsys, [SUPPORT, {"name": "terse", "instructions": "One word."}])
    assistants.use("support")
    assistants.use("terse")  # there is one at most
    capsys.readouterr()
    assert assistants.choose({}, None).options["system"] == "One word."
    assert capsys.readouterr().err == "tidemill: assistant: terse\n"
    for chosen in (assistants.choose({}, None, no_assistant=True), assistants.choose({}, "support")):
        assert chosen.options.get("system") != "One word."
    assistants.use(None)
    assert assistants.choose({}, None) == ({"params": {}}, None)
    assert capsys.readouterr().err == ""


def test_an_assistant_that_is_not_there_is_said_with_those_that_are(capsys: Captured) -> None:
    with pytest.raises(InputError, match="There is no assistant 'x'; `tidemill assistants add` or `import` makes one"):
        assistants.choose({}, "x")
    import_(capsys, [SUPPORT])
    with pytest.raises(InputError, match="There is no assistant 'x'; there are support"):
        assistants.show("x", as_json=False)
    with pytest.raises(OptionError, match="assistant='support': an assistant and no assistant were both given"):
        assistants.choose({}, "support", no_assistant=True)


def test_the_content_decides_which_batch_it_is_and_dialogues_are_found_by_the_name(capsys: Captured) -> None:
    import_(capsys, [SUPPORT])
    batch = answered("support")
    assert batch_row(batch).assistant_id == kept().id
    assert Options.from_json(batch_row(batch).options).system == "Be kind."
    assert answered("support") == batch
    import_(capsys, [{**SUPPORT, "instructions": "Be kinder."}])
    assert answered("support") != batch
    answered(None)
    capsys.readouterr()
    dialogues.show_list(None, dialogues.Filters(assistant="support"), 9, as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == 2


def answered(assistant: str | None) -> str:
    """The batch of a prompt that an assistant was asked."""
    opened = open_batch(order_for("Why?", None, {}, assistant=assistant))
    submit(opened)
    with reading() as connection:
        ids = connection.scalars(select(jobs.c.id).where(jobs.c.batch_id == opened.batch_id)).all()
    put(*map(success, take(ids)))
    return opened.batch_id


def test_what_was_asked_with_a_removed_assistant_stays_and_is_nobody_elses(capsys: Captured) -> None:
    import_(capsys, [SUPPORT])
    batch = answered("support")
    assistants.remove("support")
    assert count(table) == 0
    assert batch_row(batch).assistant_id is None
    assert count(dialogue_table, dialogue_table.c.assistant_id.is_not(None)) == 0
    assert count(dialogue_table) == 1


# --- show, remote ---


@dataclass
class Server:
    """A server of assistants, and what it was asked."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    betas: list[str | None] = field(default_factory=list)


@contextmanager
def serving(status: int, *pages: Any) -> Iterator[Server]:
    """Answer GETs with these pages, one after the other."""
    kept = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(pages[len(kept.paths)]).encode()
            kept.paths.append(self.path)
            kept.betas.append(self.headers["openai-beta"])
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_assistant_is_added_changed_and_shown(capsys: Captured) -> None:
    assistants.add("support", "Be kind.", "gpt-4o", {"temperature": 0.2})
    assistants.add("support", "Be kind.", "gpt-4o", {"temperature": 0.3})
    assert capsys.readouterr().out == (
        "support: 1 added, 0 updated, 0 unchanged\nsupport: 0 added, 1 updated, 0 unchanged\n"
    )
    assistants.show("support", as_json=True)
    shown = {"name": "support", "id": None, "model": "gpt-4o", "is_default": False, "temperature": 0.3}
    assert json.loads(capsys.readouterr().out) == shown | {"instructions": "Be kind."}
    assistants.show_list(as_json=False)
    assert "Be kind." in capsys.readouterr().out


def test_those_of_a_server_are_listed_over_all_pages(use_environment: UseEnvironment, capsys: Captured) -> None:
    pages = [{"data": [SUPPORT], "has_more": True}, {"data": [{"id": "asst_2", "name": None}], "has_more": False}]
    with serving(200, *pages) as server:
        use_environment({"OPENAI_BASE_URL": server.url})
        assistants.show_remote(as_json=True)
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == ["asst_1", "asst_2"]
    assert server.paths == ["/v1/assistants", "/v1/assistants?after=asst_1"]
    assert server.betas == ["assistants=v2"] * 2


@pytest.mark.parametrize("status", [400, 404, 405, 410])
def test_a_server_without_assistants_is_said_plainly(use_environment: UseEnvironment, status: int) -> None:
    with serving(status, {"error": {"message": "Unknown request URL"}}) as server:
        use_environment({"OPENAI_BASE_URL": server.url})
        with pytest.raises(
            assistants.NoAssistantsError, match=rf"has no assistants.* \(it answers {status}\)"
        ) as raised:
            assistants.show_remote(as_json=False)
    assert raised.value.exit_code == 1
    assert "tidemill assistants import assistants.json" in str(raised.value)


def test_a_server_that_refuses_is_not_one_without_assistants(use_environment: UseEnvironment) -> None:
    with serving(401, {"error": {"message": "Incorrect API key"}}) as server:
        use_environment({"OPENAI_BASE_URL": server.url})
        with pytest.raises(assistants.NoAssistantsError, match="Incorrect API key"):
            assistants.show_remote(as_json=False)
