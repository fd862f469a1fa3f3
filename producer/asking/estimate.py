"""The price is known before anything is sent. Nothing here sends or stores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidemill.models import batches, cost
from tidemill.models.database import reading
from tidemill.models.endpoints import by_url
from tidemill.models.job_requests import read_ask_request
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.routes import AUTO, ONLINE, ROUTES
from tidemill.models.text import dumps
from tidemill.models.vision import picture_tokens
from tidemill.producer.asking.continuing import history_tokens
from tidemill.producer.batches.budget_reach import Reach, Reckoning
from tidemill.producer.batches.keys import Prepared, keys_of
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import counted
from tidemill.producer.batches.routing import foresee_route, reason
from tidemill.producer.batches.submit import find
from tidemill.producer.batches.upstream_words import price_words
from tidemill.producer.intake.tables import Row
from tidemill.producer.screen.display import Ticker


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do: rows, tokens of the prompts, and USD (None where the model's price is unknown).

    `output_tokens` is the most that the answers can have, None where they have no cap.
    """

    batch_id: str | None
    model: str
    rows: int
    done: int
    to_send: int
    input_tokens: int
    output_tokens: int | None
    input_usd: float | None
    output_usd: float | None
    tier: str = ""
    route: str = ONLINE
    chosen: str | None = None
    """Where `auto` has led to the route, the sentence that says so."""
    most_online_usd: float | None = None
    """What all of it can cost at most online; None where that cannot be said."""
    reach: Reach | None = None
    """How far a budget will reach; None where there is none."""

    @property
    def total_usd(self) -> float | None:
        """The most that it can cost; None where that cannot be said."""
        return None if self.input_usd is None or self.output_usd is None else self.input_usd + self.output_usd

    def to_json(self) -> JsonObject:
        """For scripts."""
        return {
            "batch": self.batch_id,
            "model": self.model,
            "rows": self.rows,
            "done": self.done,
            "to_send": self.to_send,
            "input_tokens": self.input_tokens,
            "most_output_tokens": self.output_tokens,
            "input_usd": self.input_usd,
            "most_output_usd": self.output_usd,
            "most_usd": self.total_usd,
            "route": self.route,
            "route_chosen": self.chosen,
            "most_online_usd": self.most_online_usd,
            "budget": self.reach.to_json() if self.reach else None,
        }

    def text(self) -> str:
        """For people."""
        there = f" (batch {self.batch_id})" if self.batch_id else ""
        lines = (
            f"{counted(self.rows, 'row')} for {self.model}: {self.done:,} done{there}, {self.to_send:,} to send",
            f"prompts: {self.input_tokens:,} tokens, {cost.format_usd(self.input_usd)}",
            *self.answers(),
            *self.by_route(),
            "Nothing was sent.",
        )
        return "\n".join(lines)

    def answers(self) -> tuple[str, ...]:
        """The lines of `text` about the answers and the total."""
        reach = self.reach.lines() if self.reach else ()
        if self.output_tokens is None:
            no_cap = "answers: as long as the model likes; --max-tokens caps them, and their price"
            return (no_cap, *reach)
        return (
            f"answers: at most {self.output_tokens:,} tokens, {cost.format_usd(self.output_usd)}",
            f"in all: at most {cost.format_usd(self.total_usd)}",
            *reach,
        )

    def by_route(self) -> tuple[str, ...]:
        """The line of `text` about another route than the live call."""
        if self.route == ONLINE and self.chosen is None:
            return ()
        share = price_words(self.model, self.route)
        online = "" if self.most_online_usd is None else f"; online: at most {cost.format_usd(self.most_online_usd)}"
        if self.chosen is None:
            return (f"route: {self.route}{f', at {share}' if share else ''}{online}",)
        way, _, why = self.chosen.partition("; ")
        return (f"route: {way}{online}", f"  {why}")


def estimate(order: Order) -> Estimate:
    """Count what an order would send; only one hash of each row is kept in memory.

    Raises:
        InputError: the input cannot be read.
        SettingsError: the file of prices cannot be read.
    """
    before, reckoning = Before(order), None
    history = history_tokens(order.options)
    rows = done = input_tokens = 0
    ticker = Ticker("counted")
    for chunk in order.rows.chunks(order.options, order.on_bad_row):
        answered = before.answered([Prepared.of(row) for row in chunk])
        to_send = [row for row, is_answered in zip(chunk, answered, strict=True) if not is_answered]
        reckoning = reckoning or Reckoning(order, before.batch_id)
        reckoning.add(row.request for row in to_send)
        rows, done = rows + len(chunk), done + sum(answered)
        input_tokens += _tokens(to_send, order.options) + history * len(to_send)
        ticker(rows)
    counted_rows = priced(before, order.options, rows, done, rows - done, input_tokens=input_tokens)
    return with_reach(counted_rows, reckoning)


