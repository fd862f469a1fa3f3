"""Whatever a child does, its parent goes on in time, and runs nothing of what it sends."""

import os
import struct
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.waiting import limit
from tidemill.models.child import Child
from tidemill.models.errors import TidemillError

ECHO = """
from tidemill.models.child import Parent, limit_memory
parent = Parent(600)
parent.say_ready()
while True:
    head, body = parent.receive()
    parent.send(head, body)
"""


@pytest.fixture
def echo() -> Iterator[Child]:
    child = Child(ECHO)
    child.wait_until_ready()
    yield child
    child.end()


def exchanged(child: Child, head: object, body: bytes = b"") -> tuple[object, bytes]:
    child.send(head, body, seconds=limit())
    return child.receive(limit())


def test_values_and_bytes_come_back_as_they_were(echo: Child) -> None:
    for head in (None, "", "a\0\ud800 \u202e", [1, 2.5, {"deep": [True]}], 2**70):
        assert exchanged(echo, head) == (head, b"")
    content = os.urandom(3_000_000)
    assert exchanged(echo, "more than a pipe holds", content) == ("more than a pipe holds", content)


@pytest.mark.parametrize("stray", ["print('noise', flush=True)", "import os; os.write(1, b'noise')"])
def test_what_a_library_prints_spoils_nothing(stray: str) -> None:
    child = Child(ECHO.replace("while", f"{stray}\nwhile", 1))
    child.wait_until_ready()
    assert exchanged(child, [1]) == ([1], b"")
    child.end()


def sends(content: bytes) -> Child:
    return Child(f"import os, time; os.write(1, {content!r}); time.sleep(600)")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("!II", 2**32 - 1, 2**32 - 1),
        struct.pack("!II", 100, 2**31),
        struct.pack("!II", 3, 0) + b"not",
        struct.pack("!II", 0, 0),
        struct.pack("!II", 2, 0) + b"\xff\xfe",
        struct.pack("!II", 60_000, 0) + b"[" * 60_000,
        struct.pack("!II", 40_000, 0) + b"9" * 40_000,
    ],
    ids=["huge", "huge body", "no JSON", "empty", "no text", "deep", "long number"],
)
def test_a_frame_that_is_none_ends_its_child(content: bytes) -> None:
    child = sends(content)
    before = psutil.Process().memory_info().rss
    with pytest.raises(EOFError):
        child.receive(limit())
    assert not child.is_alive
    assert psutil.Process().memory_info().rss - before < 50_000_000


@pytest.mark.parametrize("content", [b"", b"\0\0", struct.pack("!II", 2, 9) + b"[]and"], ids=["none", "part", "short"])
def test_a_frame_that_does_not_end_is_waited_for_no_longer_than_agreed(content: bytes) -> None:
    child = sends(content)
    with pytest.raises(TimeoutError):
        child.receive(0.5)
    assert not child.is_alive


def test_nobody_waits_for_a_child_that_reads_nothing() -> None:
    child = Child("import time; time.sleep(600)")
    with pytest.raises(TimeoutError):
        child.send("", bytes(10_000_000), seconds=0.5)
    assert not child.is_alive


@pytest.mark.parametrize("code", ["", "import os; os.abort()", "1/0"], ids=["ended", "aborted", "failed"])
def test_a_dead_child_is_noticed_at_once(code: str) -> None:
    child = Child(code)
    began = time.monotonic()
    with pytest.raises(EOFError):
        exchanged(child, "anybody?", bytes(1_000_000))
    assert time.monotonic() - began < limit(30)


def test_killed_by_another_thread_it_lets_go_of_who_waits(echo: Child) -> None:
    echo.kill()
    with pytest.raises(EOFError):
        exchanged(echo, None)


def test_a_child_that_does_not_start_says_how_to_see_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, seconds in (("1/0", limit()), ("import time; time.sleep(600)", 0.5)):
        with pytest.raises(TidemillError, match="this shows why: /"):
            Child(code).wait_until_ready(seconds=seconds)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TidemillError, match="this shows why: /nowhere/python"):
        Child(ECHO)


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize(("before", "spare"), [("", 2**26), (LIMITED, 2**34)], ids=["unlimited", "limited"])
def test_memory_is_limited_also_where_it_is_already(before: str, spare: int) -> None:
    child = Child(before + ECHO.replace("parent.say", f"limit_memory({spare}); parent.say"))
    child.wait_until_ready()
    assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_AS)[1] <= 2**31
    assert exchanged(child, [1]) == ([1], b"")
    child.end()
