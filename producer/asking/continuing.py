"""A prompt becomes the next turn of a dialogue, asked as that dialogue was asked so far.

The turn's number is part of what its batch is found by. Asked again after its answer, the same prompt is a new turn;
while it is open or has failed, it is the same one.
"""

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from sqlalchemy import Connection, func, select

from tidemill import migrations
from tidemill.models import cost, turns
from tidemill.models.allowed import ALLOWED
from tidemill.models.database import reading
from tidemill.models.endpoints import Endpoint, by_url
from tidemill.models.errors import InputError
from tidemill.models.job_requests import read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.message_shapes import inner_of
from tidemill.models.options import Options
from tidemill.models.settings import settings
from tidemill.models.tables import OPEN_STATES, batches, dialogues, jobs, messages
from tidemill.models.text import dumps, one_line
from tidemill.producer.intake.sources import files_of
from tidemill.producer.screen.display import say

_NOT_PASSED_ON = ("system", "dialogue", "trim", "prompt", "max_side")
"""Options of a dialogue's first turn that say nothing of its next ones: its instructions are in its messages."""


@dataclass(frozen=True, slots=True)
class Root:
    """A dialogue to continue, how its first turn was asked, and the assistant whose instructions are in force."""

    id: int
    options: JsonObject
    assistant_id: int | None


def root(turn_id: int) -> Root:
    """The dialogue that somebody means by the id of any of its turns.

    Raises:
        InputError: there is no such dialogue.
    """
    turn_id = _number(turn_id)
    migrations.ensure()
    with reading() as connection:
        root_id = turns.root_of(connection, turn_id)
        if root_id is None:
            raise InputError(unknown(turn_id))
        with_request = select(batches, jobs.c.request).join(jobs, jobs.c.batch_id == batches.c.id)
        batch = connection.execute(with_request.where(jobs.c.id == root_id)).one()
        instructing = (
            select(dialogues.c.assistant_id)
            .join(messages, messages.c.dialogue_id == dialogues.c.id)
            .where(turns.of_dialogue(root_id), messages.c.role.in_(turns.INSTRUCTIONS))
        )
        latest = connection.execute(instructing.order_by(dialogues.c.id.desc()).limit(1)).first()
    # One prompt for all rows brings its own schema, which says nothing of what is asked next.
    left_out = _NOT_PASSED_ON if batch.options.get("prompt") is None else (*_NOT_PASSED_ON, "schema")
    options = {name: value for name, value in batch.options.items() if value is not None and name not in left_out}
    line = read_ask_request(batch.request).line
    endpoint = None if line is None else by_url(line.url)
    if line is not None and endpoint is not None:
        options |= {"endpoint": endpoint.name, **_options_of(line.body, endpoint, options.get("params") or {})}
    return Root(root_id, options, batch.assistant_id if latest is None else latest.assistant_id)


def _options_of(body: JsonObject, endpoint: Endpoint, params: JsonObject) -> JsonObject:
    """How a batch line was asked: our options where its fields say the same, `params` for all else, such as tools."""
    same = {
        field: (option, value)
        for field, (option, value) in endpoint.options(body).items()
        if ALLOWED[option].why_not(value) is None
    }
    further = {field: value for field, value in endpoint.further(body).items() if field not in same}
    return {**dict(same.values()), "params": params | further}


def _number(turn_id: object) -> int:
    try:
        if isinstance(turn_id, bool) or not isinstance(turn_id, SupportsIndex):
            raise TypeError
        return operator.index(turn_id)  # takes NumPy's integers too
    except TypeError:
        raise InputError(
            f"dialogue is {one_line(repr(turn_id), 60)}; it must be the whole number of a dialogue, such as 17."
        ) from None


def unknown(turn_id: int) -> str:
    """The sentence for a dialogue that is not there."""
    return f"There is no dialogue {turn_id}. `tidemill dialogues list` shows all that there are."


def source_name(root_id: int, source: object, name: str | None = None) -> str:
    """What the batch of a dialogue's next turns is found by: the dialogue, how far it is, and what is asked."""
    prompts = name or _fingerprint(source)
    with reading() as connection:
        answered = turns.count_turns(connection, root_id)
        return _unfinished(connection, root_id, answered, prompts) or _source_name(root_id, answered, prompts)


def _source_name(root_id: int, answered: int, prompts: str) -> str:
    return f"dialogue {root_id} turn {answered} {prompts}"


def _fingerprint(source: object) -> str:
    """What tells these prompts from others: a file's path, a hash of prompts, or only where they come from."""
    if (files := files_of(source)) is not None:
        return files.known_by or "stdin"
    if isinstance(source, list) and all(isinstance(each, str) for each in source):
        return hashlib.sha256(dumps(source).encode()).hexdigest()
    return "rows"


