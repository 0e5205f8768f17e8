"""The `nats` command line against a whole fleet, as users of the shipped permissions."""

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from fleet import subjects
from fleet.jetstream.payloads import Texts
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.natscli import nats_cli, run
from tests.support.nats.permitted import Users, permitted
from tests.support.variants import some_of
from workers.simulator.server import SimulatorConfig

RUNNING = ("running-0", "running-1", "running-2")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nats_cli(tmp_path_factory.mktemp("natscli"))


@pytest.fixture
async def users(tmp_path: Path, nats_binary: None) -> AsyncIterator[Users]:
    """A deliberation has ended, and a text lies in the store."""
    async with permitted(tmp_path / "nats") as found:
        urls = {"worker_url": found.url("worker"), "client_url": found.url("client")}
        async with whole(found.url("control"), **urls) as fleet:  # type: ignore[arg-type]
            await fleet.request(task_id="seen", num_agents=1, rounds=0)
            await fleet.inbox.next(subjects.COMPLETED, task_id="seen")
            async with found.connected("control") as (nc, _):
                await Texts(nc.jetstream(), nc.max_payload).put("tasks/seen/text", b"a text")
            yield found


@some_of(
    2,
    ("words", "told"),
    [
        ("kv ls", subjects.BUCKET),
        ("kv ls deliberations", "seen"),
        ("kv get deliberations seen --raw", "COMPLETED"),
        ("stream ls", subjects.DELIBERATIONS),
        ("stream info DELIBERATIONS", "deliberation.completed"),
        ("stream get DELIBERATIONS 1", "deliberation.accepted"),
        ("object ls", subjects.TEXTS),
        ("object ls deliberation-texts", "tasks/seen/text"),
        ("sub --stream AGENT_RESPONSES --count 1", "agent.response.completed"),
        ("sub agent.response.completed --last --count 1", "agent.response.completed"),
        ("sub deliberation.completed --all --count 1", "deliberation.completed"),
        ("micro ls", subjects.SERVICE),
        ("req deliberation.result seen --raw", "COMPLETED"),
    ],
)
async def test_what_a_client_looks_at_is_shown(users: Users, binary: Path, words: str, told: str) -> None:
    """At once, and nothing that it needs is refused."""
    status, out = await run(binary, users.url("client"), *words.split())
    assert (status, told in out) == (0, True), out
    assert "violation" not in out.lower()


@some_of(1, "user", ["viewer", "operator"])
async def test_lists_are_shown_to_others(users: Users, binary: Path, user: str) -> None:
    """As to a client: at once, and nothing that they need is refused."""
    lists = {"kv ls": subjects.BUCKET, "stream ls": subjects.DELIBERATIONS, "object ls": subjects.TEXTS}
    for words, told in lists.items():
        status, out = await run(binary, users.url(user), *words.split())
        assert (status, told in out, "violation" in out.lower()) == (0, True, False), (words, out)


@pytest.mark.parametrize("words", ["stream rm DELIBERATIONS --force", "kv del deliberations seen --force"])
async def test_what_a_client_may_not_do_ends_with_the_reason(users: Users, binary: Path, words: str) -> None:
    status, out = await run(binary, users.url("client"), *words.split())
    assert status != 0
    assert "violation" in out.lower()


async def test_the_operator_backs_up_the_account_and_restores_it(
    binary: Path, tmp_path: Path, nats_binary: None
) -> None:
    """As `deploy/README.md` says. Deliberations run meanwhile: each of them ends once, on the other server."""
    names = ("ended", *RUNNING)

    async def by_the_operator(users: Users, *words: str) -> None:
        status, out = await run(binary, users.url("operator"), *words)
        assert (status, "violation" in out.lower()) == (0, False), out

    async with permitted(tmp_path / "first") as users, slow_fleet(users) as fleet:
        await fleet.request(task_id="ended", num_agents=1, rounds=0)
        await fleet.inbox.next(subjects.COMPLETED, task_id="ended")
        for name in RUNNING:
            await fleet.request(task_id=name, num_agents=2)
            await fleet.inbox.next(subjects.ACCEPTED, task_id=name)
        await by_the_operator(users, "backup", "account", str(tmp_path / "backup"), "--force")
        assert not {subjects.COMPLETED, subjects.FAILED} & {*fleet.inbox.of(RUNNING[-1])}
    for kept_in_memory in (subjects.AGENT_PROGRESS_STREAM, f"KV_{subjects.WORKERS_BUCKET}"):
        shutil.rmtree(tmp_path / "backup" / kept_in_memory, ignore_errors=True)  # of these there is none
    async with permitted(tmp_path / "second") as users:
        await by_the_operator(users, "backup", "restore", "account", str(tmp_path / "backup"))
        async with slow_fleet(users) as fleet:
            for name in names:
                _, reply = await fleet.ask(subjects.RESULT, {"task_id": name, "wait_seconds": 25})
                assert reply.get("status") == "COMPLETED", reply
        status, out = await run(binary, users.url("client"), "kv", "get", subjects.BUCKET, "ended", "--raw")
        assert (status, "COMPLETED" in out) == (0, True), out
        async with users.connected("control") as (nc, _):
            assert await ends(nc.jetstream()) == Counter(names)


def slow_fleet(users: Users) -> AbstractAsyncContextManager[Fleet]:
    """Each call takes a second."""
    urls = {"worker_url": users.url("worker"), "client_url": users.url("client")}
    return whole(users.url("control"), SimulatorConfig(latency_ms=1000), **urls)  # type: ignore[arg-type]


async def ends(js: JetStreamContext) -> Counter[str]:
    """How many terminal events the stream holds of each task."""
    found: Counter[str] = Counter()
    for sequence in range(1, (await js.stream_info(subjects.DELIBERATIONS)).state.last_seq + 1):
        msg = await js.get_msg(subjects.DELIBERATIONS, sequence)
        if msg.subject in subjects.TERMINAL:
            found[(msg.headers or {})["Task-Id"]] += 1
    return found
