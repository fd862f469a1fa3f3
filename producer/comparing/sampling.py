"""A changed question is asked of a few rows of a batch first, the same few each time, so that nothing is paid twice."""

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sqlalchemy import Row as StoredRow
from sqlalchemy import and_, func, not_, select

from tidemill.models import cost, turns
from tidemill.models.database import LONG_SECONDS, reading
from tidemill.models.endpoints import by_url
from tidemill.models.errors import InputError
from tidemill.models.job_requests import BatchLine, read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.settings import settings
from tidemill.models.tables import batches, jobs
from tidemill.models.text import dumps
from tidemill.producer.asking.assistants import Choice, choose
from tidemill.producer.asking.estimate import Estimate, estimate
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import counted
from tidemill.producer.batches.stored_rows import PAGE_ROWS
from tidemill.producer.comparing.pairing import Ids
from tidemill.producer.intake.records import BadRowError
from tidemill.producer.intake.requests import Template, listed, parse_template
from tidemill.producer.intake.tables import FIRST_CHUNK_ROWS, Row
from tidemill.producer.screen.display import say

SAMPLE_ROWS = 50
_SAMPLE_OF = "sample of "
FOR_PICTURES = ("prompt", "detail")
"""What can be changed of pictures alone."""
_SPEED = {"transport", "rpm", "tpm"}
"""Options that say how calls are made, and nothing of what is asked."""
_FOR_LINES = _SPEED | {"model", "system"}
"""What can be changed of batch lines, which bring their own body."""


