"""Whatever is created at the provider is created once, for an owner that need not be a job at all."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Connection, update

from tests.conftest import UseEnvironment
from tidemill.models.clock import now_after
from tidemill.models.creations import Creation, LostError, Owner, Place, load
from tidemill.models.database import reading, writing
from tidemill.models.json_types import RemoteObject
from tidemill.models.provider import CallError, Provider
from tidemill.models.settings import settings
from tidemill.models.tables import creations as table
from tidemill.simulator import Simulator
from tidemill.worker import creations
from tidemill.worker.creations import LookError, Recipe, Result

LINE = b'{"messages":[{"role":"user","content":"Why?"},{"role":"assistant","content":"Because."}]}\n'
JOBS = "/fine_tuning/jobs"
CREATE = "POST /v1/fine_tuning/jobs"
LIST = "GET /v1/fine_tuning/jobs"
UPLOAD = "POST /v1/files"


class DiedError(BaseException):
    """Stands for kill -9: nothing in the worker may catch it."""


@dataclass
class Upstream:
    """A toy of an owner: it has a key and a flag, and one costly thing at the provider for each round."""

    key: str = "upstream 1"
    is_owned: bool = True
    is_wanted: bool = True
    may_call: bool = True
    round: int = 1
    kept: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    path: str = ""
    """Put before every path: another one than the server has, and it knows no endpoint."""

    def check(self, _: Connection) -> None:
        if not self.is_owned:
            raise LostError

    def keep(self, _: Connection, remote: RemoteObject) -> None:
        self.kept.append(str(remote["id"]))

    async def end(self, provider: Provider, remote: RemoteObject) -> None:
        await provider.post(f"{JOBS}/{remote['id']}/cancel", {})
        self.ended.append(str(remote["id"]))

    def file(self, provider: Provider) -> Recipe:
        async def send(token: str) -> RemoteObject:
            return await provider.upload(f"{token}.jsonl", LINE * 12)

        async def find(token: str) -> AsyncIterator[RemoteObject]:
            async for page in provider.pages(f"{self.path}/files"):
                for each in page:
                    if each["filename"] == f"{token}.jsonl":
                        yield each

        return Recipe(Owner(self.key, self.check), Place("file", 0), send, find, self.keep, is_harmless=True)

    def batch(self, provider: Provider) -> Recipe:
        async def send(token: str) -> RemoteObject:
            body = {"model": "gpt-4.1-mini", "training_file": self.file_id, "metadata": {self.key: token}}
            return await provider.post(JOBS, body)

        async def find(token: str) -> AsyncIterator[RemoteObject]:
            async for page in provider.pages(f"{self.path}{JOBS}"):
                for each in page:
                    if each["metadata"].get(self.key, token) == token:  # one without a token may be it as well
                        yield each

        return Recipe(Owner(self.key, self.check), Place("batch", self.round), send, find, self.keep)

    def known(self) -> dict[Place, Creation]:
        with reading() as connection:
            return load(connection, self.key)

    @property
    def creation(self) -> Creation:
        return self.known()[Place("batch", self.round)]

    @property
    def file_id(self) -> str | None:
        return self.known()[Place("file", 0)].remote_id


Make = Callable[[Provider], Recipe]


def run(act: Callable[[Provider], Any]) -> Any:
    """Let something act with a provider of its own, as a new worker would."""

    async def once() -> Any:
        configured = settings()
        provider = Provider(
            base_url=configured.openai_base_url,
            api_key=configured.openai_api_key,
            transport="http",
            timeout_seconds=5,
            connections=2,
        )
        try:
            return await act(provider)
        finally:
            await provider.aclose()

    return asyncio.run(once())


def create(owner: Upstream, make: Make) -> Result:
    """One try; raises what it raises."""

    async def once(provider: Provider) -> Result:
        return await creations.create(
            make(provider), owner.known(), is_wanted=owner.is_wanted, may_call=lambda: owner.may_call
        )

    result: Result = run(once)
    return result


def create_in_the_end(owner: Upstream, make: Make, most: int = 60) -> None:
    """Try until it is there, as a queue would that is told of failed calls."""
    for _ in range(most):
        try:
            if create(owner, make) == "created":
                return
        except (CallError, LookError):
            continue
    raise AssertionError(f"it is not there after {most} tries: {owner.known()}")


def end_duplicates(owner: Upstream, age_seconds: float = 0.0) -> None:
    async def once(provider: Provider) -> None:
        await creations.end_duplicates(
            owner.batch(provider),
            owner.known(),
            age_seconds=age_seconds,
            end=lambda remote: owner.end(provider, remote),
        )

    run(once)


def age(seconds: float) -> None:
    """Let what is in doubt be so for this time."""
    with writing() as connection:
        connection.execute(update(table).where(table.c.sent_at.is_not(None)).values(sent_at=now_after(-seconds)))


@pytest.fixture
def provider(database: str, simulator: Simulator, use_environment: UseEnvironment) -> Simulator:
    """The simulator, and a doubt of a minute."""
    use_environment({"OPENAI_BASE_URL": simulator.url, "OPENAI_API_KEY": "test-key", "TIDEMILL_DOUBT_SECONDS": "60"})
    simulator.control(tuning_seconds=60)
    return simulator


@pytest.fixture
def owner(provider: Simulator) -> Upstream:
    """An owner whose file is there already."""
    upstream = Upstream()
    assert create(upstream, upstream.file) == "created"
    upstream.kept.clear()
    return upstream


def made_late(provider: Simulator, owner: Upstream, **metadata: str) -> str:
    """What an earlier request makes after all, without any trouble; returns its id."""
    provider.control(scripts={})
    body = {"model": "gpt-4.1-mini", "training_file": owner.file_id, "metadata": metadata}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{provider.url}{JOBS}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return str(json.load(reply)["id"])


def test_it_is_created_recorded_and_kept_with_its_token(provider: Simulator, owner: Upstream) -> None:
    assert create(owner, owner.batch) == "created"
    (made,) = provider.tunings()
    assert owner.creation == Creation(made["metadata"][owner.key], made["id"], None, 1)
    assert owner.kept == [made["id"]]


def test_what_is_kept_is_written_with_the_record_or_not_at_all(
    provider: Simulator, owner: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise DiedError

    with monkeypatch.context() as patched, pytest.raises(DiedError):
        patched.setattr(owner, "keep", die)
        create(owner, owner.batch)
    assert owner.creation.remote_id is None
    assert owner.creation.doubt_seconds is not None
    assert create(owner, owner.batch) == "created"
    assert owner.kept == [made["id"] for made in provider.tunings()]


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("step", ["file", "batch"])
def test_a_worker_that_dies_before_it_writes_creates_nothing_twice(
    provider: Simulator, owner: Upstream, use_environment: UseEnvironment, monkeypatch: pytest.MonkeyPatch,
    step: str, at: int,
) -> None:  # fmt: skip
    """`at` counts the writes; the process ends instead of making that one."""
    use_environment({"TIDEMILL_DOUBT_SECONDS": "0"})
    upstream = Upstream("upstream 2") if step == "file" else owner
    make: Make = getattr(upstream, step)
    written, real = 0, creations.write

    async def die_at(act: Any, *arguments: Any) -> Any:
        nonlocal written
        written += 1
        if written == at + 1:
            raise DiedError
        return await real(act, *arguments)

    with monkeypatch.context() as patched, pytest.raises(DiedError):
        patched.setattr(creations, "write", die_at)
        create(upstream, make)
    create_in_the_end(upstream, make)
    assert set(provider.files_by_name().values()) == {1}
    assert len(provider.files()) == (2 if step == "file" else 1)
    assert len(provider.tunings()) == (0 if step == "file" else 1)


@pytest.mark.parametrize("route", [UPLOAD, CREATE])
@pytest.mark.parametrize("fault", ["reset_after*1", "cut*1"])
def test_what_was_created_although_its_reply_was_lost_is_adopted(
    provider: Simulator, owner: Upstream, route: str, fault: str
) -> None:
    provider.control(scripts={route: f"!!{fault}"})
    upstream = Upstream("upstream 2") if route == UPLOAD else owner
    make: Make = upstream.file if route == UPLOAD else upstream.batch
    with pytest.raises(CallError):
        create(upstream, make)
    assert create(upstream, make) == "created"
    made = provider.files()[1:] if route == UPLOAD else provider.tunings()
    assert [each["id"] for each in made] == upstream.kept
    assert [creation.sends for creation in upstream.known().values()] == [1] * len(upstream.known())


@pytest.mark.parametrize("fault", ["reset", "500", "503", "408", "409"])
def test_what_may_still_turn_up_is_not_asked_for_again_before_its_time(
    provider: Simulator, owner: Upstream, fault: str
) -> None:
    provider.control(scripts={CREATE: f"!!{fault}*1"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    for _ in range(2):
        assert (create(owner, owner.batch), provider.tunings()) == ("in doubt", [])
    age(61.0)
    assert create(owner, owner.batch) == "created"
    assert (owner.creation.sends, len(provider.tunings())) == (2, 1)


def test_what_was_long_under_way_is_looked_for_as_long_as_all_else(
    provider: Simulator, owner: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reply is lost only now, and a list may not show yet what was created by it."""
    provider.control(scripts={CREATE: "!!reset_after*1"}, list_lag_seconds=3600)
    post = Provider.post

    async def for_an_hour(self: Provider, *arguments: Any) -> Any:
        await asyncio.to_thread(age, 3600.0)
        return await post(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(CallError):
        patched.setattr(Provider, "post", for_an_hour)
        create(owner, owner.batch)
    doubt = owner.creation.doubt_seconds
    assert doubt is not None and doubt < 3600
    assert (owner.creation.sends, len(provider.tunings())) == (1, 1)


def test_what_turns_up_while_it_is_in_doubt_is_adopted(provider: Simulator, owner: Upstream) -> None:
    provider.control(scripts={CREATE: "!!reset*1"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    assert create(owner, owner.batch) == "in doubt"
    late = made_late(provider, owner, **{owner.key: owner.creation.token})
    made_late(provider, owner, **{owner.key: "another's token"})
    assert create(owner, owner.batch) == "created"
    assert (owner.creation.remote_id, owner.creation.sends) == (late, 1)


@pytest.mark.parametrize("fault", ["429", "402", "422", "badkey"])
def test_after_a_refusal_there_is_no_doubt(provider: Simulator, owner: Upstream, fault: str) -> None:
    provider.control(scripts={CREATE: f"!!{fault}*1", LIST: "!!500*9"})  # a look would fail
    with pytest.raises(CallError):
        create(owner, owner.batch)
    assert (owner.creation.doubt_seconds, owner.creation.sends) == (None, 0)
    assert create(owner, owner.batch) == "created"
    assert len(provider.tunings()) == 1


def test_a_server_that_was_not_reached_leaves_no_doubt(
    provider: Simulator, owner: Upstream, use_environment: UseEnvironment
) -> None:
    use_environment({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    assert owner.creation.doubt_seconds is None


def test_who_may_not_call_any_more_sends_nothing_and_leaves_no_doubt(provider: Simulator, owner: Upstream) -> None:
    owner.may_call = False
    assert create(owner, owner.batch) == "not now"
    assert (owner.creation.doubt_seconds, owner.creation.sends, provider.tunings()) == (None, 0, [])
    owner.may_call = True
    assert create(owner, owner.batch) == "created"


def test_who_has_lost_the_owner_sends_nothing(provider: Simulator, owner: Upstream) -> None:
    owner.is_owned = False
    with pytest.raises(LostError):
        create(owner, owner.batch)
    assert (provider.tunings(), list(owner.known())) == ([], [Place("file", 0)])


def test_what_nobody_wants_is_not_created_but_adopted_where_it_is(provider: Simulator, owner: Upstream) -> None:
    owner.is_wanted = False
    assert (create(owner, owner.batch), provider.tunings()) == ("unwanted", [])
    provider.control(scripts={CREATE: "!!reset_after*1"})
    owner.is_wanted = True
    with pytest.raises(CallError):
        create(owner, owner.batch)
    owner.is_wanted = False
    assert create(owner, owner.batch) == "created"


def test_a_look_that_fails_leaves_the_doubt(provider: Simulator, owner: Upstream) -> None:
    provider.control(scripts={CREATE: "!!reset_after*1", LIST: "!!500*2"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    for _ in range(2):
        with pytest.raises(LookError) as failed:
            create(owner, owner.batch)
        assert failed.value.error.status == 500
    assert create(owner, owner.batch) == "created"
    assert len(provider.tunings()) == 1


def test_where_nothing_is_listed_only_what_is_harmless_is_sent_again(provider: Simulator, owner: Upstream) -> None:
    provider.control(scripts={CREATE: "!!reset_after*1", UPLOAD: "!!reset_after*1"})
    other = Upstream("upstream 2", path="/nothing")
    with pytest.raises(CallError):
        create(other, other.file)
    assert create(other, other.file) == "in doubt"
    age(61.0)
    assert create(other, other.file) == "created"
    owner.path = "/nothing"
    with pytest.raises(CallError):
        create(owner, owner.batch)
    assert create(owner, owner.batch) == "in doubt"  # one 404 is no proof that there is no list
    age(61.0)
    for _ in range(2):
        assert create(owner, owner.batch) == "unknown"
    assert len(provider.tunings()) == 1


def test_what_an_earlier_round_created_is_not_adopted_by_the_next(provider: Simulator, owner: Upstream) -> None:
    provider.control(scripts={CREATE: "!!reset*1"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    made_late(provider, owner, another="which is not the token")
    assert create(owner, owner.batch) == "created"  # where servers drop the token, that is the only one
    first = owner.creation.remote_id
    owner.round = 2
    provider.control(scripts={CREATE: "!!503*1"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    assert create(owner, owner.batch) == "in doubt"
    age(61.0)
    assert create(owner, owner.batch) == "created"
    assert owner.creation.remote_id != first
    assert len(provider.tunings()) == 2


def test_a_late_duplicate_is_ended_and_nothing_else(provider: Simulator, owner: Upstream) -> None:
    assert create(owner, owner.batch) == "created"
    owner.round = 2
    provider.control(scripts={CREATE: "!!reset*1"})
    with pytest.raises(CallError):
        create(owner, owner.batch)
    age(61.0)
    assert create(owner, owner.batch) == "created"
    end_duplicates(owner)
    assert owner.ended == []
    late = made_late(provider, owner, **{owner.key: owner.creation.token})
    made_late(provider, owner, **{owner.key: "another's token"})
    end_duplicates(owner, age_seconds=creations.DUPLICATE_SECONDS + 1)
    assert owner.ended == []
    end_duplicates(owner)
    assert owner.ended == [late]
    assert [made["id"] for made in provider.tunings() if made["status"] == "cancelled"] == [late]


def test_nobody_looks_for_duplicates_of_what_was_sent_once(provider: Simulator, owner: Upstream) -> None:
    provider.control(scripts={LIST: "!!500*9"})
    assert create(owner, owner.batch) == "created"
    made_late(provider, owner, **{owner.key: owner.creation.token})
    end_duplicates(owner)
    assert owner.ended == []


@pytest.mark.parametrize(("fault", "passes"), [("500*1", True), ("422*1", False)])
def test_looking_for_duplicates_is_repeated_where_that_may_help(
    provider: Simulator, owner: Upstream, fault: str, passes: bool
) -> None:
    assert create(owner, owner.batch) == "created"
    with writing() as connection:
        connection.execute(update(table).values(sends=2))
    provider.control(scripts={LIST: f"!!{fault}"})
    if passes:
        with pytest.raises(CallError):
            end_duplicates(owner)
    else:
        end_duplicates(owner)
    assert owner.ended == []
