"""Both sides of the broker say in the same way whose jobs they send, watch or count."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose jobs are meant: one batch's (of a command that runs its own worker), or all of the configured provider."""

    batch_id: str | None = None
    submission: int = 0
    """Of that batch, only rows of this submission or a later one."""
    dialogue_id: int | None = None
    """The dialogue that the batch continues; its open turns of other batches are asked first."""

    def covers(self, batch_id: str, dialogue_id: int | None) -> bool:
        """Whether a job of this batch, and of this dialogue, is meant."""
        is_turn = self.dialogue_id is not None and self.dialogue_id == dialogue_id
        return self.batch_id is None or self.batch_id == batch_id or is_turn
