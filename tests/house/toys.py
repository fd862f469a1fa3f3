"""A package as a stranger would write it: an endpoint and a kind of job that Tidemill does not have.

tests/house/test_extending.py installs a copy of it beside Tidemill; nothing imports it from here.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tidemill.models.answers import Answer, Message
from tidemill.models.claims import Claimed
from tidemill.models.endpoints import Endpoint, Turn
from tidemill.models.options import Options
from tidemill.models.payloads import load_json
from tidemill.models.replies import RawReply, Reply, kept_headers
from tidemill.models.settling import Settlement
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import open_batch, submit
from tidemill.producer.intake.tables import Row
from tidemill.worker.calling import Calling

# --- an endpoint: POST /v1/echo {"model", "turns"} -> {"said"} ---


def make_body(options: Options, turns: Sequence[Turn]) -> dict[str, Any]:
    """What the server takes."""
    return {"turns": list(turns), "loudly": options.system == "Loudly."}


def parse_reply(raw: RawReply, *, secret: str = "") -> Reply:
    """What the server answers."""
    text = load_json(raw.body)["said"]
    return Reply(text, "echo-1", "stop", None, None, kept_headers(raw.headers), raw.status)


ECHO = Endpoint(
    name="echo",
    path="/echo",
    make_body=make_body,
    picture_parts=lambda prompt, url, detail: [{"prompt": prompt, "picture": url}],
    parse_reply=parse_reply,
    turns_field="turns",
    instructions_field=None,
    room_fields=(),
)


# --- a kind of job: a text is measured, without any call ---


async def measure(job: Claimed, options: Options, calling: Calling) -> Settlement:
    """Answer how long the text is."""
    text = job.request["text"]
    answer = Answer("ruler", "stop", (Message("user", text), Message("assistant", f"{len(text)} characters")))
    return Settlement(job.id, job.epoch, job.batch_id, "succeeded", answer=answer)


class Texts:
    """The rows of such a batch."""

    kind = "measure"
    is_one = False
    is_partial = False
    files: Sequence[Path] = ()

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def chunks(self, options: Options, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """All of them at once."""
        yield [Row(None, {"text": text}, {"text": text}, line) for line, text in enumerate(self._texts, 1)]

    def estimate(self, order: Order) -> Any:
        """Nobody asks."""
        raise NotImplementedError


if __name__ == "__main__":
    opened = open_batch(Order(Options("ruler"), Texts(sys.argv[1:])))
    submit(opened)
    batch = Batch(opened.batch_id, opened.submission)
    batch.wait()
    print(batch.id)
