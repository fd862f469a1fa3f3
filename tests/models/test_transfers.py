"""Files pass through in pieces, over either transport, and a file on disk is whole or not there."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from pydantic import SecretStr

from tests.waiting import limit
from tidemill.models.provider import CallError, Provider
from tidemill.models.transfers import TransferError, transfer_seconds
from tidemill.models.transports import TRANSPORTS
from tidemill.simulator import Simulator

if TYPE_CHECKING:
    from tidemill.models.options import Transport

MB = 2**20
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(key=KEY) as sim:
        yield sim


@pytest.fixture
def sim(running: Simulator) -> Simulator:
    running.reset()
    return running


@pytest.fixture(params=TRANSPORTS)
async def provider(request: pytest.FixtureRequest, sim: Simulator) -> AsyncIterator[Provider]:
    transport: Transport = request.param
    opened = Provider(
        base_url=sim.url, api_key=SecretStr(KEY), transport=transport, timeout_seconds=0.001, connections=2
    )  # the limit of calls is not that of transfers
    yield opened
    await opened.aclose()


@contextmanager
def growth_of_memory() -> Iterator[Callable[[], float]]:
    """How many MB this process has held at most on top of what it held before."""
    process, ended = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: (most - before) / MB
    finally:
        ended.set()
        watcher.join()


async def test_a_file_goes_up_and_comes_back_without_being_held_in_memory(provider: Provider, tmp_path: Path) -> None:
    source, target, sent, received = tmp_path / "lines.jsonl", tmp_path / "back.jsonl", list[int](), list[int]()
    source.write_bytes(b"{}\n")
    await provider.upload_file("warm.jsonl", source, "batch")
    source.write_bytes(os.urandom(MB) * 40)
    with growth_of_memory() as growth:
        file = await provider.upload_file("tide mill ü.jsonl", source, "batch", on_bytes=sent.append)
        size = await provider.download(str(file["id"]), target, on_bytes=received.append)
        assert growth() < 20
    assert (file["bytes"], file["filename"], file["purpose"]) == (40 * MB, "tide mill ü.jsonl", "batch")
    assert size == sent[-1] == received[-1] == 40 * MB
    assert sent == sorted(sent)
    assert target.read_bytes() == source.read_bytes()
    assert await provider_deletes(provider, str(file["id"]))


async def provider_deletes(provider: Provider, file_id: str) -> bool:
    provider._timeout_seconds = limit()
    deleted = (await provider.delete(f"/files/{file_id}"))["deleted"] is True
    with pytest.raises(CallError, match="No such File"):
        await provider.fetch(f"/files/{file_id}")
    return deleted


@pytest.mark.parametrize("script", ["!!cut", "!!reset", "!!reset_after", "!!500", "!!404"])
async def test_a_download_that_fails_leaves_the_file_as_it_was(
    sim: Simulator, provider: Provider, tmp_path: Path, script: str
) -> None:
    source, target = tmp_path / "lines.jsonl", tmp_path / "back.jsonl"
    source.write_bytes(b"0123456789\n" * 100_000)
    target.write_bytes(b"before")
    file_id = str((await provider.upload_file("a.jsonl", source, "batch"))["id"])
    sim.control(scripts={"GET /v1/files/{id}/content": script})
    with pytest.raises(CallError) as failed:
        await provider.download(file_id, target)
    kinds = {"!!cut": "cut", "!!reset": "reset", "!!reset_after": "reset"}
    assert failed.value.kind == kinds.get(script, "status")
    assert KEY not in str(vars(failed.value))
    assert target.read_bytes() == b"before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["back.jsonl", "lines.jsonl"]


async def test_an_upload_is_refused_before_its_end(sim: Simulator, provider: Provider, tmp_path: Path) -> None:
    source = tmp_path / "lines.jsonl"
    source.write_bytes(bytes(20 * MB))
    sim.control(most_upload_bytes=MB)
    with pytest.raises(CallError) as failed:
        await provider.upload_file("a.jsonl", source, "batch")
    assert (failed.value.kind, failed.value.status) in {("status", 413), ("reset", None)}
    assert sim.files() == []


async def test_a_slow_transfer_has_a_limit_of_its_own(sim: Simulator, provider: Provider, tmp_path: Path) -> None:
    source = tmp_path / "lines.jsonl"
    source.write_bytes(bytes(4 * MB))
    sim.control(upload_bytes_per_second=MB // 4)
    with pytest.raises(CallError, match=r"within 0\.2 s") as failed:
        await provider.upload_file("a.jsonl", source, "batch", seconds=0.2)
    assert failed.value.kind == "timeout"
    assert transfer_seconds(200_000_000) > 1_800


async def test_what_this_machine_cannot_read_or_write_is_a_sentence(provider: Provider, tmp_path: Path) -> None:
    source = tmp_path / "lines.jsonl"
    source.write_bytes(b"{}\n")
    with pytest.raises(TransferError, match="cannot be read: No such file"):
        await provider.upload_file("a.jsonl", tmp_path / "none.jsonl", "batch")
    file_id = str((await provider.upload_file("a.jsonl", source, "batch"))["id"])
    with pytest.raises(TransferError, match="cannot be written: No such file"):
        await provider.download(file_id, tmp_path / "none" / "back.jsonl")


async def test_a_disk_that_gets_full_is_no_fault_of_the_server(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "lines.jsonl"
    source.write_bytes(b"{}\n")
    file_id = str((await provider.upload_file("a.jsonl", source, "batch"))["id"])
    (tmp_path / "full.part").symlink_to("/dev/full")
    with pytest.raises(TransferError, match="full cannot be written: No space left on device"):
        await provider.download(file_id, tmp_path / "full")
    assert not (tmp_path / "full.part").is_symlink()


async def test_a_cancelled_download_leaves_nothing(sim: Simulator, provider: Provider, tmp_path: Path) -> None:
    source = tmp_path / "lines.jsonl"
    source.write_bytes(b"{}\n" * 1000)
    file_id = str((await provider.upload_file("a.jsonl", source, "batch"))["id"])
    sim.control(scripts={"GET /v1/files/{id}/content": "!!drip"}, drip_seconds=60)
    begun = asyncio.Event()
    task = asyncio.create_task(provider.download(file_id, tmp_path / "back", on_bytes=lambda _bytes: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.name for each in tmp_path.iterdir()] == ["lines.jsonl"]
