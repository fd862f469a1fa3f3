"""How a batch is asked is put together from what was said, its assistant, its dialogue and the settings."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple, get_args

from tidemill.models.errors import SettingsError
from tidemill.models.options import Options, Trim
from tidemill.models.settings import Endpoint, Transport, settings
from tidemill.producer.asking import assistants, continuing
from tidemill.producer.batches.submit import Order


class AskedWith(NamedTuple):
    """Options that are complete, and the assistant that some of them are from."""

    options: Options
    assistant_id: int | None


def asked_with(
    said: Mapping[str, Any], assistant: str | None, *, no_assistant: bool, dialogue: int | None = None
) -> AskedWith:
    """What a batch is asked with: what was said, then what its assistant says, then how its dialogue began.

    Raises:
        InputError: there is no such assistant or dialogue.
        SettingsError: as `make_options`.
    """
    root = None if dialogue is None else continuing.root(dialogue)
    if root is None and said.get("trim") is not None:
        raise SettingsError("--trim is about the turns of a dialogue; name one with --dialogue.")
    below = None if root is None else assistants.Chosen(root.options, root.assistant_id)
    chosen = assistants.choose(said, assistant, no_assistant=no_assistant, below=below)
    going_on = {} if root is None else {"dialogue": root.id}
    return AskedWith(make_options(chosen.options | going_on), chosen.assistant_id)


def as_turns(order: Order, name: str | None) -> Order:
    """The order as the next turns of the dialogue in its options.

    Raises:
        InputError: the next turn cannot be asked.
    """
    dialogue = order.options.dialogue
    assert dialogue is not None
    prompts = order.source if isinstance(order.source, list) and len(order.source) == 1 else ()
    continuing.check(order.options, [prompt for prompt in prompts if isinstance(prompt, str)])
    found_by = continuing.source_name(dialogue, order.source, name)
    return replace(order, name=name or f"dialogue {dialogue}", source_name=found_by)


_ALLOWED: dict[str, tuple[str, ...]] = {
    "endpoint": get_args(Endpoint),
    "transport": get_args(Transport),
    "trim": get_args(Trim),
}


def make_options(given: Mapping[str, Any]) -> Options:
    """Options from keyword arguments, those that are None left out.

    Raises:
        SettingsError: there is no option of that name, or not with that value.
    """
    known = {each.name for each in fields(Options)}
    if unknown := given.keys() - known:
        raise SettingsError(
            f"There is no option {', '.join(sorted(unknown))}; the options are {', '.join(sorted(known))}."
        )
    said = {name: value for name, value in given.items() if value is not None}
    for name, allowed in _ALLOWED.items():
        if said.get(name, allowed[0]) not in allowed:
            raise SettingsError(f"--{name} is {said[name]!r}; it must be {' or '.join(allowed)}.")
    return Options(**{"model": settings().model, **said})
