"""A job queue for language-model work: thousands of prompts in, every answer stored exactly once.

    import tidemill

    batch = tidemill.ask(frame, column="prompt", model="gpt-6-luna")
    batch.wait()
    batch.to_frame()

`ask`, `describe` and `train` submit work; `batch`, `batches`, `dialogue` and `fine_tune` find what is stored;
`estimate` says what prompts would cost, `costs` what calls have cost. Each has a twin for asyncio whose name begins
with an `a`, such as `aask`.
`AskOptions` and `DescribeOptions` are the types of options, for functions that pass them on:
`**options: Unpack[AskOptions]`. All errors are in `tidemill.errors`.

Only these names are public; everything below is the project's own. In a checkout `models`, `producer`, `worker`,
`migrations` and `simulator` are links to the folders beside this one; an installed copy has the folders themselves.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill import errors
    from tidemill.models.options import AskOptions, DescribeOptions
    from tidemill.producer.asking.python import Dialogue, aask, adialogue, aestimate, ask, dialogue, estimate
    from tidemill.producer.batches.batch import Batch, abatch, abatches, batch, batches
    from tidemill.producer.costing.costs import CostRow, acosts, costs
    from tidemill.producer.describing.python import adescribe, describe
    from tidemill.producer.training.python import FineTune, afine_tune, atrain, fine_tune, train

    __version__: str

__all__ = [
    "AskOptions",
    "Batch",
    "CostRow",
    "DescribeOptions",
    "Dialogue",
    "FineTune",
    "__version__",
    "aask",
    "abatch",
    "abatches",
    "acosts",
    "adescribe",
    "adialogue",
    "aestimate",
    "afine_tune",
    "ask",
    "atrain",
    "batch",
    "batches",
    "costs",
    "describe",
    "dialogue",
    "errors",
    "estimate",
    "fine_tune",
    "train",
]

_PLACES = {
    "tidemill.models.options": ("AskOptions", "DescribeOptions"),
    "tidemill.producer.asking.python": (
        *("Dialogue", "aask", "adialogue", "aestimate", "ask", "dialogue", "estimate"),
    ),
    "tidemill.producer.batches.batch": ("Batch", "abatch", "abatches", "batch", "batches"),
    "tidemill.producer.costing.costs": ("CostRow", "acosts", "costs"),
    "tidemill.producer.describing.python": ("adescribe", "describe"),
    "tidemill.producer.training.python": ("FineTune", "afine_tune", "atrain", "fine_tune", "train"),
}
"""Module -> the public names that it has."""


if not TYPE_CHECKING:  # or a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for: `tidemill --help` must answer at once."""
        if name == "errors":
            return import_module("tidemill.errors")
        if name == "__version__":
            from importlib.metadata import version

            return version("tidemill")
        for place, names in _PLACES.items():
            if name in names:
                return getattr(import_module(place), name)
        raise AttributeError(f"module 'tidemill' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion in notebooks and shells."""
    return __all__
