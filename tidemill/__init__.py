"""A job queue for language-model work: thousands of prompts in, every answer stored exactly once.

    from tidemill import ask

    batch = ask(frame, column="prompt", model="gpt-6-luna")
    batch.wait()
    batch.to_frame()

`AskOptions` are the types of its options, for functions that pass them on: `**options: Unpack[AskOptions]`.

Only these names are public; everything below is the project's own. In a checkout `models`, `producer`, `worker`,
`migrations` and `simulator` are links to the folders beside this one; an installed copy has the folders themselves.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.models.options import AskOptions
    from tidemill.producer.asking.python import ask

__all__ = ["AskOptions", "ask"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `tidemill --help` must answer at once."""
    if name == "ask":
        from tidemill.producer.asking.python import ask

        return ask
    if name == "AskOptions":
        from tidemill.models.options import AskOptions

        return AskOptions
    raise AttributeError(f"module 'tidemill' has no attribute {name!r}")
