"""A job's kind says which coroutine runs it; the rest of the worker knows no kind by name."""

from tidemill.models.claims import Claimed
from tidemill.models.options import Options
from tidemill.models.registry import Registry
from tidemill.models.settling import Settlement
from tidemill.worker.ask import ask
from tidemill.worker.calling import Calling, Work


async def _train(job: Claimed, options: Options, calling: Calling) -> Settlement:
    from tidemill.worker.train import train  # with all that only fine-tunes need

    return await train(job, options, calling)


KINDS: Registry[Work] = Registry("tidemill.kinds", "kind of job", {"ask": ask, "describe": ask, "train": _train})
"""`describe` runs as `ask` does; only the body that `worker.questions` makes is different."""
