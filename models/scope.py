"""Whose jobs somebody sends, watches or counts is said in one way on both sides of the broker."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose jobs are meant: one batch's (of a command that runs its own worker), one provider's, or all."""

    batch_id: str | None = None
    submission: int = 0
    """Of that batch, only rows that this submission or a later one held."""
    dialogue_id: int | None = None
    """The dialogue that the batch goes on: turns of it that others left open have to be asked first."""
    provider: str | None = None
