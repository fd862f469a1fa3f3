"""A job's kind says which coroutine runs it; the rest of the worker knows no kind by name."""

from tidemill.models.registry import Registry
from tidemill.worker.ask import ask
from tidemill.worker.calling import Work
from tidemill.worker.train import train

KINDS: Registry[Work] = Registry("tidemill.kinds", "kind of job", {"ask": ask, "describe": ask, "train": train})
"""`describe` runs as `ask` does; only the body that `worker.questions` makes is different."""
