"""Every dialogue is kept, to be looked up, found by its words, or taken along."""

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import typer
from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from tidemill import migrations
from tidemill.models import pictures, turns
from tidemill.models.cost import format_usd
from tidemill.models.database import reading
from tidemill.models.errors import InputError
from tidemill.models.files import replacing
from tidemill.models.tables import attempts, dialogues, jobs, messages
from tidemill.models.text import dumps, one_line
from tidemill.producer.asking import assistants
from tidemill.producer.asking.continuing import unknown
from tidemill.producer.batches.progress import counted, resolve
from tidemill.producer.screen.printing import print_json, print_table, print_text

SENTIMENTS = ("positive", "negative", "neutral", "unknown")
_PAGE = 500


class Filters(NamedTuple):
    """Which turns are meant: all those that fit whatever is given."""

    batch: str | None = None
    sentiment: str | None = None
    assistant: str | None = None
    model: str | None = None
    """As the server named it, or how that begins."""
    since: datetime | None = None
    until: datetime | None = None
    least_characters: int | None = None
    """Of the answer."""


def fitting(words: str | None, filters: Filters) -> Select[Any]:
    """Turns that fit all that is given."""
    wanted = select(dialogues)
    if filters.batch is not None:
        wanted = wanted.where(dialogues.c.batch_id == resolve(filters.batch).id)
    if filters.assistant is not None:
        wanted = wanted.where(dialogues.c.assistant_id == assistants.id_of(filters.assistant))
    if filters.sentiment is not None:
        if filters.sentiment not in SENTIMENTS:
            raise InputError(f"--sentiment is {filters.sentiment!r}; it must be one of {', '.join(SENTIMENTS)}.")
        wanted = wanted.where(dialogues.c.sentiment == filters.sentiment)
    if filters.model is not None:
        wanted = wanted.where(dialogues.c.model.startswith(filters.model, autoescape=True))
    if filters.since is not None:
        wanted = wanted.where(dialogues.c.created_at >= filters.since)
    if filters.until is not None:
        wanted = wanted.where(dialogues.c.created_at < filters.until)
    if filters.least_characters is not None:
        answer = (messages.c.role == "assistant") & (func.length(messages.c.content) >= filters.least_characters)
        wanted = wanted.where(_has_message(answer))
    for word in (words or "").split():
        said = messages.c.content.icontains(word, autoescape=True)
        wanted = wanted.where(_has_message(said))
    return wanted


def _has_message(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(messages.c.position).where(messages.c.dialogue_id == dialogues.c.id, condition).exists()


def show_list(words: str | None, filters: Filters, limit: int, as_json: bool) -> None:
    """Print turns, the newest first, each with its question and its answer."""
    migrations.ensure()
    with reading() as connection:
        found = connection.execute(fitting(words, filters).order_by(dialogues.c.id.desc()).limit(limit)).all()
        said = {row.id: _said(connection, row.id) for row in found}
    if as_json:
        return print_json([_as_json(row, said[row.id]) for row in found])
    if not found:
        typer.echo("No dialogue fits." if words or any(filters) else "No dialogues yet.", err=True)
        return None
    of = ("of",) if any(row.root_id for row in found) else ()
    cells = [
        (
            row.id,
            *((row.root_id or "",) if of else ()),
            row.sentiment or "",
            _last(said[row.id], "user"),
            _last(said[row.id], "assistant"),
        )
        for row in found
    ]
    return print_table(("id", *of, "sentiment", "prompt", "reply"), cells)


def show(turn_id: int, as_json: bool) -> None:
    """Print the dialogue that a turn is of, with all of its calls.

    Raises:
        InputError: there is no such turn.
    """
    migrations.ensure()
    with reading() as connection:
        root_id = turns.root_of(connection, turn_id)
        if root_id is None:
            raise InputError(unknown(turn_id))
        its_turns = connection.execute(
            select(dialogues).where(turns.of_dialogue(root_id)).order_by(dialogues.c.id)
        ).all()
        ids = [turn.id for turn in its_turns]
        said = turns.messages_of(connection, root_id)
        calls = connection.execute(
            select(attempts).where(attempts.c.job_id.in_(ids)).order_by(attempts.c.job_id, attempts.c.epoch)
        ).all()
        rows = connection.execute(select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)).all()
    if as_json:
        told = [
            {"turn" if name == "job_id" else name: value for name, value in call._mapping.items()} for call in calls
        ]
        whole = _as_json(its_turns[0], [_message(each) for each in said])
        return print_json(whole | {"turns": ids, "custom_id": rows[0].custom_id, "attempts": told})
    for turn in its_turns:
        _show_turn(turn, root_id, [_message(each) for each in said if each.turn_id == turn.id])
    costs = [row.cost_usd for row in rows if row.cost_usd is not None]
    price = format_usd(sum(costs) if costs else None)
    used = f"{sum(row.input_tokens for row in rows):,} + {sum(row.output_tokens for row in rows):,} tokens"
    typer.echo(f"\n{used} · {price} · {len(calls)} call(s):")
    for call in calls:
        took = "" if call.seconds is None else f" in {call.seconds:.2f} s"
        why = f": {one_line(call.error, 160)}" if call.error else ""
        typer.echo(f"  {call.started_at:%Y-%m-%d %H:%M:%S} {call.outcome or 'under way'}{took}{why}")
    return None


