"""Why this module exists: every dialogue is kept, to be looked up, found by its words, or taken along."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from sqlalchemy import Select, select

import migrations
from models import pictures
from models.cost import format_usd
from models.database import reading
from models.errors import InputError
from models.files import replacing
from models.tables import attempts, dialogues, jobs, messages
from models.text import dumps, one_line
from producer.printing import print_json, print_table, print_text
from producer.progress import resolve

SENTIMENTS = ("positive", "negative", "neutral", "unknown")
_PAGE = 500


def _wanted(words: str | None, batch: str | None, sentiment: str | None) -> Select[Any]:
    """Dialogues that fit all that is given."""
    wanted = select(dialogues)
    if batch is not None:
        wanted = wanted.where(dialogues.c.batch_id == resolve(batch).id)
    if sentiment is not None:
        if sentiment not in SENTIMENTS:
            raise InputError(f"--sentiment is {sentiment!r}; it must be one of {', '.join(SENTIMENTS)}.")
        wanted = wanted.where(dialogues.c.sentiment == sentiment)
    for word in (words or "").split():
        said = messages.c.content.icontains(word, autoescape=True)
        wanted = wanted.where(
            select(messages.c.position).where(messages.c.dialogue_id == dialogues.c.id, said).exists()
        )
    return wanted


def show_list(words: str | None, batch: str | None, sentiment: str | None, limit: int, as_json: bool) -> None:
    """Print dialogues, the newest first, each with its last question and its answer."""
    migrations.ensure()
    with reading() as connection:
        found = connection.execute(_wanted(words, batch, sentiment).order_by(dialogues.c.id.desc()).limit(limit)).all()
        turns = {row.id: _turns(connection, row.id) for row in found}
    if as_json:
        return print_json([_as_json(row, turns[row.id]) for row in found])
    if not found:
        typer.echo("No dialogue fits." if words or batch or sentiment else "No dialogues yet.", err=True)
        return None
    cells = [
        (row.id, row.sentiment or "", _last(turns[row.id], "user"), _last(turns[row.id], "assistant")) for row in found
    ]
    return print_table(("id", "sentiment", "prompt", "reply"), cells)


def show(dialogue_id: int, as_json: bool) -> None:
    """Print one dialogue with its calls.

    Raises:
        InputError: there is no such dialogue.
    """
    migrations.ensure()
    with reading() as connection:
        row = connection.execute(select(dialogues).where(dialogues.c.id == dialogue_id)).one_or_none()
        if row is None:
            raise InputError(
                f"There is no dialogue {dialogue_id}. `tidemill dialogues list` shows those that there are."
            )
        turns = _turns(connection, dialogue_id)
        calls = connection.execute(
            select(attempts).where(attempts.c.job_id == dialogue_id).order_by(attempts.c.epoch)
        ).all()
        job = connection.execute(select(jobs).where(jobs.c.id == dialogue_id)).one()
    if as_json:
        told = [{name: value for name, value in call._mapping.items() if name != "job_id"} for call in calls]
        return print_json(_as_json(row, turns) | {"custom_id": job.custom_id, "attempts": told})
    score = "" if row.sentiment_score is None else f" ({row.sentiment_score:+.2f})"
    typer.echo(f"dialogue {row.id} · batch {row.batch_id} · {row.model} · {row.sentiment or 'not judged yet'}{score}")
    for turn in turns:
        print_text(f"\n{turn['role']}:\n{_readable(turn['content'])}")
    typer.echo(
        f"\n{job.input_tokens:,} + {job.output_tokens:,} tokens · {format_usd(job.cost_usd)} · {len(calls)} call(s):"
    )
    for call in calls:
        took = "" if call.seconds is None else f" in {call.seconds:.2f} s"
        why = f": {one_line(call.error, 160)}" if call.error else ""
        typer.echo(f"  {call.started_at:%Y-%m-%d %H:%M:%S} {call.outcome or 'under way'}{took}{why}")
    return None


def export(output: str, batch: str | None, sentiment: str | None) -> None:
    """Write dialogues as JSON lines: {"id", "batch", "model", "sentiment", .., "messages": [{"role", "content"}]}."""
    migrations.ensure()
    lines = (f"{dumps(each)}\n".encode() for each in _all(_wanted(None, batch, sentiment)))
    if output == "-":
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return
    try:
        with replacing(Path(output).resolve()) as file:
            count = sum(1 for line in lines if file.write(line))
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}. Choose another place with -o.") from None
    typer.echo(f"{output}: {count:,} dialogues written", err=True)


def _all(wanted: Select[Any]) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        with reading() as connection:
            found = connection.execute(wanted.where(dialogues.c.id > after).order_by(dialogues.c.id).limit(_PAGE)).all()
            page = [_as_json(row, _turns(connection, row.id)) for row in found]
        if not page:
            return
        yield from page
        after = page[-1]["id"]


def _turns(connection: Any, dialogue_id: int) -> list[dict[str, str]]:
    wanted = select(messages.c.role, messages.c.content).where(messages.c.dialogue_id == dialogue_id)
    return [
        {"role": role, "content": content} for role, content in connection.execute(wanted.order_by(messages.c.position))
    ]


def _last(turns: list[dict[str, str]], role: str) -> str:
    return next((_readable(turn["content"]) for turn in reversed(turns) if turn["role"] == role), "")


def _readable(content: str) -> str:
    """A message for people: of one with a picture the words, and which picture it is."""
    shown = pictures.shown(content)
    if shown is None:
        return content
    picture = shown.picture
    facts = f" ({picture['width']}×{picture['height']} {picture['format']}, {picture['sha256'][:12]})"
    return f"[{picture['path']}{facts if 'sha256' in picture else ''}] {shown.text}"


def _as_json(row: Any, turns: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "id": row.id,
        "batch": row.batch_id,
        "model": row.model,
        "sentiment": row.sentiment,
        "sentiment_score": row.sentiment_score,
        "language": row.language,
        "finish_reason": row.finish_reason,
        "created_at": row.created_at.isoformat(),
        "messages": turns,
    }
