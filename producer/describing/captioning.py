"""A run of `tidemill describe` is put together here: what is asked of pictures, and where else captions go."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast, get_args

from tidemill.models import blobs
from tidemill.models.allowed import one_of
from tidemill.models.errors import InputError, OptionError, SettingsError
from tidemill.models.finish import CUT
from tidemill.models.json_types import JsonObject
from tidemill.models.options import Options
from tidemill.models.refusals import REFUSAL
from tidemill.producer.asking.assistants import choose
from tidemill.producer.asking.question import make_options
from tidemill.producer.batches.batch import Batch
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.progress import counted
from tidemill.producer.batches.run import After
from tidemill.producer.batches.spending import UNSAID, Spending
from tidemill.producer.batches.stored_rows import rows_of
from tidemill.producer.describing import gallery, sidecars
from tidemill.producer.describing.children import Children
from tidemill.producer.describing.images import thumbnails
from tidemill.producer.describing.picture_files import MAX_SIDE, Pictures, find
from tidemill.producer.describing.picture_rows import PictureRows
from tidemill.producer.describing.sidecars import Existing, Sidecars
from tidemill.producer.intake.requests import parse_template
from tidemill.producer.intake.sources import files_of
from tidemill.producer.screen.display import say


class Preset(NamedTuple):
    """A way to describe pictures: what is asked, and what shape the answer must have."""

    prompt: str
    schema: JsonObject | None = None


def _object(**properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}

THUMBNAIL_PIXELS = 320

PRESETS = {
    "caption": Preset("Describe this picture in one or two plain sentences. Say only what can be seen."),
    "alt-text": Preset(
        "Write the alternative text of this picture for people who cannot see it: one sentence of at most 125 "
        "characters, without 'picture of'. If it shows text that matters, quote it. Answer with the sentence alone."
    ),
    "tags": Preset(
        "List 5 to 15 tags for this picture, the most important first: lower case, one to three words each. "
        'Answer with JSON such as {{"tags": ["harbour", "fishing boat"]}}.',
        _object(tags=_TEXTS),
    ),
    "json": Preset(
        "Describe this picture as JSON with the keys caption (one sentence), objects (a list of what can be seen), "
        "text (what is written in it, or an empty string) and colours (a list of the main ones).",
        _object(caption=_TEXT, objects=_TEXTS, text=_TEXT, colours=_TEXTS),
    ),
}
"""Name -> what is asked; `caption` is the default."""

_PRESET = one_of(lambda: PRESETS)


def order_for(
    pictures: Pictures,
    options: Mapping[str, object],
    *,
    preset: str | None = None,
    name: str | None = None,
    assistant: str | None = None,
    no_assistant: bool = False,
    priority: int = 0,
    new: bool = False,
    moved_from: str | None = None,
    spending: Spending = UNSAID,
) -> Order:
    """The order of one command: files, folders and URLs, or the rows of a table.

    Args:
        pictures: paths or a table, exactly one of them.
        options: `models.options.DescribeOptions`, checked; None means not said.
        preset: one of `PRESETS`, for what the options do not say.
        name: what to call the batch.
        assistant, no_assistant: whose instructions, model and options fill what is not said.
        priority, new, moved_from, spending: as for `Order`.

    Raises:
        InputError: there are no paths and no table, or both; a file or an assistant that was named is not there.
        OptionError: there is no such preset.
    """
    _check_paths(pictures)
    tables = files_of(pictures.table)
    chosen = choose(options, assistant, no_assistant=no_assistant)
    return Order(
        options=_options(chosen.options, preset or "caption"),
        assistant_id=chosen.assistant_id,
        rows=PictureRows(pictures),
        name=name or (tables.name if tables else _name(pictures.paths[0]) if pictures.paths else "frame"),
        source_name=name or (tables.known_by if tables else "\n".join(map(_source, pictures.paths)) or None),
        priority=priority,
        new=new,
        moved_from=moved_from,
        on_bad_row=say,
        spending=spending,
    )


def _check_paths(pictures: Pictures) -> None:
    if bool(pictures.paths) == (pictures.table is not None):
        raise InputError("Name pictures or a folder, or a table of paths with -i: tidemill describe photos/ -r")
    for path in pictures.paths:
        if "://" not in path and not os.path.exists(path):  # noqa: PTH110  # Path's may raise
            raise InputError(f"{path} does not exist; check the path.")


def _source(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _name(path: str) -> str:
    return Path(path).resolve().stem or "pictures"


def _options(options: JsonObject, name: str) -> Options:
    if (why := _PRESET.why_not(name)) is not None:
        raise OptionError("preset", name, why)
    preset = PRESETS[name]
    prompt = options.get("prompt") or preset.prompt
    parse_template(prompt)
    schema, max_side = options.get("schema") or preset.schema, options.get("max_side") or MAX_SIDE
    return make_options({**options, "prompt": prompt, "schema": schema, "max_side": max_side})


# --- where captions go ---


def with_sidecars(order: Order, ending: str, existing: str) -> tuple[Order, After]:
    """The order, and what writes its captions beside the pictures; `skip` takes out pictures that have a caption.

    Raises:
        InputError: a caption could not be written where it belongs, or the input is a pipe.
        SettingsError: `ending` is no ending of captions, or `existing` is not one of `Existing`.
    """
    if existing not in get_args(Existing):
        raise SettingsError(f"--existing is {existing!r}; it must be one of {', '.join(get_args(Existing))}.")
    assert isinstance(order.rows, PictureRows)
    pictures = order.rows.pictures
    tables = files_of(pictures.table)
    if tables and tables.is_stdin:
        raise InputError("--sidecar looks at all paths before it begins; give them as a file with -i, not as a pipe.")
    every = [each.place for each in find(replace(pictures, limit=None), lambda _note: None)]
    full = sidecars.shared(every, ending)
    places = Sidecars(ending, cast("Existing", existing), full)
    if alike := sorted(filter(sidecars.has_usual_ending, full)):
        names = ", ".join(places.of(place).name for place in alike[:2])
        say(f"{counted(len(alike), 'picture')} differ only in their endings: captions are {names} and so on.")
    if existing == "skip":
        every = [each for each in every if not places.has_caption(each)]
        order = replace(order, rows=PictureRows(replace(pictures, is_done=places.has_caption)))
    places.check(islice(every, pictures.limit))
    return order, partial(_write_sidecars, places)


def _write_sidecars(places: Sidecars, batch: Batch) -> None:
    rows = rows_of(batch.id, batch.submission, pictures=True)
    written = sidecars.write(rows, places, path_column="place")
    say(f"{counted(written.files, 'caption file')} (.{places.ending.removeprefix('.')}) written beside the pictures.")
    for code, count in written.others.items():
        say(_NO_CAPTION[code].format(counted(count, "answer")))


_NO_CAPTION = {
    CUT: "{} cut at the limit of tokens, and in no caption file; the same command with a higher --max-tokens asks for "
    "such captions anew.",
    "no_finish_reason": "{} perhaps not whole, and in no caption file; the server does not say.",
    REFUSAL: "{} a refusal, and in no caption file; another model or prompt may describe the picture.",
}
"""Why an answer is no caption."""


def gallery_writer(path: str) -> After:
    """What writes all pictures with their captions onto one page.

    Raises:
        InputError: the page cannot be written there.
    """
    gallery.check_destination(path)
    return partial(_write_gallery, path)


def _write_gallery(path: str, batch: Batch) -> None:
    rows = rows_of(batch.id, batch.submission, pictures=True)
    with Children(1, thumbnails) as children:
        thumbnail = partial(_thumbnail, children)
        count = gallery.write(path, batch.id, batch.progress().summary(), rows, thumbnail)
    say(f"{path}: {counted(count, 'picture')} with {'its caption' if count == 1 else 'their captions'}.")


def _thumbnail(children: Children, row: JsonObject) -> bytes | None:
    if row.get("sha256") is None:
        return None
    try:
        return children.submit(THUMBNAIL_PIXELS, blobs.get(row["sha256"])).result()[1]
    except (blobs.BlobError, TimeoutError, EOFError):
        return None  # the gallery shows a plain tile