def _show_turn(turn: Any, root_id: int, said: list[dict[str, str]]) -> None:
    score = "" if turn.sentiment_score is None else f" ({turn.sentiment_score:+.2f})"
    name = f"dialogue {turn.id}" if turn.id == root_id else f"\nturn {turn.id}"
    typer.echo(f"{name} · batch {turn.batch_id} · {turn.model} · {turn.sentiment or 'not judged yet'}{score}")
    for message in said:
        print_text(f"\n{message['role']}:\n{_readable(message['content'])}")


def export(output: str, filters: Filters) -> None:
    """Write dialogues as JSON lines: {"id", "batch", "model", "sentiment", .., "messages": [{"role", "content"}]}.

    A dialogue of several turns is one line, and is there when any of its turns fits.
    """
    migrations.ensure()
    lines = (f"{dumps(each)}\n".encode() for each in _all(fitting(None, filters)))
    if output == "-":
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return
    try:
        with replacing(Path(output).resolve()) as file:
            count = sum(1 for line in lines if file.write(line))
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}. Choose another place with -o.") from None
    typer.echo(f"{output}: {counted(count, 'dialogue')} written", err=True)


def _all(wanted: Select[Any]) -> Iterator[dict[str, Any]]:
    """The dialogues that these turns are of, each once and whole, by their ids."""
    fitting = wanted.subquery()
    own = select(fitting.c.id).where(fitting.c.root_id.is_(None))
    later = select(fitting.c.root_id).where(fitting.c.root_id.is_not(None))
    roots = select(dialogues).where(or_(dialogues.c.id.in_(own), dialogues.c.id.in_(later)))
    after = 0
    while True:
        with reading() as connection:
            found = connection.execute(roots.where(dialogues.c.id > after).order_by(dialogues.c.id).limit(_PAGE)).all()
            page = [_as_json(row, [_message(each) for each in turns.messages_of(connection, row.id)]) for row in found]
        if not page:
            return
        yield from page
        after = page[-1]["id"]


def _said(connection: Connection, turn_id: int) -> list[dict[str, str]]:
    wanted = select(messages.c.role, messages.c.content).where(messages.c.dialogue_id == turn_id)
    return [
        {"role": role, "content": content} for role, content in connection.execute(wanted.order_by(messages.c.position))
    ]


def _message(said: turns.TurnMessage) -> dict[str, str]:
    return {"role": said.role, "content": said.content}


def _last(said: list[dict[str, str]], role: str) -> str:
    return next((_readable(each["content"]) for each in reversed(said) if each["role"] == role), "")


def _readable(content: str) -> str:
    """A message for people: of one with a picture the words, and which picture it is."""
    shown = pictures.load_message(content)
    if shown is None:
        return content
    picture = shown.picture
    facts = f" ({picture['width']}×{picture['height']} {picture['format']}, {picture['sha256'][:12]})"
    return f"[{picture['path']}{facts if 'sha256' in picture else ''}] {shown.text}"


def _as_json(row: Any, said: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "id": row.id,
        "dialogue": row.root_id or row.id,
        "batch": row.batch_id,
        "model": row.model,
        "sentiment": row.sentiment,
        "sentiment_score": row.sentiment_score,
        "language": row.language,
        "finish_reason": row.finish_reason,
        "created_at": row.created_at.isoformat(),
        "messages": said,
    }
