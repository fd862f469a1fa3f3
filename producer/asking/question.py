"""The options of a batch come from four places: its caller, an assistant, its dialogue and the settings."""

from typing import NamedTuple

from tidemill.models.errors import OptionError
from tidemill.models.json_types import JsonObject
from tidemill.models.options import AskOptions, Options
from tidemill.models.settings import settings
from tidemill.producer.asking import assistants, continuing


class CompleteOptions(NamedTuple):
    """Options with nothing left to fill in, and the assistant that some of them come from."""

    options: Options
    assistant_id: int | None


def complete_options(
    options: AskOptions, assistant: str | None, *, no_assistant: bool, dialogue: int | None = None
) -> CompleteOptions:
    """Fill in what the caller has not set: from the assistant, then from how the dialogue began, then from settings.

    Args:
        options: the caller's, checked.
        assistant, no_assistant, dialogue: as in `tidemill.ask`.

    Raises:
        InputError: there is no such assistant or dialogue.
        OptionError: two options do not go together.
    """
    root = None if dialogue is None else continuing.root(dialogue)
    if root is None and options.get("trim") is not None:
        raise OptionError("trim", options["trim"], "it is about the turns of a dialogue, and no dialogue is named.")
    below = None if root is None else assistants.Choice(root.options, root.assistant_id)
    choice = assistants.choose(options, assistant, no_assistant=no_assistant, below=below)
    continued = {} if root is None else {"dialogue": root.id}
    return CompleteOptions(make_options(choice.options | continued), choice.assistant_id)


def make_options(options: JsonObject) -> Options:
    """What a batch stores, made from options that have been checked; None means not set, and leaves a default."""
    chosen = {name: value for name, value in options.items() if value is not None}
    return Options(**{"model": settings().model, **chosen})