def _unfinished(connection: Connection, root_id: int, answered: int, prompts: str) -> str | None:
    """The source of a batch of these turns that still has open ones, or that broke off and after which the dialogue has
    had no other turn; None where there is none.
    """
    its_batches = select(jobs.c.batch_id).where(jobs.c.dialogue_id == root_id)
    candidates = select(batches.c.id, batches.c.source, batches.c.read_at).where(
        batches.c.id.in_(its_batches), batches.c.source.startswith(f"dialogue {root_id} turn ")
    )
    for batch in connection.execute(candidates.order_by(batches.c.created_at.desc())):
        if batch.source.split(" ", 4)[4] != prompts:
            continue
        by_state = select(jobs.c.state, func.count()).where(jobs.c.batch_id == batch.id, jobs.c.position.is_not(None))
        states = {row[0]: row[1] for row in connection.execute(by_state.group_by(jobs.c.state))}
        done = states.pop("succeeded", 0)
        is_latest = batch.source == _source_name(root_id, answered - done, prompts)
        if not states.keys().isdisjoint(OPEN_STATES) or (is_latest and (states or batch.read_at is None)):
            return str(batch.source)
    return None


def check(options: Options, prompts: Sequence[str]) -> None:
    """Check before anything is stored that the next turn can be asked at all.

    Raises:
        InputError: the dialogue is too long for the model, or nobody will ask a turn before this one.
    """
    root_id = options.dialogue
    assert root_id is not None
    with reading() as connection:
        texts, waiting = _before(connection, options), _unanswered_calls(connection, root_id)
        _check_open_turns(connection, root_id)
    if waiting and prompts:
        say(
            f"dialogue {root_id}: the model waits for what {', '.join(waiting)} gave, and some providers take nothing "
            'else. A .jsonl file for -i holds it: {"messages": [{"role": "tool", "tool_call_id": .., "content": ..}]}'
        )
    most = cost.context_tokens(options.model)
    if most is None or options.trim is not None:
        return
    texts += [options.system] if options.system else []
    room = options.max_tokens or 0
    if room + sum(map(cost.estimate_tokens, [*texts, *prompts])) <= most // 2:
        return  # plainly short enough; counting takes half a second
    before = sum(cost.count_many(texts, options.model)) + cost.chat_overhead_tokens(len(texts))
    longest = max((cost.count_tokens(prompt, options.model) for prompt in prompts), default=0)
    if before + longest + room > most:
        raise InputError(turns.too_long(options.model, most, before, longest, room))


def _unanswered_calls(connection: Connection, root_id: int) -> list[str]:
    """The tool calls with which the last answer ended: `get_weather (call_1)`."""
    last = turns.messages_of(connection, root_id)[-1:]
    calls = last[0].message.calls if last else []
    return [one_line(f"{inner_of(each).get('name')} ({each.get('id')})", 80) for each in calls]


def other_server(root_id: int) -> str | None:
    """A sentence when another server gave the dialogue's last answer; None when it was this one."""
    last = select(func.max(dialogues.c.id)).where(turns.of_dialogue(root_id)).scalar_subquery()
    with reading() as connection:
        provider = connection.scalar(
            select(batches.c.provider)
            .join(dialogues, dialogues.c.batch_id == batches.c.id)
            .where(dialogues.c.id == last)
        )
    if provider is None or provider == settings().provider:
        return None
    return f"Dialogue {root_id} was last answered by {provider}; {settings().provider} gets all of it and goes on."


def _check_open_turns(connection: Connection, root_id: int) -> None:
    has_open_turn = select(jobs.c.batch_id).where(jobs.c.dialogue_id == root_id, jobs.c.state.in_(OPEN_STATES))
    waiting = select(batches.c.id, batches.c.state, batches.c.provider).where(batches.c.id.in_(has_open_turn))
    for batch in connection.execute(waiting):
        if batch.state == "paused" or (settings().embedded and batch.provider != settings().provider):
            why = "is paused" if batch.state == "paused" else f"is for {batch.provider}"
            raise InputError(
                f"Dialogue {root_id} has an open turn in the batch {batch.id}, which {why}: `tidemill resume` and "
                f"`tidemill watch {batch.id}` answer it, `tidemill cancel {batch.id}` gives it up."
            )


def _before(connection: Connection, options: Options) -> list[str]:
    """What is sent before a prompt, in words; without its instructions where the options have others."""
    assert options.dialogue is not None
    history = turns.history(connection, options.dialogue)
    kept = [each for each in history if options.system is None or each.role not in turns.INSTRUCTIONS]
    return [each.message.read for each in kept]


def history_tokens(options: Options) -> int:
    """What the dialogue so far adds to a prompt, besides the instructions in the options."""
    if options.dialogue is None:
        return 0
    with reading() as connection:
        texts = _before(connection, options)
    return sum(cost.count_many(texts, options.model)) + cost.chat_overhead_tokens(len(texts))
