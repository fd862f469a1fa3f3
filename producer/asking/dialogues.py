"""Every dialogue is kept: it can be listed, shown, searched and exported."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, func, or_, select, type_coerce

from tidemill import migrations
from tidemill.models import turns
from tidemill.models.answers import Message, stored_message
from tidemill.models.cost import format_usd
from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.errors import InputError
from tidemill.models.files import replacing
from tidemill.models.json_types import JsonObject
from tidemill.models.message_shapes import inner_of
from tidemill.models.tables import attempts, dialogues, jobs, messages
from tidemill.models.text import dumps, one_line, unbroken
from tidemill.producer.asking import assistants
from tidemill.producer.asking.continuing import root, unknown
from tidemill.producer.batches.progress import counted, resolve
from tidemill.producer.screen.display import Ticker, ticked
from tidemill.producer.screen.printing import JsonLines, print_json, print_line, print_table, print_text
from tidemill.producer.screen.tables import Column

JUDGEMENTS = ("positive", "negative", "neutral", "unknown")
_PAGE = 500

_SEARCHED_AT_ONCE = 20_000
"""Ids of turns in one statement of a search: less than a second's work."""


class Filters(NamedTuple):
    """Which turns are meant: those that fit every filter that is not None."""

    batch: str | None = None
    sentiment: str | None = None
    assistant: str | None = None
    model: str | None = None
    """As the server named it, or the beginning of that."""
    since: datetime | None = None
    until: datetime | None = None
    least_characters: int | None = None
    """Of the answer."""


def fitting(words: str | None, filters: Filters) -> Select[Any]:
    """A statement for the turns that fit the filters and have all of the words."""
    statement = select(dialogues)
    if filters.batch is not None:
        statement = statement.where(dialogues.c.batch_id == resolve(filters.batch).id)
    if filters.assistant is not None:
        statement = statement.where(dialogues.c.assistant_id == assistants.id_of(filters.assistant))
    if filters.sentiment is not None:
        if filters.sentiment not in JUDGEMENTS:
            raise InputError(f"--sentiment is {filters.sentiment!r}; it must be one of {', '.join(JUDGEMENTS)}.")
        statement = statement.where(dialogues.c.sentiment == filters.sentiment)
    if filters.model is not None:
        statement = statement.where(dialogues.c.model.startswith(filters.model, autoescape=True))
    if filters.since is not None:
        statement = statement.where(dialogues.c.created_at >= filters.since)
    if filters.until is not None:
        statement = statement.where(dialogues.c.created_at < filters.until)
    if filters.least_characters is not None:
        answer = (messages.c.role == "assistant") & (func.length(messages.c.content) >= filters.least_characters)
        statement = statement.where(_has_message(answer))
    for word in (words or "").split():
        in_rest = type_coerce(messages.c.rest, Text).icontains(dumps(word)[1:-1], autoescape=True)
        statement = statement.where(_has_message(messages.c.content.icontains(word, autoescape=True) | in_rest))
    return statement


