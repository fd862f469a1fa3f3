"""Pictures are the rows of an order; the bytes of each are stored before its row comes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tidemill.models import blobs
from tidemill.models.options import Options
from tidemill.producer.batches.order import Order
from tidemill.producer.describing.images import PreparedPicture
from tidemill.producer.describing.picture_estimate import PictureEstimate, estimate_pictures
from tidemill.producer.describing.picture_files import Pictures, PreparedFile, prepare, row_of
from tidemill.producer.intake.requests import parse_template
from tidemill.producer.intake.tables import Row, chunks_of

_STORING = 8
"""Pictures that are stored at once, because a distant store is slow to answer."""


@dataclass(frozen=True, slots=True)
class PictureRows:
    """Pictures as the rows of an order."""

    kind: ClassVar[str] = "describe"
    pictures: Pictures

    @property
    def is_one(self) -> bool:
        """Whether it is a single picture, whose answer alone is shown."""
        return self.pictures.is_one

    @property
    def is_partial(self) -> bool:
        """Whether some pictures may be left out."""
        return self.pictures.limit is not None or self.pictures.is_done is not None

    @property
    def files(self) -> Sequence[Path]:
        """The tables of paths; no output can have the name of a picture."""
        return self.pictures.files

    def chunks(self, options: Options, on_note: Callable[[str], None]) -> Iterator[list[Row]]:
        """The pictures as rows; a prepared picture is stored before its row comes.

        Raises:
            InputError: there is no picture, or a path or column is wrong.
            BlobError: the store of pictures cannot be used.
        """
        yield from chunks_of(_store_all(prepare(self.pictures, options, on_note), options))

    def estimate(self, order: Order) -> PictureEstimate:
        """Tokens and price of the order that has these rows, and how it costs less."""
        return estimate_pictures(self.pictures, order)


def _store_all(pictures: Iterable[PreparedFile], options: Options) -> Iterator[Row]:
    """Store each picture, then yield its row."""
    template = parse_template(options.prompt or "")
    waiting: deque[tuple[Row, Future[None] | None]] = deque()
    with ThreadPoolExecutor(_STORING, thread_name_prefix="store") as storing:
        for file, picture in pictures:
            row = row_of(file, picture, template, options)
            stored = None
            if isinstance(picture, PreparedPicture):
                stored = storing.submit(blobs.put, picture.content, picture.sha256)
            waiting.append((row, stored))
            while len(waiting) > _STORING or (waiting and _is_done(waiting[0])):
                yield _wait_for(waiting.popleft())
        while waiting:
            yield _wait_for(waiting.popleft())


def _is_done(pending: tuple[Row, "Future[None] | None"]) -> bool:
    return pending[1] is None or pending[1].done()


def _wait_for(pending: tuple[Row, "Future[None] | None"]) -> Row:
    row, stored = pending
    if stored is not None:
        stored.result()
    return row
