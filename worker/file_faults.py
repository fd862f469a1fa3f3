"""What a provider finds wrong with a file of examples leads to the user's own rows."""

import asyncio
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

from tidemill.models import fine_tunes
from tidemill.models.database import reading
from tidemill.models.fine_tunes import FILES, FineTune, Step
from tidemill.models.provider import CallError, Provider

_REFUSED = ("error", "failed", "invalid")
"""Statuses of a file that cannot be trained on."""


class Files(NamedTuple):
    """The files of a train job, here and at the provider."""

    provider: Provider
    tune: FineTune
    dataset_id: str


async def of_creation(files: Files, error: CallError) -> list[str]:
    """Sentences about the files of a job, one of which was refused, or the job's creation, with this error."""
    tune = files.tune
    if tune.remote_id is not None:
        return []
    missing = [each for each in FILES if each in tune.files and tune.created_id(each) is None]
    is_validation = "validation" in f"{error.param} {error.message}".lower()
    file = missing[0] if missing else FILES[is_validation]  # what is missing could not be uploaded
    return await rows(files, file, error.message) or await refused(files)


async def refused(files: Files) -> list[str]:
    """Sentences about those files that the provider has and refuses, and the user's own rows that it names."""
    sentences: list[str] = []
    for file in FILES:
        if (file_id := files.tune.created_id(file)) is None:
            continue
        with suppress(CallError):  # it is only to say more
            remote = await files.provider.fetch(f"/files/{quote(file_id, safe='')}")
            details = str(remote.get("status_details") or "no details").rstrip(" .")
            if str(remote.get("status")).lower() in _REFUSED:
                sentences.append(f"The provider refuses the {file} file: {details}.")
                sentences += await rows(files, file, details)
    return sentences


async def rows(files: Files, file: Step, message: str) -> list[str]:
    """Sentences that lead from the lines of a file in the provider's message to the user's own rows."""
    return await asyncio.to_thread(_read_rows, files.dataset_id, file, message)


def _read_rows(dataset_id: str, file: Step, message: str) -> list[str]:
    with reading() as connection:
        return fine_tunes.rows_of(connection, dataset_id, file, message)
