"""The council as an agent, under the shipped files of NATS: as `client`, from an account apart, and as two tenants."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.micro import add_service
from nats.micro.service import EndpointConfig, ServiceConfig

from fleet import subjects
from fleet.control.service import agent as served
from tests.support.client.prompting import councils, prompt, sdk
from tests.support.fleets.tenants import A, B, shared
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import natscli
from tests.support.nats.permitted import CLIENTS_APART, PERMISSIONS, permitted, settle
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")

ON = {"agent_protocol": True}
PROMPT = "agents.prompt.council.fleet.default"


async def used(nc: Client) -> None:
    """Finds it, sees that it lives, and gets an answer."""
    async with sdk(nc) as client:
        (council, other) = await councils(client)
        assert council.prompt_subject == other.prompt_subject == PROMPT
        assert (await council.status()).agent == "council"
        assert await client.ping(council.instance_id)
        await until(lambda: client.liveness(council.instance_id) is not None)
        seen = await prompt(council, "Design it", num_agents=2)
        assert (seen.error, seen.statuses[0], bool(seen.text)) == (None, "ack", True)
        assert seen.facts is not None
        assert seen.facts["task_id"] == seen.task_id
        refused = await prompt(council, "Design it", num_agents=100)
        assert refused.error is not None
        assert refused.error.startswith("service error 400")


@pytest.mark.parametrize("file", [PERMISSIONS, CLIENTS_APART], ids=lambda path: path.stem)
async def test_a_client_finds_and_prompts_it(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rights that it has, in the fleet's account and in one of its own; the server refuses nothing."""
    monkeypatch.setattr(served, "BEAT_EVERY_S", 1)
    async with permitted(tmp_path / "server", permissions=file) as users:
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), **names, **ON), users.connected("client") as (nc, refused):
            await used(nc)
            await settle(nc)
            assert refused == []
            await nc.subscribe(PROMPT)
            await settle(nc)
            assert len(refused) == 1  # nobody else answers for it


async def test_the_nats_command_line_prompts_it(tmp_path: Path) -> None:
    """As the page says, and ends by itself."""
    binary = natscli.nats_cli(tmp_path)
    async with permitted(tmp_path / "server") as users:
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), **names, **ON):
            words = ("req", PROMPT, "--wait-for-empty", "--reply-timeout", "30s", "--raw", "Name three risks")
            status, said = await natscli.run(binary, users.url("client"), *words)
    assert status == 0, said
    chunks = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [chunks[0]["data"], chunks[-1]["type"]] == ["ack", "response"]


async def test_a_viewer_finds_it_and_prompts_nothing(tmp_path: Path) -> None:
    async with permitted(tmp_path / "server") as users:
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(whole(users.url("control"), **names, **ON))
            nc, refused = await stack.enter_async_context(users.connected("viewer"))
            (council, _) = await councils(await stack.enter_async_context(sdk(nc)))
            assert (await council.status()).agent == "council"
            await settle(nc)
            assert refused == []
            await nc.publish(PROMPT, b"Design it", reply=nc.new_inbox())
            await settle(nc)
            assert len(refused) == 1


async def test_tenants_find_and_prompt_it_each_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the one subject that it tells everybody; tasks and ids are a tenant's own."""
    monkeypatch.setattr(served, "BEAT_EVERY_S", 1)
    async with shared(tmp_path, **ON) as stage:
        for tenant in (A, B):
            await used(stage[tenant].nc)
            async with sdk(stage[tenant].nc) as client:
                seen = await prompt((await councils(client))[0], f"Of {tenant}", num_agents=1, task_id="same")
            assert (seen.error, seen.task_id) == (None, "same")
            done = await stage[tenant].inbox.next(subjects.COMPLETED, task_id="same")
            assert (done["tenant"], done["task"]["task_description"]) == (tenant, f"Of {tenant}")
        assert [stage[tenant].inbox.of("same") for tenant in (A, B)] == [[subjects.ACCEPTED, subjects.COMPLETED]] * 2
        for tenant in (A, B):
            await settle(stage[tenant].nc)
            assert stage.refused[tenant] == []


async def test_tenants_of_a_fleet_without_it_find_nothing(tmp_path: Path) -> None:
    """At once: what is imported and not there is said by the server."""
    async with shared(tmp_path) as stage, sdk(stage[A].nc) as client:
        assert await client.discover(timeout=1) == []
        with pytest.raises(NoRespondersError):
            await stage[A].nc.request(PROMPT, b"Design it", timeout=WITHIN_S)


async def test_a_tenant_finds_its_own_agents_beside_it(tmp_path: Path) -> None:
    """And prompts none of the fleet's account but the council."""
    async with shared(tmp_path, **ON) as stage:
        nc = stage[A].nc
        own = await add_service(
            nc,
            ServiceConfig(
                name="agents",
                version="1.0.0",
                metadata={"agent": "own", "owner": "a", "session": "s", "protocol_version": "0.3"},
            ),
        )
        subject = "agents.prompt.own.a.s"
        await own.add_endpoint(EndpointConfig(name="prompt", subject=subject, queue_group="agents", handler=_nothing))
        async with sdk(nc) as client, sdk(stage[B].nc) as another:
            await until(lambda: finds(client, "council", "council", "own"))
            await until(lambda: finds(another, "council", "council"))
        with pytest.raises(NoRespondersError):
            await stage[B].nc.request(subject, b"x", timeout=1)


async def finds(client: Any, *names: str) -> bool:
    """Whether these are all. Some may not answer within its second."""
    return sorted(each.agent for each in await client.discover(timeout=1)) == sorted(names)


async def _nothing(_: Any) -> None: ...
