"""The recipe for two tenants on a laptop, as the document has it."""

import os
import re
from asyncio.subprocess import create_subprocess_exec
from pathlib import Path

import nats

from fleet import subjects
from fleet.config import load
from fleet.local.nats_server import find_server
from tests.support import agents
from tests.support.fleets.control_plane import client_on, running
from tests.support.nats.servers import free_ports
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
BEGIN, SERVER = "mkdir two", "nats-server -c two/server.conf &"


async def test_the_recipe_makes_two_tenants_and_one_user_who_may_do_everything(tmp_path: Path) -> None:
    """Its files, a server that reads them, a fleet with the recipe's settings, and both tenants' answers."""
    (block,) = (
        text
        for text in re.findall(r"^```console\n(.*?)^```$", (ROOT / "deploy/README.md").read_text(), re.M | re.S)
        if text.startswith(BEGIN)
    )
    (port,) = free_ports(1)
    files, _, up = block.replace("4333", str(port)).partition(SERVER)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    path = f"{find_server().parent}:{os.environ['PATH']}"
    script = f"{files}exec {SERVER.removesuffix(' &')}"
    server = await create_subprocess_exec("bash", "-euc", script, cwd=tmp_path, env={**os.environ, "PATH": path})
    try:
        at = re.findall(r"NATS_URL=(\S+)", up)[0]
        await until(lambda: _answers(at), not_yet=(OSError, nats.errors.Error))
        settings = load({"FLEET_CONFIG": str(tmp_path / "two" / "fleet.toml")})
        async with running(at, agents.answer, tenants=settings.tenants) as fleet:
            for tenant in settings.tenants:
                nc = await nats.connect(f"nats://{tenant}:laptop@127.0.0.1:{port}")
                client = await client_on(nc)
                _, answer = await client.ask(subjects.ASK, {"task_description": "Design it", "num_agents": 1})
                assert (answer["status"], answer["tenant"]) == ("COMPLETED", tenant)
                await nc.close()
            assert not fleet.inbox.events  # they are the tenants' own
    finally:
        server.terminate()
        await server.wait()


async def _answers(url: str) -> bool:
    await (await nats.connect(url, max_reconnect_attempts=0)).close()
    return True
