"""A fine-tune goes on while nobody looks, so what it is now must follow from when it was made and what was asked.

A job has a clock of its own that stands still while it is paused. Everything that is ever shown of it (status, events,
checkpoints, metrics) is computed from that clock: nothing runs between two requests, and a restart changes nothing.
Shapes and words: OpenAI's API reference, the official SDK's types.
"""

import math
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tidemill.simulator.training import AUTO_EPOCHS

# Shares of a job's duration at which each thing has happened.
VALIDATED, STARTED, BROKE, LAST_STEP, FINISHED = 0.1, 0.2, 0.6, 0.98, 1.0
PHASES = ((VALIDATED, "validating_files"), (STARTED, "queued"), (math.inf, "running"))
CHECKPOINTS_KEPT = 3
# command -> (statuses that allow it, the event that tells of it)
COMMANDS: dict[str, tuple[set[str], str]] = {
    "pause": ({"queued", "running"}, "Fine-tuning job paused"),
    "resume": ({"paused"}, "Fine-tuning job resumed"),
    "cancel": ({"validating_files", "queued", "running", "paused"}, "The job has been cancelled"),
}
INTERNAL_ERROR = {"code": "server_error", "message": "The job failed due to an internal error.", "param": None}


@dataclass(slots=True)
class Tuning:
    """A fine-tuning job. Times are unix seconds; `file_error` is what a look at the files will find."""

    id: str
    created_at: float
    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: dict[str, str]
    method: str
    hyperparameters: dict[str, Any]
    tokens: int
    seconds: float
    steps: int
    breaks: bool
    file_error: dict[str, Any] | None
    commands: list[tuple[float, str]] = field(default_factory=list)

    # --- its clock ---

    def _stretches(self) -> list[tuple[float, float]]:
        """When the clock ran: (from, to) in unix seconds; the last one is open while nothing has stopped it."""
        stretches, since = [], math.inf
        for at, command in [(self.created_at, "resume"), *self.commands]:
            if command == "resume":
                since = at
            elif since < math.inf:
                stretches.append((since, at))
                since = math.inf
        return [*stretches, (since, math.inf)] if since < math.inf else stretches

    def moment(self, share: float) -> float:
        """The unix time at which this share of the work is (or was) done; infinity if it never will be."""
        missing = share * self.seconds
        for start, end in self._stretches():
            if start + missing <= end:
                return start + missing
            missing -= end - start
        return math.inf

    # --- what follows from it ---

    @property
    def result_file(self) -> str:
        return f"file-result-{self.id.removeprefix('ftjob-')}"

    @property
    def epochs(self) -> int:
        given = self.hyperparameters.get("n_epochs", "auto")
        return AUTO_EPOCHS if given == "auto" else int(given)

    @property
    def total_steps(self) -> int:
        return max(self.steps, self.epochs)

    @property
    def tuned_model(self) -> str:
        return f"ft:{self.model}:tidemill:{self.suffix or ''}:{self.id.removeprefix('ftjob-')}"

    def _ending(self) -> tuple[float, dict[str, Any] | None]:
        """The share of the work at which it ends, and with what error."""
        if self.file_error is not None:
            return VALIDATED, self.file_error
        return (BROKE, INTERNAL_ERROR) if self.breaks else (FINISHED, None)

    def status(self, now: float) -> str:
        share, error = self._ending()
        if self.moment(share) <= now:
            return "failed" if error else "succeeded"
        if self.commands and self.commands[-1][1] != "resume":
            return "cancelled" if self.commands[-1][1] == "cancel" else "paused"
        return next(status for share, status in PHASES if share == math.inf or now < self.moment(share))

    def finished_at(self, now: float) -> float | None:
        status = self.status(now)
        if status == "cancelled":
            return self.commands[-1][0]
        return self.moment(self._ending()[0]) if status in ("succeeded", "failed") else None

    def _step_share(self, step: int) -> float:
        return STARTED + (LAST_STEP - STARTED) * step / self.total_steps

    def metrics(self, step: int) -> dict[str, float]:
        """A curve that falls, a little unevenly, and is the same for the same seed."""
        noise = blake2b(f"{self.seed}/{step}".encode(), digest_size=2).digest()
        loss = 0.4 + 1.8 * math.exp(-4 * step / self.total_steps) + noise[0] / 2550
        found = {"train_loss": loss, "train_mean_token_accuracy": 1 - loss / 3}
        if self.validation_file:
            valid = loss + 0.05 + noise[1] / 2550
            found |= {"valid_loss": valid, "valid_mean_token_accuracy": 1 - valid / 3}
        return {name: round(value, 5) for name, value in found.items()}

    def _epoch_step(self, epoch: int) -> int:
        return self.total_steps * epoch // self.epochs

    def _metrics_message(self, step: int) -> str:
        found = self.metrics(step)
        losses = [f"training loss={found['train_loss']:.2f}"]
        losses += [f"validation loss={found['valid_loss']:.2f}"] if "valid_loss" in found else []
        return f"Step {step}/{self.total_steps}: {', '.join(losses)}"

    # --- what is shown ---

    def _event(self, at: float, key: str, message: str, level: str = "info", **more: Any) -> dict[str, Any]:
        return {
            "object": "fine_tuning.job.event",
            "id": f"ftevent-{blake2b(f'{self.id}/{key}'.encode(), digest_size=12).hexdigest()}",
            "created_at": int(at),
            "level": level,
            "message": message,
            "type": "message",
            "data": {},
        } | more

    def events(self, now: float) -> list[dict[str, Any]]:
        """Oldest first. An event keeps its id however often it is asked for."""
        end, error = self._ending()
        files = f"training file: {self.training_file}"
        files += f" and validation file: {self.validation_file}" if self.validation_file else ""
        told: list[tuple[float, str, dict[str, Any]]] = [
            (0, f"Created fine-tuning job: {self.id}", {}),
            (0, f"Validating {files}", {}),
            (VALIDATED, "Files validated, moving job to queued state", {}),
            (STARTED, "Fine-tuning job started", {}),
        ]
        ends_epoch = {self._epoch_step(epoch) for epoch in range(1, self.epochs + 1)}
        for step in range(1, self.total_steps + 1):
            shown = {"type": "metrics", "data": {"step": step, "total_steps": self.total_steps} | self.metrics(step)}
            told.append((self._step_share(step), self._metrics_message(step), shown))
            if step in ends_epoch:
                told.append((self._step_share(step), f"Checkpoint created at step {step}", {}))
        told.append((FINISHED, f"New fine-tuned model created: {self.tuned_model}", {}))
        told.append((FINISHED, "The job has successfully completed", {}))
        if error is not None:
            # Where the files are bad, that they were validated is no event.
            told = [each for each in told if each[0] < end]
            told.append((end, error["message"], {"level": "error"}))
        timed = [(self.moment(share), message, more) for share, message, more in told]
        timed += [(at, COMMANDS[command][1], {}) for at, command in self.commands]
        # The time makes a second pause an event of its own.
        timed.sort(key=lambda each: each[0])
        return [self._event(at, f"{at}/{message}", message, **more) for at, message, more in timed if at <= now]

    def checkpoints(self, now: float) -> list[dict[str, Any]]:
        """Oldest first: those of the last three epochs that are over."""
        steps = [self._epoch_step(epoch) for epoch in range(1, self.epochs + 1)]
        end = self._ending()[0]
        over = [step for step in steps if self._step_share(step) < end and self.moment(self._step_share(step)) <= now]
        return [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt-{self.id.removeprefix('ftjob-')}-{step}",
                "created_at": int(self.moment(self._step_share(step))),
                "fine_tuned_model_checkpoint": f"{self.tuned_model}:ckpt-step-{step}",
                "fine_tuning_job_id": self.id,
                "metrics": {"step": step} | self.metrics(step),
                "step_number": step,
            }
            for step in over[-CHECKPOINTS_KEPT:]
        ]

    def card(self, now: float) -> dict[str, Any]:
        """The object that the API sends."""
        status, finished_at = self.status(now), self.finished_at(now)
        good = status == "succeeded"
        chosen = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"} | self.hyperparameters
        if status not in ("validating_files", "queued"):
            found = {"n_epochs": self.epochs, "batch_size": 1, "learning_rate_multiplier": 2.0, "beta": 0.1}
            chosen = {name: found[name] if value == "auto" else value for name, value in chosen.items()}
        return {
            "object": "fine_tuning.job",
            "id": self.id,
            "created_at": int(self.created_at),
            "error": self._ending()[1] if status == "failed" else None,
            "estimated_finish": int(self.moment(FINISHED)) if status == "running" else None,
            "fine_tuned_model": self.tuned_model if good else None,
            "finished_at": None if finished_at is None else int(finished_at),
            "hyperparameters": {name: value for name, value in chosen.items() if name != "beta"},
            "integrations": [],
            "metadata": self.metadata,
            "method": {"type": self.method, self.method: {"hyperparameters": chosen}},
            "model": self.model,
            "organization_id": "org-tidemill",
            "result_files": [self.result_file] if good else [],
            "seed": self.seed,
            "status": status,
            "trained_tokens": self.tokens * self.epochs if good else None,
            "training_file": self.training_file,
            "user_provided_suffix": self.suffix,
            "validation_file": self.validation_file,
        }

    def result_csv(self) -> bytes:
        """Cells of the validation stay empty without a validation file."""
        columns = ("train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")
        lines = ["step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"]
        for step in range(1, self.total_steps + 1):
            found = self.metrics(step)
            lines.append(",".join([str(step), *(str(found.get(column, "")) for column in columns)]))
        return "\n".join([*lines, ""]).encode()