class Change(NamedTuple):
    """What is asked otherwise: options that were said, an assistant, a template of the prompt."""

    options: Mapping[str, object]
    assistant: str | None = None
    template: str | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether the question stays as it is."""
        return self.options.keys() <= _SPEED and self.assistant is None and self.template is None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows of a batch, asked again with a change, as the rows of an order.

    `ids` are their jobs, in input order.
    """

    is_one: ClassVar[bool] = False
    is_partial: ClassVar[bool] = True
    files: ClassVar[Sequence[Path]] = ()
    batch_id: str
    kind: str
    ids: Ids
    changed: frozenset[str]
    """The names of the options that were said, or are others now."""
    template: str | None = None

    def chunks(self, options: Options, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """The rows with the change made, in their order.

        Raises:
            InputError: the change cannot be made to a row.
        """
        for start, end in _bounds(len(self.ids)):
            some = self.ids[start:end].tolist()
            with reading() as connection:
                stored = {row.id: row for row in connection.execute(select(jobs).where(jobs.c.id.in_(some)))}
            yield [self._row(number, stored[id_], options) for number, id_ in enumerate(some, start + 1)]

    def estimate(self, order: Order) -> Estimate:
        """Tokens and price of the order that these are the rows of."""
        return estimate(order)

    def _row(self, number: int, stored: StoredRow[Any], options: Options) -> Row:
        own_id = None if stored.custom_id == stored.key else stored.custom_id
        try:
            record = stored.columns if own_id is None else {"custom_id": own_id, **stored.columns}
            request, asked = self._request(stored.request, record, options)
        except BadRowError as error:
            raise InputError(f"Row {stored.position + 1:,} of {self.batch_id}: {error}.") from None
        if "picture" not in request:
            return Row(own_id, stored.columns, request, number, asked=asked)
        picture = request["picture"]
        identity = picture.get("sha256", picture["path"])
        prompts = request["prompt"], request["prompt"] if asked is None else asked["prompt"]
        content, by_value = ([prompt, identity, options.detail] for prompt in prompts)
        return Row(own_id, stored.columns, request, number, dumps(content), asked=by_value)

    def _request(
        self, request: JsonObject, record: JsonObject, options: Options
    ) -> tuple[JsonObject, JsonObject | None]:
        """The request with the change made, and what it is known by where that is not the request itself."""
        own = read_ask_request(request)
        if own.line is not None:
            return self._line(own.line, options), None
        if own.picture is not None and "prompt" in self.changed:
            path = Path(own.picture["path"])
            names = {"name": path.name, "stem": path.stem, "directory": path.parent.name}
            prompt, asked = _filled(parse_template(options.prompt or ""), names | record)
            return request | {"prompt": prompt}, asked
        if self.template is not None:
            prompt, asked = _filled(parse_template(self.template), record)
            return {"prompt": prompt}, asked
        if own.messages and "system" in self.changed:  # instructions among a row's messages would go first
            others = [each for each in own.messages if each.get("role") not in turns.INSTRUCTIONS]
            return {"messages": others}, None
        return request, None

    def _line(self, line: BatchLine, options: Options) -> JsonObject:
        """A batch line with another model or other instructions."""
        if self.template is not None or not self.changed <= _FOR_LINES:
            raise BadRowError("it is a batch line with a body of its own; only --model and --system can be changed")
        body = dict(line.body)
        if "model" in self.changed:
            body["model"] = options.model
        endpoint = by_url(line.url)
        if "system" in self.changed and endpoint is not None:
            others = [each for each in endpoint.turns(body) if each.get("role") not in turns.INSTRUCTIONS]
            instructions = [{"role": "system", "content": options.system}] if options.system else []
            body = endpoint.with_turns(body, [*endpoint.of_messages(instructions), *others])
        return {"url": line.url, "body": body}


def _filled(template: Template, record: JsonObject) -> tuple[str, JsonObject | None]:
    """A prompt from a row's columns, and what it is known by where that is not the prompt itself."""
    missing = [name for name in template.names if name not in record]
    if missing:
        raise BadRowError(f"there is no column {listed(missing)}; there are {listed(record)}")
    text = template.filled(record)
    if not text.strip():
        raise BadRowError("the prompt would be empty")
    return text, template.asked(record)


def _bounds(rows: int) -> Iterator[tuple[int, int]]:
    """Where chunks begin and end: the first one is short, so that workers start at once."""
    start, size = 0, FIRST_CHUNK_ROWS
    while start < rows:
        yield start, min(start + size, rows)
        start, size = start + size, PAGE_ROWS


# --- the order ---


def order_of(batch: StoredRow[Any], change: Change, sample: int, seed: int, *, new: bool = False) -> Order:
    """What asks the changed question of a sample of a batch.

    Args:
        batch: a row of the table of batches.
        change: options are checked; what is not in them stays as it was asked.
        sample: how many rows.
        seed: another one chooses others. A larger sample has the rows of a smaller one.
        new: ask even what was asked before.

    Raises:
        InputError: the batch has no row to ask, or the change does not fit it.
    """
    stored = Options.from_json(batch.options)
    if stored.dialogue is not None:
        raise InputError(
            f"{batch.id} continues dialogue {stored.dialogue}, and each turn follows from those before it: ask them as "
            "a dialogue of its own, and compare the two batches."
        )
    _check_fit(batch, change)
    choice = choose(change.options, change.assistant, below=Choice(_as_choice(batch.options), batch.assistant_id))
    options = Options.from_json(choice.options)
    options = replace(options, system=options.system or None)
    changed = {name for name, value in options.to_json().items() if value != stored.to_json()[name]}
    changed |= change.options.keys()  # what was said counts where a row has another than its batch
    ids = _chosen(batch.id, sample, seed)
    if not len(ids):
        raise InputError(f"{batch.id} has no row that was answered or failed, so there is nothing to compare with.")
    asked = "" if change.template is None else f" as {hashlib.sha256(change.template.encode()).hexdigest()}"
    order = Order(
        options=options,
        rows=Sample(batch.id, batch.kind, ids, frozenset(changed), change.template),
        name=f"{_SAMPLE_OF}{batch.id}",
        source_name=f"{_SAMPLE_OF}{batch.id}{asked}",
        assistant_id=choice.assistant_id,
        on_bad_row=say,
    )
    return replace(order, new=new or not _was_begun(order))


def sampled_batch(source: str | None) -> str | None:
    """The batch that a batch with this source is a sample of; None where it is none."""
    return source.removeprefix(_SAMPLE_OF).split(" ")[0] if source and source.startswith(_SAMPLE_OF) else None


def _was_begun(order: Order) -> bool:
    """Whether the sample has a batch already. Without one, no other batch may take its rows, however alike."""
    same = (batches.c.question_hash == order.question_hash) & (batches.c.source == order.source_name)
    with reading() as connection:
        begun = select(batches.c.id).where(same, batches.c.provider == settings().provider).limit(1)
        return connection.scalar(begun) is not None


def _as_choice(options: JsonObject) -> JsonObject:
    return {name: value for name, value in options.items() if value is not None}


def _check_fit(batch: StoredRow[Any], change: Change) -> None:
    of_pictures = [name for name in FOR_PICTURES if name in change.options]
    if batch.kind == "ask" and of_pictures:
        raise InputError(f"--{of_pictures[0]} is about pictures, and {batch.id} asks prompts: -t changes those.")
    if batch.kind == "describe" and change.template is not None:
        raise InputError(f"-t is about prompts, and {batch.id} describes pictures: --prompt changes what is asked.")


def _chosen(batch_id: str, rows: int, seed: int) -> Ids:
    """The jobs of a sample, in input order: those with the lowest hashes, so that a larger one has them all.

    Only rows that have ended; files that are no usable pictures are left out.
    """
    is_no_picture = and_(jobs.c.state == "failed", jobs.c.epoch == 0)
    has_ended = and_(jobs.c.position.is_not(None), jobs.c.state.in_(("succeeded", "failed")), not_(is_no_picture))
    ids = select(jobs.c.id).where(jobs.c.batch_id == batch_id, has_ended).order_by(jobs.c.position, jobs.c.id)
    with reading(LONG_SECONDS) as connection:
        stored = connection.execution_options(yield_per=PAGE_ROWS).execute(ids)
        ranked = ((_rank(row.id, seed), place, row.id) for place, row in enumerate(stored))
        chosen = heapq.nsmallest(rows, ranked)
    return np.array([id_ for _, _, id_ in sorted(chosen, key=lambda each: each[1])], dtype=np.int64)


def _rank(job_id: int, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {job_id}".encode(), digest_size=8).digest()


# --- what it costs ---


class Price(NamedTuple):
    """What a sample will cost: the estimate, and USD if the answers are as long as those that are stored."""

    estimate: Estimate
    likely_usd: float | None

    def to_json(self) -> JsonObject:
        """For scripts."""
        return {**self.estimate.to_json(), "likely_usd": self.likely_usd}

    def text(self, rows: int) -> str:
        """For people; `rows` are all rows of the batch."""
        estimated = self.estimate
        sample = f"{estimated.rows:,} of {rows:,} rows for {estimated.model}"
        if not estimated.to_send:
            return f"{sample}: all are answered already, so no call is made."
        there = f" ({counted(estimated.done, 'row')} answered already)" if estimated.done else ""
        if estimated.output_tokens is None:
            most = "Without --max-tokens there is no limit to what they cost"
        else:
            most = f"They cost {cost.format_usd(estimated.total_usd)} at most"
        likely = "" if self.likely_usd is None else f"; with answers as long as before, {about(self.likely_usd)}"
        prompts = f"Prompts: {estimated.input_tokens:,} tokens, {cost.format_usd(estimated.input_usd)}."
        return f"{sample}: {counted(estimated.to_send, 'call')}{there}. {prompts} {most}{likely}."


def about(usd: float | None) -> str:
    """An amount that is only likely, for people: "about $0.021"."""
    return f"about {cost.format_usd(usd)}"


def price_of(order: Order) -> Price:
    """Count what a sample would send, and its price.

    Raises:
        InputError: the change cannot be made to a row.
    """
    assert isinstance(order.rows, Sample)
    estimated = estimate(order)
    rate = cost.price(order.options.model, estimated.tier)
    before = _mean_output_tokens(order.rows.ids)
    if rate is None or before is None or estimated.input_usd is None:
        return Price(estimated, None)
    return Price(estimated, estimated.input_usd + rate.output_usd_per_token * before * estimated.to_send)


def _mean_output_tokens(ids: Ids) -> float | None:
    tokens = rows = 0
    for start in range(0, len(ids), PAGE_ROWS):
        some = ids[start : start + PAGE_ROWS].tolist()
        answered = select(func.sum(jobs.c.output_tokens), func.count()).where(
            jobs.c.id.in_(some), jobs.c.state == "succeeded"
        )
        with reading() as connection:
            more, count = connection.execute(answered).one()
        tokens, rows = tokens + (more or 0), rows + count
    return tokens / rows if rows else None
