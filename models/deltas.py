"""The text of an answer is read out of a stream while that still comes, to be shown; what is stored is read afterwards.

The bytes may be parted anywhere. Shapes: OpenAI's chunks and events, and Ollama's lines, as in `models.streams`.
"""

import re
from collections.abc import Callable

from tidemill.models.payloads import MalformedError, load_json
from tidemill.models.streams import is_chunk, text_of
from tidemill.models.thinking import answer_so_far, split_thinking

_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)
"""A lone \r at the end of a piece may be the first half of \r\n."""
_MAY_END_THINKING = (">", "]", "▷")
"""One of them is in every mark that ends the thinking."""
_LONGEST_LINE = 2**20
"""Of a stream; what has none shorter is no stream, or none to be shown."""


class Deltas:
    """Takes the pieces of a stream's body, and tells the text of the answer as it goes on.

    What a model thinks before it answers is no part of it. Of a body that is no stream nothing is told.

    Args:
        hear: gets each further text.
    """

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._rest = b""
        self._lines: list[bytes] = []
        self._text: str | None = ""
        """What has come before it is known where the answer begins; None from then on."""
        self._is_thinking = self._is_stream = False

    def __call__(self, piece: bytes) -> None:
        """Take the next piece."""
        if len(self._rest) > _LONGEST_LINE:
            return
        *lines, self._rest = _LINE_END.split(self._rest + piece)
        for line in lines:
            if line.startswith(b"data:"):
                self._lines.append(line[5:])
            elif line.startswith(b"{"):
                self._read(line)
            elif not line and self._lines:
                words, self._lines = b"\n".join(self._lines), []
                self._read(words)

    def _read(self, words: bytes) -> None:
        try:
            chunk = load_json(words)
        except MalformedError:  # [DONE], or what makes the call fail in the end
            return
        if isinstance(chunk, dict):
            self._is_stream = self._is_stream or is_chunk(chunk)
            if self._is_stream and (text := text_of(chunk)):
                self._tell(text)

    def _tell(self, text: str) -> None:
        if self._text is None:
            return self._hear(text)
        self._text += text
        if self._is_thinking and not any(sign in text for sign in _MAY_END_THINKING):
            return None  # a long thought is not searched again for each of its words
        if (answer := answer_so_far(self._text)) is None:
            self._is_thinking = split_thinking(self._text).is_open
        else:
            self._text = None
            self._hear(answer)
        return None