def with_reach(estimate: Estimate, reckoning: Reckoning | None) -> Estimate:
    """The estimate with how far a budget will reach."""
    return replace(estimate, reach=reckoning.reach(estimate.to_send, estimate.input_usd)) if reckoning else estimate


class Before:
    """What was asked before of an order: the batch that it would continue, and which of its rows have an answer."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._is_first = True
        self._by_value: Counter[str] = Counter()
        self._by_spelling: Counter[str] = Counter()
        self.batch_id: str | None = None
        self.route = order.spending.route or ONLINE
        """How the rows would go out."""

    def answered(self, rows: Sequence[Prepared]) -> list[bool]:
        """Of each of the next rows whether it has its answer already."""
        if self._is_first and not self._order.new:
            self._find(rows)
        self._is_first = False
        keys = keys_of([row.digest for row in rows], self._by_value)
        spelled = keys_of([row.spelled for row in rows], self._by_spelling)
        self._by_value.update(row.digest for row in rows)
        self._by_spelling.update(row.spelled for row in rows)
        if self.batch_id is None:
            return [False] * len(rows)
        with reading() as connection:
            done = batches.answered_keys(connection, self.batch_id, [*{*keys, *spelled}])
        return [key in done or old in done for key, old in zip(keys, spelled, strict=True)]

    def choose(self, to_send: int) -> str | None:
        """Choose the route where that is open, as a run with so many rows would; why, as the end of a sentence."""
        if self.route != AUTO:
            return None
        choice = foresee_route(self._order, self.batch_id, to_send)
        self.route = choice.route
        return f"auto, which is {reason(choice, self._order.options.model)}"

    def _find(self, rows: Sequence[Prepared]) -> None:
        with reading() as connection:
            stored = find(connection, self._order, self._order.sought(rows))
            if stored is not None:
                self.batch_id = stored.id
                self.route = self._order.spending.route or batches.route_of(connection, stored.id)


def _tokens(rows: Sequence[Row], options: Options) -> int:
    texts = [text for row in rows for text in _texts(row.request, options.system)]
    overhead = sum(cost.chat_overhead_tokens(2 if options.system else 1) for _ in rows)
    pictures = sum(_picture_tokens(row.request, options) for row in rows)
    return sum(cost.count_many(texts, options.model)) + overhead + pictures


def _picture_tokens(request: JsonObject, options: Options) -> int:
    """Tokens of a row's picture; 0 where there is none, or where its size is not known."""
    picture = read_ask_request(request).picture or {}
    if "width" not in picture:
        return 0
    return picture_tokens(options.model, picture["width"], picture["height"], options.detail or "auto").tokens


def _texts(request: JsonObject, system: str | None) -> list[str]:
    own = read_ask_request(request)
    if own.line is not None:
        endpoint = by_url(own.line.url)
        return [dumps(own.line.body.get(endpoint.turns_field, "") if endpoint else own.line.body)]
    text = dumps(own.messages) if own.prompt is None else own.prompt
    return [system, text] if system else [text]


def priced(before: Before, options: Options, rows: int, done: int, to_send: int, *, input_tokens: int) -> Estimate:
    """The estimate for what was counted, with its price by the route that it would take."""
    chosen = before.choose(to_send)
    asked_tier = str(options.params.get("service_tier") or "")
    tier = (ROUTES[before.route].tier if before.route in ROUTES else "") or asked_tier
    price, online = cost.price(options.model, tier), cost.price(options.model, asked_tier)
    most = None if options.max_tokens is None else options.max_tokens * to_send
    return Estimate(
        before.batch_id,
        options.model,
        rows,
        done,
        to_send,
        input_tokens,
        most,
        price.input_usd_per_token * input_tokens + price.usd_per_request * to_send if price else None,
        price.output_usd_per_token * most if price and most is not None else None,
        tier,
        before.route,
        chosen,
        _most(online, input_tokens, most, to_send) if online and most is not None and before.route != ONLINE else None,
    )


def _most(price: cost.Price, input_tokens: int, output_tokens: int, calls: int) -> float:
    sent = price.input_usd_per_token * input_tokens + price.usd_per_request * calls
    return sent + price.output_usd_per_token * output_tokens
