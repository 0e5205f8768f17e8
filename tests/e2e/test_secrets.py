"""A whole fleet with random secrets: each is where it is needed, and nowhere else."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.local import ray_head, ray_remains
from fleet.local.process_titles import descendants, kind_of
from tests.e2e.conftest import environment
from tests.e2e.stub import StubModel
from tests.support.nats.permitted import USERS, Users, permitted
from tests.support.nats.servers import free_ports
from tests.support.secret_scan import in_files, in_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHIN_S = 240
CONTROL = {"dispatcher", "collector", "launcher"}
"""Kinds of processes that are the control plane's."""


class Secrets:
    """One for each user of NATS and each way to a model server."""

    def __init__(self, folder: Path) -> None:
        self.of = {name: f"z{secrets.token_hex(16)}" for name in (*USERS, "model-key", "model-header")}
        self.folder = folder
        folder.mkdir()
        self.files = {folder / name for name in self.of}
        for name, secret in self.of.items():
            (folder / name).write_text(f"{secret}\n")

    @property
    def bytes(self) -> dict[str, bytes]:
        return {name: secret.encode() for name, secret in self.of.items()}

    def path(self, name: str) -> str:
        return str(self.folder / name)


@asynccontextmanager
async def process(log: Path, *module: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as errors:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *module), stdout=asyncio.subprocess.PIPE, stderr=errors, env=environment(**env)
        )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


async def first_line(running: asyncio.subprocess.Process) -> bytes:
    """It says that the process is ready."""
    assert running.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        line = await running.stdout.readline()
    assert line
    return line


async def complete(users: Users, text: str) -> dict[str, Any]:
    body = json.dumps({"task_description": text, "num_agents": 2, "constraints": {"timeout_seconds": 150}}).encode()
    async with users.connected("client") as (nc, _):
        return dict(json.loads((await nc.request("deliberation.ask", body, timeout=160)).data))


async def test_secrets_are_only_where_they_are_needed(tmp_path: Path) -> None:
    """Workers know nothing of the control plane, nor it of models; no command line, log, store or file has any."""
    data = tmp_path / "data"
    data.mkdir()
    own = Secrets(tmp_path / "secrets")
    (ray_port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(StubModel())
        users = await stack.enter_async_context(
            permitted(data / "nats", passwords={user: own.of[user] for user in USERS})
        )
        config = data / "fleet.toml"
        config.write_text(
            f'[endpoints.stub]\nurl = "{stub.url}"\napi_key_file = "{own.path("model-key")}"\n'
            'headers_env = { X-Team = "TEAM_HEADER" }\n'
        )
        shared = {"FLEET_CONFIG": str(config), "RAY_ADDRESS": f"127.0.0.1:{ray_port}"}
        token = ray_head.credentials(data)
        control = {"NATS_URL": users.address, "NATS_USER": "control", "NATS_PASSWORD_FILE": own.path("control")}
        worker = {"NATS_URL": users.url("worker"), "TEAM_HEADER": own.of["model-header"], "FLEET_CONFIG": str(config)}
        stack.callback(ray_remains.end_remains, data)
        head = ("fleet.local.ray_head", str(data), str(ray_port))
        begun = [
            await stack.enter_async_context(process(data / f"{name}.log", *module, **env))
            for name, module, env in (
                ("ray", head, worker),
                ("collector", ("fleet.cli", "collector"), {**shared, "NATS_URL": users.url("control")}),
            )
        ]
        lines = await asyncio.gather(*map(first_line, begun))
        dispatcher = process(data / "dispatcher.log", "fleet.cli", "dispatcher", **shared, **control, **token)
        lines.append(await first_line(await stack.enter_async_context(dispatcher)))
        done = await complete(users, "Design it")
        assert done["status"] == "COMPLETED", done
        assert stub.keys == {f"Bearer {own.of['model-key']}"}

        found = _scan(own)
        sessions = _sessions(data)
        files = in_files(data, own.bytes, own.files) | {
            path: names for session in sessions for path, names in in_files(session, own.bytes, own.files).items()
        }
    assert sessions
    assert files == {}
    assert not [line for line in lines for secret in own.bytes.values() if secret in line]
    assert found == []


def _scan(own: Secrets) -> list[str]:
    """What is where it should not be. Each kind of process has been seen."""
    wrong, seen = [], set()
    in_actors: set[str] = set()
    for each in descendants():
        kind = kind_of(each)
        seen.add(kind)
        places = in_process(each.pid, own.bytes)
        if kind == "actor":  # a process that it just starts has its name, too
            in_actors |= places.get("memory", set())
        for place, names in places.items():
            for name in sorted(names - _allowed(each, kind, place)):
                wrong.append(f"{name} in {place} of {kind} {_command(each)}")
    assert {*CONTROL, "actor", "raylet", "gcs", "nats"} <= seen
    assert {"worker", "model-key", "model-header"} <= in_actors  # what is there is found
    return wrong


def _allowed(process: psutil.Process, kind: str, place: str) -> set[str]:
    if place in ("cmdline", "comm"):
        return set()
    if kind == "nats":
        return set(USERS)
    if kind in CONTROL or _is_below(process, CONTROL):
        return {"control"}
    return {"worker", "model-key", "model-header"}


def _is_below(process: psutil.Process, kinds: set[str]) -> bool:
    try:
        return any(kind_of(parent) in kinds for parent in process.parents())
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:100]
    except psutil.Error:
        return "?"


def _sessions(data: Path) -> set[Path]:
    """Where the Ray of this test keeps its logs."""
    found = set()
    for each in descendants():
        if kind_of(each) in ("raylet", "gcs"):
            for part in each.cmdline():
                before, folder, rest = part.partition("/session_")
                if folder:
                    found.add(Path(f"{before.rpartition('=')[2]}{folder}{rest.split('/')[0]}"))
    return {path for path in found if path.is_dir()}
