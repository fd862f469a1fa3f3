"""What was uploaded and created must outlive a kill of the server, or no test could say "created exactly once".

Every change is one line of JSON in a file beside the paid log, written before the reply leaves and read at the start.
Files of batches, which may be large, stand in a folder of their own, and only what is said of them in the lines.
"""

import base64
import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from tidemill.simulator.backgrounds import Background
from tidemill.simulator.batches import Batch, Tally
from tidemill.simulator.contents import Body, Contents
from tidemill.simulator.tunings import Tuning

BY_BATCH = ("batch", "batch-api", "batch_output")
"""Purposes of the files that stand in the folder."""


@dataclass(slots=True)
class StoredFile:
    id: str
    filename: str
    purpose: str
    created_at: float
    content: Body
    deleted: bool = False

    def card(self) -> dict[str, Any]:
        """The object that the API sends."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": int(self.created_at),
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Shelf:
    """Files and fine-tuning jobs by id, oldest first; deleted files stay in the books."""

    def __init__(self, path: Path | None) -> None:
        self.all_files: dict[str, StoredFile] = {}
        self.tunings: dict[str, Tuning] = {}
        self.batches: dict[str, Batch] = {}
        self.backgrounds: dict[str, Background] = {}
        self.contents = Contents(path and path.with_name(f"{path.name}.files"))
        self._going_on: dict[str, Tuning] = {}
        self._touched: dict[str, Batch] = {}
        self._queued: dict[str, Background] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            # A kill can cut a large line short. Its reply never left.
            os.truncate(path, sum(map(len, lines)) - len(lines.pop()))
        for line in lines:
            self._apply(orjson.loads(line))
        self._file = path.open("ab", buffering=0)

    def _apply(self, change: dict[str, Any]) -> None:
        match change:
            case {"file": file}:
                self.all_files[file["id"]] = StoredFile(**file | {"content": base64.b64decode(file["content"])})
            case {"stored": file}:
                self.all_files[file["id"]] = StoredFile(**file, content=self.contents.view(file["id"]))
            case {"deleted": identity}:
                self._delete(self.all_files[identity])
            case {"tuning": tuning}:
                self.tunings[tuning["id"]] = self._going_on[tuning["id"]] = Tuning(**tuning)
            case {"command": command, "of": identity, "at": at}:
                self.tunings[identity].commands.append((at, command))
            case {"batch": batch}:
                self.batches[batch["id"]] = Batch(**batch | {"tally": Tally(**batch["tally"])})
                self._touched[batch["id"]] = self.batches[batch["id"]]
            case {"background": background}:
                known = Background(**background)
                self.backgrounds[known.id] = self._queued[known.id] = known
            case {"ended": identity, "as": status}:
                self.backgrounds[identity].status = status
                self._queued.pop(identity, None)
            case {"changed": identity, **fields}:
                for name, value in fields.items():
                    setattr(self.batches[identity], name, Tally(**value) if name == "tally" else value)

    def _write(self, change: dict[str, Any]) -> None:
        self._apply(change)
        if self._file is not None:
            self._file.write(orjson.dumps(change) + b"\n")

    def add_file(
        self, identity: str, filename: str, purpose: str, content: bytes | memoryview, at: float
    ) -> StoredFile:
        file = {"id": identity, "filename": filename, "purpose": purpose, "created_at": at}
        if purpose in BY_BATCH:
            self.contents.write(identity, content)
            self._write({"stored": file})
        else:
            self._write({"file": file | {"content": base64.b64encode(content).decode()}})
        return self.all_files[identity]

    def publish(
        self, identity: str, filename: str, purpose: str, at: float, *, even_empty: bool = False
    ) -> StoredFile | None:
        """Make a file of what was written to its content; None if nothing was."""
        if not even_empty and not self.contents.view(identity):
            return None
        self._write({"stored": {"id": identity, "filename": filename, "purpose": purpose, "created_at": at}})
        return self.all_files[identity]

    def _delete(self, file: StoredFile) -> None:
        file.deleted = True
        if file.purpose in BY_BATCH:
            file.content = b""  # a batch that runs has its own map
            self.contents.remove(file.id)

    def delete_file(self, identity: str) -> None:
        self._write({"deleted": identity})

    def add_tuning(self, **fields: Any) -> Tuning:
        self._write({"tuning": fields})
        return self.tunings[fields["id"]]

    def command(self, tuning: Tuning, command: str, at: float) -> None:
        self._write({"command": command, "of": tuning.id, "at": at})

    def add_batch(self, batch: Batch) -> None:
        self._write({"batch": batch.record()})

    def change(self, batch: Batch, **fields: Any) -> None:
        self._write({"changed": batch.id, **fields})

    def add_background(self, background: Background) -> None:
        self._write({"background": asdict(background)})

    def due_backgrounds(self, now: float) -> list[Background]:
        """Those that are to be done by now."""
        return [background for background in self._queued.values() if background.ready_at <= now]

    def end_background(self, background: Background, status: str) -> None:
        self._write({"ended": background.id, "as": status})

    def cancel(self, batch: Batch, at: float) -> None:
        self.change(batch, status="cancelling", times={**batch.times, "cancelling": at})
        self._touched[batch.id] = batch

    def take_touched(self) -> list[Batch]:
        """Batches that are not over and were created or cancelled since the last look, or read from the file."""
        touched, self._touched = self._touched, {}
        return [batch for batch in touched.values() if batch.is_open]

    def enqueued_tokens(self, model: str | None) -> int:
        """Of the prompts in all batches of this model that are not over."""
        return sum(batch.tokens for batch in self.batches.values() if batch.is_open and batch.model == model)

    def collect(self, now: float) -> None:
        """Puts the result files of the jobs that have succeeded since the last look among the files."""
        for tuning in list(self._going_on.values()):
            if (finished_at := tuning.finished_at(now)) is None:
                continue
            del self._going_on[tuning.id]
            if tuning.status(now) == "succeeded" and tuning.result_file not in self.all_files:
                name = "step_metrics.csv"
                self.add_file(tuning.result_file, name, "fine-tune-results", tuning.result_csv(), finished_at)

    def files(self) -> dict[str, StoredFile]:
        """What a caller still sees."""
        return {identity: file for identity, file in self.all_files.items() if not file.deleted}

    def tuned_models(self, now: float) -> list[str]:
        return [tuning.tuned_model for tuning in self.tunings.values() if tuning.status(now) == "succeeded"]

    def books(self) -> dict[str, Any]:
        """{"files": [..], "tunings": [..], "batches": [..], "backgrounds": [..]}, oldest first, for the client."""
        now = time.time()
        return {
            "files": [
                file.card() | {"sha256": hashlib.sha256(file.content).hexdigest(), "deleted": file.deleted}
                for file in self.all_files.values()
            ],
            "tunings": [
                tuning.card(now) | {"commands": [command for _at, command in tuning.commands]}
                for tuning in self.tunings.values()
            ],
            "batches": [batch.card() for batch in self.batches.values()],
            "backgrounds": [background.card(now) for background in self.backgrounds.values()],
        }

    def clear(self) -> None:
        """Empty, on disk as well."""
        self.all_files, self.tunings, self.batches, self.backgrounds, self._going_on = {}, {}, {}, {}, {}
        self._queued, self._touched = {}, {}
        self.contents.clear()
        if self._file is not None:
            self._file.truncate(0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self.contents.close()
