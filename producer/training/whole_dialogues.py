"""Preferences come as two replies to a prompt, or as two whole dialogues that begin alike."""

from collections.abc import Sequence

from tidemill.models.turns import INSTRUCTIONS
from tidemill.producer.intake.records import BadRowError
from tidemill.producer.training.message_cells import instructions_of

_FEWEST_TURNS = 2


def split_dialogues(
    prompt: list[object], replies: dict[str, list[object]], *, has_prompt: bool
) -> tuple[list[object], list[list[object]]]:
    """Prompt and replies of a preference. Where a reply is a whole dialogue, all before its end is the prompt.

    Args:
        prompt: the messages before the replies.
        replies: the preferred one and the other, by the names of their columns.
        has_prompt: whether the row has a prompt of its own.

    Raises:
        BadRowError: the dialogues do not begin alike, or not as the prompt does.
    """
    names, outputs = [*replies], [*replies.values()]
    wholes = {name: each[:-1] for name, each in replies.items() if _is_whole(each)}
    if not has_prompt:
        for name, each in replies.items():
            if name not in wholes or len(each) < _FEWEST_TURNS:
                raise BadRowError(
                    f"there is no prompt, and {name!r} is no list of messages that begins with one; "
                    "add a column of prompts (--prompt-column), or write whole dialogues"
                )
    if not wholes:
        last = prompt[-1:]
        ends_with_reply = len(prompt) > 1 and outputs[0] and _said(last) == _said(outputs[0][-1:])
        return (prompt[:-1] if ends_with_reply else prompt), outputs
    whole, *others = wholes.values()
    if any(other != whole for other in others):
        raise BadRowError(f"{names[0]!r} and {names[1]!r} differ before their last message")
    if not _is_in(prompt, whole):
        raise BadRowError(f"{next(iter(wholes))!r} is a whole dialogue, and its prompt is another one than the row's")
    own = instructions_of(prompt)
    if own is not None and instructions_of(whole) is None:
        whole = [{"role": "system", "content": own}, *whole]
    return whole, [each[-1:] if name in wholes else each for name, each in replies.items()]


def _is_whole(messages: Sequence[object]) -> bool:
    """Whether messages begin with what a user asks; a reply may also be several messages."""
    roles = [each.get("role") for each in messages if isinstance(each, dict)]
    return next((role for role in roles if role not in INSTRUCTIONS), None) == "user"


def _is_in(prompt: Sequence[object], whole: Sequence[object]) -> bool:
    """Whether a dialogue has all that the prompt asks; a prompt may be the dialogue as text."""
    asked = [each for each in _said(prompt) if each[0] in ("user", "tool")]
    said = _said(whole)
    if len(asked) == 1 and isinstance(asked[0][1], str):
        return asked[0] in said or all(str(content) in asked[0][1] for role, content in said if role == "user")
    return all(each in said for each in asked)


def _said(messages: Sequence[object]) -> list[tuple[object, object]]:
    """Who says what, to compare it: white space at the ends does not count."""
    pairs = [(each.get("role"), each.get("content")) for each in messages if isinstance(each, dict)]
    return [(role, content.strip() if isinstance(content, str) else content) for role, content in pairs]
