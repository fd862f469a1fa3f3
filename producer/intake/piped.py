"""What is piped into a command that has its prompt already is text to go with it; an open pipe must not hang it."""

import os
import select
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidemill.models.errors import InputError
from tidemill.producer.intake.records import Input
from tidemill.producer.intake.text_files import decoded_text

FIRST_SECONDS = 1.0
"""The wait for a first byte where whoever started the command holds the pipe: it has nothing else to do."""
SILENT_SECONDS = 30.0
"""The wait for the next bytes of a pipeline: what comes before the command in it may be slow."""
_NOTE_SECONDS = 3.0
_MOST_BYTES = 16 * 2**20


def piped_text(on_note: Callable[[str], None]) -> str:
    """The text on standard input, without line ends at its end; "" where nothing is piped.

    Raises:
        InputError: it is no text, is too long, or its end does not come.
    """
    input_ = Input("standard input", skip_bad_rows=False, on_bad_row=on_note, on_note=on_note)
    content = _content(sys.stdin, input_)
    if not content.strip():
        return ""
    try:
        text = decoded_text(content, input_)
    except InputError as error:
        raise InputError(f"{error}; it was to go before the prompt") from None
    if text.strip():
        input_.note(f"({len(text):,} characters) goes before the prompt; < /dev/null leaves it out.")
    return text


def _content(stream: Any, input_: Input) -> bytes:
    try:
        descriptor = stream.fileno()
        kind = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):
        return b""  # it was closed, or is no file at all
    if stat.S_ISREG(kind):
        content = bytes(stream.buffer.read(_MOST_BYTES + 1))
        if len(content) > _MOST_BYTES:
            raise _too_long(input_)
        return content
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return b""  # a terminal, /dev/null
    return _of_pipe(descriptor, input_, is_pipeline=stat.S_ISFIFO(kind) and not _is_held_by_parent(descriptor))


def _of_pipe(descriptor: int, input_: Input, *, is_pipeline: bool) -> bytes:
    """All that comes until the end; nothing, where whoever started the command only left its pipe open."""
    content = b""
    while True:
        if not _wait(descriptor, input_, SILENT_SECONDS if content or is_pipeline else FIRST_SECONDS):
            if not (content or is_pipeline):
                input_.note("is open, and nothing came; the prompt is asked alone.")
                return b""
            raise input_.fault(
                f"is a pipe that is open and silent for {SILENT_SECONDS:.0f} seconds; the prompt was not asked: "
                "add < /dev/null if nothing is to come, or save the text to a file first"
            )
        piece = os.read(descriptor, 2**16)
        content += piece
        if not piece:
            return content
        if len(content) > _MOST_BYTES:
            raise _too_long(input_)


def _wait(descriptor: int, input_: Input, seconds: float) -> bool:
    """Whether bytes or the end came within this time; says so when it takes long."""
    until = time.monotonic() + seconds
    if select.select([descriptor], [], [], min(seconds, _NOTE_SECONDS))[0]:
        return True
    if seconds > _NOTE_SECONDS:
        input_.note("is a pipe and may bring text to go before the prompt; waiting for it. < /dev/null leaves it out.")
    return bool(select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0])


def _too_long(input_: Input) -> InputError:
    return input_.fault(f"has more than {_MOST_BYTES >> 20} MiB, which is no text to go before a prompt; use -i -")


def _is_held_by_parent(descriptor: int) -> bool:
    """Whether the process that started this one can write to the pipe: no shell does, programs that run others do."""
    theirs = Path(f"/proc/{os.getppid()}")
    try:
        pipe = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # the link is no path
        for each in (theirs / "fd").iterdir():
            if os.readlink(each) == pipe:  # noqa: PTH115
                flags = (theirs / "fdinfo" / each.name).read_text().split("flags:")[1].split()[0]
                if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    except (OSError, IndexError, ValueError):
        return False  # another system, or another user's process
    return False
