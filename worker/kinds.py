"""Which work is done for a job is looked up by its kind; the rest of the worker knows none by name."""

from tidemill.models.registry import Registry
from tidemill.worker.ask import ask
from tidemill.worker.calling import Work
from tidemill.worker.train import train

KINDS: Registry[Work] = Registry("tidemill.kinds", "kind of job", {"ask": ask, "describe": ask, "train": train})
"""A picture's job is a prompt's, but for the body that `worker.questions` makes of its request."""
