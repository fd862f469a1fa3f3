"""Training and tagging tools read a picture's caption from a text file beside it.

That file may hold a person's own words already, and must never be half written.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeGuard

from tidemill.models.errors import InputError, SettingsError
from tidemill.models.files import replacing, temporary
from tidemill.models.json_types import JsonObject

Existing = Literal["skip", "overwrite", "append", "prepend"]
"""What becomes of a sidecar that is there already."""

_PICTURES = r"(?i)jpe?g|jpe|jfif|a?png|webp|gif|tiff?|bmp|dib|avif|hei[cf]|svg"
_NOT_LOCAL = re.compile(r"(?is)https?://|data:|.*\0")


def sidecar_of(picture: str | Path, ending: str) -> Path:
    """Where a picture's caption goes: `photos/a.jpg` and "txt" or ".txt" make `photos/a.txt`.

    Raises SettingsError for an ending that has other characters than ASCII letters and digits, or is one of pictures.
    """
    bare = ending.removeprefix(".")
    if not re.fullmatch(r"[A-Za-z0-9]{1,16}", bare):
        raise SettingsError(f"--sidecar {ending!r} is not a file's ending; give letters and digits, such as txt.")
    if re.fullmatch(_PICTURES, bare):
        raise SettingsError(f"--sidecar {ending} would write captions over pictures; give another ending, such as txt.")
    return Path(picture).with_name(f"{Path(picture).stem}.{bare}")


def check(pictures: Iterable[str | Path], ending: str) -> None:
    """Raise InputError when captions of these pictures cannot all have sidecars; called before any paid work.

    No two pictures may share one, none may be a picture itself, and each folder must be writable. URLs are left out.
    """
    places: set[str] = set()
    owners: dict[str, str] = {}  # place of a sidecar -> place of its picture
    for picture in filter(_is_local, pictures):
        place, sidecar = os.path.abspath(picture), os.path.abspath(sidecar_of(picture, ending))  # noqa: PTH100
        places.add(place)
        if (owner := owners.setdefault(sidecar, place)) != place:
            raise InputError(f"{owner} and {place} would share the caption file {sidecar}; rename one of the two.")
    for sidecar in places & owners.keys():
        raise InputError(f"The caption of {owners[sidecar]} would go over the picture {sidecar}; give another ending.")
    for folder in {Path(sidecar).parent for sidecar in owners}:
        if not os.path.isdir(folder):  # noqa: PTH112  # unlike Path's, it never raises
            continue  # its pictures do not exist either, and fail by themselves
        probe = temporary(folder / "probe")  # root and some disks find everything writable until it is tried
        try:
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise _unwritable(folder, error.strerror) from error


def write(
    rows: Iterable[list[JsonObject]],
    ending: str,
    existing: Existing,
    path_column: str = "path",
    reply_column: str = "reply",
) -> int:
    """Write each succeeded row's reply beside its picture, and return how many times a file was written.

    Rows are dicts as `results.rows_of` yields them; those without a path on this machine are left out. `caption_of`
    makes the text; a .json file gets the reply as it is. Running it again changes nothing: `append` and `prepend` add a
    caption only if it is not among the file's lines. Each file is whole at any time.

    Raises InputError when a file cannot be written; those already written stay.
    """
    written = 0
    for row in (row for chunk in rows for row in chunk):
        picture, reply = row.get(path_column), row.get(reply_column)
        if row.get("status") != "succeeded" or not isinstance(reply, str) or not _is_local(picture):
            continue
        sidecar = sidecar_of(picture, ending)
        caption = reply.strip() if sidecar.suffix.lower() == ".json" else caption_of(reply)
        try:
            written += _write(sidecar, caption.encode(errors="backslashreplace"), existing)
        except OSError as error:
            raise _unwritable(sidecar, error.strerror) from error
    return written


def caption_of(reply: str) -> str:
    """The reply without blanks around it; tags, which are JSON of exactly `{"tags": [...]}`, as "a, b, c"."""
    try:
        parsed = json.loads(reply)
    except (ValueError, RecursionError):
        return reply.strip()
    tags = parsed.get("tags") if isinstance(parsed, dict) and len(parsed) == 1 else None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return reply.strip()
    return ", ".join(tag.strip() for tag in tags)


def _is_local(picture: object) -> TypeGuard[str | Path]:
    return isinstance(picture, str | Path) and bool(Path(picture).name) and not _NOT_LOCAL.match(str(picture))


def _unwritable(path: Path, reason: str | None) -> InputError:
    return InputError(
        f"{path} cannot be written: {reason}; captions stay in the database: fix that, then run the same command again."
    )


def _write(sidecar: Path, caption: bytes, existing: Existing) -> bool:
    """True when the file was written. A link is never followed: it came with the pictures, and may lead anywhere."""
    if os.path.lexists(sidecar):
        if existing == "skip":
            return False
        if sidecar.is_symlink() or not sidecar.is_file():
            raise _unwritable(sidecar, "it is a link, a folder or a device")
        older = sidecar.read_bytes()
        if existing != "overwrite":
            if _has_lines(older, caption):
                return False
            caption = _JOINED[existing](older, caption)
    with replacing(sidecar) as file:
        file.write(caption)
    return True


def _has_lines(older: bytes, caption: bytes) -> bool:
    """True when some lines of `older` are the caption."""
    inner, outer = (b"\n%b\n" % text.removeprefix(_MARK).replace(b"\r\n", b"\n") for text in (caption, older))
    return not caption or inner in outer


_MARK = b"\xef\xbb\xbf"  # some editors put it before UTF-8
_JOINED: dict[str, Callable[[bytes, bytes], bytes]] = {
    "append": lambda older, caption: older + (b"\n" if older and not older.endswith(b"\n") else b"") + caption,
    "prepend": lambda older, caption: caption + b"\n" + older.removeprefix(_MARK),
}
