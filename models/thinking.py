"""What a model thinks before it answers is kept apart from its answer, wherever a server puts it.

Most servers have a field for it. Where none parses the model's output, it stands before the answer between marks, or
only its closing mark is there, because the model's template has opened it in the prompt (DeepSeek R1, Qwen).
"""

import re
from itertools import islice
from typing import NamedTuple

_TAG = r"(?:\w+:)?(?:think|thinking|thought)"
_MARKS: tuple[tuple[str, str], ...] = (  # of a block: how it begins, how it ends
    (rf"<(?P<tag>{_TAG})>", r"</(?P=tag)>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    (r"◁think▷", r"◁/think▷"),  # Kimi
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel>thought\b", r"<channel\|>"),  # Gemma
    (r"<unused94>thought\b", r"<unused95>"),
    (
        r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)<\|message\|>",  # gpt-oss
        r"(?:<\|end\|>|<\|return\|>|(?=<\|start\|>)|(?=<\|channel\|>))",
    ),
    (r"analysis(?=.*?assistantfinal)", r"assistantfinal"),  # the same without its special tokens
)
_OPENINGS = [(re.compile(rf"\s*{begin}", re.IGNORECASE | re.DOTALL), end) for begin, end in _MARKS]
_SIGNS = ("<", "[", "◁", "analysis")
"""One of them is in every mark."""
_MOST_MARKS = 50
"""That are looked at, however many a reply has."""
_LONE_CLOSING = re.compile(rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>", re.IGNORECASE)
_ANY_OPENING = re.compile(rf"<{_TAG}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|begin_of_thought\|>", re.IGNORECASE)
_ANSWER = re.compile(
    r"\s*(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>(.*?)(?:<\|return\|>|<\|end\|>)?\s*"
    r"|\s*<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>)?\s*"
    r"|\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?\s*",
    re.DOTALL,
)
"""An answer that has marks of its own."""


class Thought(NamedTuple):
    """A model's output in two parts; `is_open` when the thinking never came to its end."""

    reasoning: str
    answer: str
    is_open: bool = False


def split_thinking(text: str) -> Thought:
    """Part what stands before the answer from the answer.

    Marks in the midst of an answer are part of it: somebody may have asked about them.
    """
    if not any(sign in text for sign in _SIGNS):
        return Thought("", text)
    blocks: list[str] = []
    place = 0
    while len(blocks) < _MOST_MARKS and (opening := _opening(text, place)) is not None:
        start, end = opening
        closing = _closing(end, text, start)
        if closing is None:
            return Thought("\n\n".join(filter(None, (*blocks, text[start:].strip()))), "", is_open=True)
        blocks.append(text[start : closing.start()].strip())
        place = closing.end()
    if not blocks and (lone := _lone_closing(text)) is not None:
        blocks, place = [text[: lone.start()].strip()], lone.end()
    own = _ANSWER.fullmatch(text, place)
    if own is None and not blocks:
        return Thought("", text)
    answer = text[place:] if own is None else next(group for group in own.groups() if group is not None)
    return Thought("\n\n".join(filter(None, blocks)), answer.lstrip())


_LONGEST_OPENING = 48
"""Characters in which a mark that opens the thinking is complete."""


def answer_so_far(text: str) -> str | None:
    """Of an output that is still being written, the answer as far as it is there; None while that cannot be known."""
    start = text.lstrip()
    if not start or start.startswith(("<|", "analysis"[: len(start)])) or start[:8].lower() == "analysis":
        return None  # the whole output will tell
    thought = split_thinking(text)
    if thought.answer != text:
        return answer_so_far(thought.answer) if thought.answer else None
    may_be_mark = start.startswith(_SIGNS) and len(start) < _LONGEST_OPENING and "\n" not in start
    return None if may_be_mark else text


def _opening(text: str, place: int) -> tuple[int, str] | None:
    """Where the thinking begins behind the mark at `place`, and the pattern of its end."""
    for begin, end in _OPENINGS:
        if (match := begin.match(text, place)) is not None:
            tag = match.groupdict().get("tag")
            return match.end(), end if tag is None else rf"</{re.escape(tag)}>"
    return None


def _closing(end: str, text: str, start: int) -> re.Match[str] | None:
    """The mark that ends the thinking: the first one that is not only talked about, else the first one."""
    marks = list(islice(re.compile(end, re.IGNORECASE).finditer(text, start), _MOST_MARKS))
    return next((mark for mark in marks if _is_structure(text, start, mark)), marks[0] if marks else None)


def _lone_closing(text: str) -> re.Match[str] | None:
    """The closing mark of thinking that was opened in the prompt."""
    marks = islice(_LONE_CLOSING.finditer(text), _MOST_MARKS)
    closing = next((mark for mark in marks if _is_structure(text, 0, mark)), None)
    return None if closing is None or _ANY_OPENING.search(text, 0, closing.start()) else closing


def _is_structure(text: str, start: int, mark: re.Match[str]) -> bool:
    """Whether a mark ends something, rather than being quoted or named in a sentence."""
    before, after = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
    if text.count("```", start, mark.start()) % 2:
        return False
    if before in ("", "\n") and after in ("", "\n"):
        return True
    if text.count("`", start, mark.start()) % 2:
        return False
    return before in ("", "\n") or not (before.isspace() or before in "\"'`“‘«([{<") or after == "\n"