def _has_message(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(messages.c.position).where(messages.c.dialogue_id == dialogues.c.id, condition).exists()


COLUMNS = (
    Column("id", 1),
    Column("of", 2),
    Column("sentiment", 5),
    Column("prompt", 4, is_text=True),
    Column("reply", 3, is_text=True),
)


def show_list(words: str | None, filters: Filters, limit: int, as_json: bool) -> None:
    """Print turns, the newest first, each with its question and its answer."""
    migrations.ensure()
    with reading(LONG_SECONDS) as connection:
        rows = _newest(connection, words, filters, limit)
        messages_by_turn = {row.id: _messages_of_turn(connection, row.id) for row in rows}
    if as_json:
        return print_json([_as_json(row, messages_by_turn[row.id]) for row in rows])
    if not rows:
        print_line("No dialogue fits." if words or any(filters) else "No dialogues yet.", err=True)
        return None
    of = ("of",) if any(row.root_id for row in rows) else ()
    cells = [
        (
            row.id,
            *((row.root_id or "",) if of else ()),
            row.sentiment or "",
            _last(messages_by_turn[row.id], "user"),
            _last(messages_by_turn[row.id], "assistant"),
        )
        for row in rows
    ]
    return print_table([column for column in COLUMNS if of or column.name != "of"], cells)


def _newest(connection: Connection, words: str | None, filters: Filters, limit: int) -> list[Row[Any]]:
    """The newest turns that fit, the newest first.

    To look for words is to read every message, so it goes from part to part and says how far it is.
    """
    fit = fitting(words, filters).order_by(dialogues.c.id.desc())
    if not words:
        return list(connection.execute(fit.limit(limit)))
    among = fitting(None, filters).subquery()
    first, last = connection.execute(select(func.min(among.c.id), func.max(among.c.id))).one()
    rows: list[Row[Any]] = []
    ticker = Ticker("searched", "dialogues")
    for top in range(last or 0, (first or 1) - 1, -_SEARCHED_AT_ONCE):
        part = dialogues.c.id.between(top - _SEARCHED_AT_ONCE + 1, top)
        rows += connection.execute(fit.where(part).limit(limit - len(rows)))
        if len(rows) == limit:
            break
        ticker(min(last - top + _SEARCHED_AT_ONCE, last - first + 1))
    return rows


def show(turn_id: int, as_json: bool) -> None:
    """Print the dialogue that a turn belongs to, with all of its calls.

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
        spoken = turns.messages_of(connection, root_id)
        calls = connection.execute(
            select(attempts).where(attempts.c.job_id.in_(ids)).order_by(attempts.c.job_id, attempts.c.epoch)
        ).all()
        rows = connection.execute(select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)).all()
    if as_json:
        ledger = [
            {"turn" if name == "job_id" else name: value for name, value in call._mapping.items()} for call in calls
        ]
        whole = _as_json(its_turns[0], [each.message for each in spoken])
        return print_json(whole | {"turns": ids, "custom_id": rows[0].custom_id, "attempts": ledger})
    for turn in its_turns:
        _show_turn(turn, root_id, [each.message for each in spoken if each.turn_id == turn.id])
    costs = [row.cost_usd for row in rows if row.cost_usd is not None]
    price = format_usd(sum(costs) if costs else None)
    used = f"{sum(row.input_tokens for row in rows):,} + {sum(row.output_tokens for row in rows):,} tokens"
    print_line(f"\n{used} · {price} · {len(calls)} call(s):")
    for call in calls:
        took = "" if call.seconds is None else f" in {call.seconds:.2f} s"
        why = f": {one_line(call.error, 160)}" if call.error else ""
        print_line(f"  {call.started_at:%Y-%m-%d %H:%M:%S} {call.outcome or 'under way'}{took}{why}")
    return None


class Whole(NamedTuple):
    """A dialogue for Python callers: its messages in the shape of Chat Completions, and what is known of its turns."""

    messages: list[JsonObject]
    turns: list[JsonObject]


def root_of(turn_id: int) -> int:
    """The number of the dialogue that a turn belongs to.

    Raises:
        InputError: there is no such turn.
    """
    return root(turn_id).id


def whole(root_id: int) -> Whole:
    """All that was said in a dialogue.

    Raises:
        InputError: it is not there any more.
    """
    with reading() as connection:
        rows = connection.execute(select(dialogues).where(turns.of_dialogue(root_id)).order_by(dialogues.c.id)).all()
        spoken = turns.messages_of(connection, root_id)
    if not rows:
        raise InputError(unknown(root_id))
    facts = [_as_json(row, []) for row in rows]
    for turn in facts:
        del turn["messages"]
    return Whole([each.message.as_json for each in spoken], facts)


def _show_turn(turn: Row[Any], root_id: int, turn_messages: list[Message]) -> None:
    score = "" if turn.sentiment_score is None else f" ({turn.sentiment_score:+.2f})"
    name = f"dialogue {turn.id}" if turn.id == root_id else f"\nturn {turn.id}"
    print_line(f"{name} · batch {turn.batch_id} · {turn.model} · {turn.sentiment or 'not judged yet'}{score}")
    for number, message in enumerate(turn_messages, 1):
        if turn.reasoning and number == len(turn_messages):
            print_text(f"\nreasoning:\n{turn.reasoning}")
        print_text(f"\n{message.role}:\n{_readable(message)}")


def export(output: str, filters: Filters) -> None:
    """Write dialogues as JSON lines: {"id", "batch", "model", "sentiment", .., "messages": [..]}.

    A message is whole, in the shape of Chat Completions, so that it can be asked again.

    A dialogue of several turns is one line, and is there when any of its turns fits.
    """
    migrations.ensure()
    chosen = ticked(_whole_dialogues(fitting(None, filters)), Ticker("written", "dialogues"))
    lines = (unbroken(f"{dumps(each)}\n".encode()) for each in chosen)
    if output == "-":
        out = JsonLines()
        for line in lines:
            out.write(line)
        out.flush()
        return
    try:
        with replacing(Path(output).resolve()) as file:
            count = sum(1 for line in lines if file.write(line))
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}. Choose another place with -o.") from None
    print_line(f"{output}: {counted(count, 'dialogue')} written", err=True)


def _whole_dialogues(statement: Select[Any]) -> Iterator[JsonObject]:
    """The dialogues that the turns of a statement belong to, each once and whole, by their ids."""
    chosen = statement.subquery()
    after = 0
    while True:
        # The next few of either kind, so that a page does not gather all that fit: the next few of both are among them.
        own = select(chosen.c.id).where(chosen.c.root_id.is_(None), chosen.c.id > after)
        later = select(chosen.c.root_id).distinct().where(chosen.c.root_id > after)
        next_ids = or_(
            dialogues.c.id.in_(own.order_by(chosen.c.id).limit(_PAGE)),
            dialogues.c.id.in_(later.order_by(chosen.c.root_id).limit(_PAGE)),
        )
        with reading(LONG_SECONDS) as connection:
            rows = connection.execute(select(dialogues).where(next_ids).order_by(dialogues.c.id).limit(_PAGE)).all()
            page = [_as_json(row, [each.message for each in turns.messages_of(connection, row.id)]) for row in rows]
        if not page:
            return
        yield from page
        after = page[-1]["id"]


def _messages_of_turn(connection: Connection, turn_id: int) -> list[Message]:
    of_turn = select(messages.c.role, messages.c.content, messages.c.rest).where(messages.c.dialogue_id == turn_id)
    return [stored_message(*row) for row in connection.execute(of_turn.order_by(messages.c.position))]


def _last(turn_messages: list[Message], role: str) -> str:
    return next((_readable(each) for each in reversed(turn_messages) if each.role == role), "")


def _readable(message: Message) -> str:
    """A message for people: the name of its picture, its words, the tools that it calls."""
    shown = message.picture
    if shown is not None:
        picture = shown.picture
        facts = f" ({picture['width']}×{picture['height']} {picture['format']}, {picture['sha256'][:12]})"
        return f"[{picture['path']}{facts if 'sha256' in picture else ''}] {shown.text}"
    return "\n".join(filter(None, (message.words, *map(_call, message.calls))))


def _call(call: JsonObject) -> str:
    """`get_weather({"city": "Oslo"})`."""
    inner = inner_of(call)
    given = inner.get("arguments", inner.get("input", ""))
    return f"{inner.get('name')}({given if isinstance(given, str) else dumps(given)})"


def _as_json(row: Row[Any], turn_messages: list[Message]) -> JsonObject:
    return {
        "id": row.id,
        "dialogue": row.root_id or row.id,
        "batch": row.batch_id,
        "model": row.model,
        "sentiment": row.sentiment,
        "sentiment_score": row.sentiment_score,
        "language": row.language,
        "finish_reason": row.finish_reason,
        "reasoning": row.reasoning,
        "created_at": row.created_at.isoformat(),
        "messages": [message.as_json for message in turn_messages],
    }
