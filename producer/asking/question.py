"""How a batch is asked is put together from what was said, its assistant, its dialogue and the settings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tidemill.models.errors import OptionError
from tidemill.models.options import Options
from tidemill.models.settings import settings
from tidemill.producer.asking import assistants, continuing


class AskedWith(NamedTuple):
    """Options that are complete, and the assistant that some of them are from."""

    options: Options
    assistant_id: int | None


def asked_with(
    options: Mapping[str, Any], assistant: str | None, *, no_assistant: bool, dialogue: int | None = None
) -> AskedWith:
    """What a batch is asked with: what was said, then what its assistant says, then how its dialogue began.

    Args:
        options: `models.options.AskOptions`, checked.
        assistant, no_assistant, dialogue: as in `tidemill.ask`.

    Raises:
        InputError: there is no such assistant or dialogue.
        OptionError: two options do not go together.
    """
    root = None if dialogue is None else continuing.root(dialogue)
    if root is None and options.get("trim") is not None:
        raise OptionError("trim", options["trim"], "it is about the turns of a dialogue, and no dialogue is named.")
    below = None if root is None else assistants.Chosen(root.options, root.assistant_id)
    chosen = assistants.choose(options, assistant, no_assistant=no_assistant, below=below)
    going_on = {} if root is None else {"dialogue": root.id}
    return AskedWith(make_options(chosen.options | going_on), chosen.assistant_id)


def make_options(options: Mapping[str, Any]) -> Options:
    """What a batch stores, from options that have been checked; None means not said, and leaves a default."""
    known = {name: value for name, value in options.items() if value is not None}
    return Options(**{"model": settings().model, **known})
