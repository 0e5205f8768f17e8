"""The `nats` command line against a whole fleet, as users of the shipped permissions."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet import subjects
from fleet.jetstream.payloads import Texts
from tests.support.natscli import nats_cli, run
from tests.support.permitted import Users, permitted
from tests.support.whole_fleet import whole


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


@pytest.mark.parametrize(
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


@pytest.mark.parametrize("words", ["stream rm DELIBERATIONS --force", "kv del deliberations seen --force"])
async def test_what_a_client_may_not_do_ends_with_the_reason(users: Users, binary: Path, words: str) -> None:
    status, out = await run(binary, users.url("client"), *words.split())
    assert status != 0
    assert "violation" in out.lower()


async def test_the_operator_backs_up_the_account_and_restores_it(
    users: Users, binary: Path, tmp_path: Path, nats_binary: None
) -> None:
    """Onto another server, where the result is read by a client."""
    backup = tmp_path / "backup"
    status, out = await run(binary, users.url("operator"), "backup", "account", str(backup), "--force")
    assert (status, "violation" in out.lower()) == (0, False), out
    for kept_in_memory in (subjects.AGENT_PROGRESS_STREAM, f"KV_{subjects.WORKERS_BUCKET}"):
        shutil.rmtree(backup / kept_in_memory, ignore_errors=True)  # of these there is none
    async with permitted(tmp_path / "other") as other:
        status, out = await run(binary, other.url("operator"), "backup", "restore", "account", str(backup))
        assert (status, "violation" in out.lower()) == (0, False), out
        status, out = await run(binary, other.url("client"), "kv", "get", subjects.BUCKET, "seen", "--raw")
        assert (status, "COMPLETED" in out) == (0, True), out
