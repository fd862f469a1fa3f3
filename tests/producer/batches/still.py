"""A run that waits stands still for a test: its clock is moved by hand, and what it says is kept."""

from tidemill.producer.screen.display import Quiet


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.seconds


class Kept(Quiet):
    """A display that keeps its sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        """Keep it."""
        self.sentences.append(sentence)
