"""Promises about money and lost answers can only be tested against a provider that keeps its own books.

The simulator is a real HTTP server in a process of its own. It speaks OpenAI's wire format, fails on demand in every
way that real providers were seen to fail, and logs every call that would have been billed. Tests, benchmarks and
`tidemill rehearse` compare the database with that log, never with Tidemill's own opinion of itself.
"""

from tidemill.simulator.calls import caller_of, prompt_hash, reply_tag
from tidemill.simulator.client import Simulator, SimulatorDownError

__all__ = ["Simulator", "SimulatorDownError", "caller_of", "prompt_hash", "reply_tag"]
