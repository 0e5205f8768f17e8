"""A Ray whose control plane dies: on a local fleet it is started again, a foreign one is waited for."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import nats
import psutil
import pytest

from fleet.local import ray_head, ray_remains
from fleet.local.nats_server import find_server
from fleet.local.ports import free_port
from tests.e2e.conftest import Up, environment, start, stop
from tests.e2e.stub import StubModel
from tests.support.waiting import until

pytestmark = pytest.mark.slow

WITHIN_S = 90


def family(pid: int, name: str) -> set[int]:
    """Descendants of `pid` whose name, or title, begins with `name`."""
    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        try:
            titles = (process.name(), *process.cmdline()[:1])
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if any(title.startswith(name) for title in titles):
            found.add(process.pid)
    return found


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
async def test_a_local_ray_that_lost_a_part_is_started_again(up: Up, part: str) -> None:
    """The old actors are gone, new ones take the calls, and are themselves started again."""
    pid = up.process.pid
    old = family(pid, "ray::WorkerActor")
    assert old
    (victim,) = family(pid, part)
    psutil.Process(victim).kill()
    assert (await up.result(await up.request(rounds=0)))["status"] == "COMPLETED"
    await until(lambda: len(family(pid, "ray::WorkerActor") - old) == len(old))
    assert not old & set(psutil.pids())
    for actor in family(pid, "ray::WorkerActor"):
        psutil.Process(actor).kill()
    assert (await up.result(await up.request(rounds=0)))["status"] == "COMPLETED"
    assert up.process.returncode is None


async def test_a_local_fleet_hands_its_credentials_to_its_workers(tmp_path: Path, stub: StubModel) -> None:
    """By the environment of its Ray: no actor is given them. NATS wants a password here, the model a key."""
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        str(find_server()),
        "-js",
        "-sd",
        str(tmp_path),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "--user",
        "u",
        "--pass",
        "pw",
    )
    try:
        given = {"NATS_URL": f"nats://u:pw@127.0.0.1:{port}", "VLLM_URL": stub.url, "VLLM_API_KEY": "key-of-the-model"}
        running = await start(tmp_path / "data", **given)
        assert running.facts["nats_url"] == f"nats://127.0.0.1:{port}"
        assert (await running.result(await running.request(rounds=0)))["status"] == "COMPLETED"
        assert stub.keys == {"Bearer key-of-the-model"}
        assert await stop(running) == 0
    finally:
        server.terminate()
        await server.wait()


@asynccontextmanager
async def running(*module: str, stderr: Any = None, **env: str) -> AsyncIterator[Any]:
    """A process that has printed its first line; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *module), stdout=asyncio.subprocess.PIPE, stderr=stderr, env=environment(**env)
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            assert await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_foreign_ray_that_is_away_turns_the_dispatcher_red_until_it_is_back(
    nats_url: str, tmp_path: Path, stub: StubModel
) -> None:
    """The dispatcher lives on meanwhile: it takes requests, and their calls run once Ray is back."""
    port, health = free_port(), free_port()
    head = ("fleet.local.ray_head", str(tmp_path), str(port))
    settings = {
        "NATS_URL": nats_url,
        "VLLM_URL": stub.url,
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "FLEET_HEALTH_PORT": str(health),
        **ray_head.credentials(tmp_path),
    }

    async def ready(http: aiohttp.ClientSession, wanted: bool) -> list[str]:
        body: dict[str, Any] = {}

        async def is_so() -> bool:
            async with http.get(f"http://127.0.0.1:{health}/readyz") as answer:
                body.update(await answer.json())
            return body["ready"] is wanted

        await until(is_so)
        return list(body["problems"])

    async with aiohttp.ClientSession() as http:
        try:
            async with running(*head) as first:
                collector = {**settings, "FLEET_HEALTH_PORT": ""}
                dispatching = running("fleet.cli", "dispatcher", **settings)
                async with running("fleet.cli", "collector", **collector), dispatching as dispatcher:
                    await ready(http, True)
                    first.kill()
                    await first.wait()
                    ray_remains.end_remains(tmp_path)
                    assert "workers" in await ready(http, False)
                    nc = await nats.connect(nats_url)
                    await nc.request(
                        "deliberation.requested", b'{"task_id": "t", "task_description": "x", "rounds": 0}'
                    )
                    async with running(*head):
                        await ready(http, True)
                        reply = await nc.request(
                            "deliberation.result", b'{"task_id": "t", "wait_seconds": 60}', timeout=60
                        )
                    assert b"COMPLETED" in reply.data
                    assert dispatcher.returncode is None
                    await nc.close()
        finally:
            ray_remains.end_remains(tmp_path)


async def test_one_worker_is_enough_where_ray_has_no_room_for_the_others(
    nats_url: str, tmp_path: Path, stub: StubModel
) -> None:
    """They are told as missing, and launched as soon as there is room."""
    port, health = free_port(), free_port()
    config = tmp_path / "fleet.toml"
    config.write_text(f"[workers]\ncount = 2\nnum_cpus = {os.cpu_count()}\n")
    settings = {
        "NATS_URL": nats_url,
        "VLLM_URL": stub.url,
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "FLEET_CONFIG": str(config),
        "FLEET_HEALTH_PORT": str(health),
        **ray_head.credentials(tmp_path),
    }
    try:
        async with (
            running("fleet.local.ray_head", str(tmp_path), str(port)),
            running("fleet.cli", "dispatcher", **settings),
            aiohttp.ClientSession() as http,
        ):
            async with http.get(f"http://127.0.0.1:{health}/readyz") as answer:
                body = await answer.json()
            assert body == {"ready": True, "problems": [], "details": {"workers": "1 of 2 workers answer"}}
            async with http.get(f"http://127.0.0.1:{health}/healthz") as answer:
                assert answer.status == 200
    finally:
        ray_remains.end_remains(tmp_path)


async def test_a_frozen_actor_is_killed_and_its_call_ends(tmp_path: Path, stub: StubModel) -> None:
    """Another one serves whoever comes meanwhile, and takes over the call."""
    config = tmp_path / "fleet.toml"
    config.write_text("[workers]\ncount = 2\nack_wait_s = 3\n")
    up = await start(tmp_path / "data", VLLM_URL=stub.url, FLEET_CONFIG=str(config))
    try:
        stub.gate.clear()
        task_id = await up.request(rounds=0, num_agents=2)
        await stub.until_open(2)
        actors = family(up.process.pid, "ray::WorkerActor")
        victim = psutil.Process(max(actors, key=lambda pid: len(connections_to(pid, stub.url))))
        victim.suspend()
        stub.gate.set()
        assert (await up.result(await up.request(rounds=0)))["status"] == "COMPLETED"
        assert victim.status() == psutil.STATUS_STOPPED
        assert (await up.result(task_id))["successful_responses"] == 2
        await until(lambda: not psutil.pid_exists(victim.pid))
        await until(lambda: len(family(up.process.pid, "ray::WorkerActor")) == len(actors))
    finally:
        assert await stop(up) == 0


async def test_an_actor_that_is_told_to_end_hands_its_calls_over(tmp_path: Path, stub: StubModel) -> None:
    """By SIGTERM. Ray by itself would let it take further calls, and end with all of them open."""
    config = tmp_path / "fleet.toml"
    config.write_text("[workers]\ncount = 2\nack_wait_s = 3000\n")  # nobody waits for that
    up = await start(tmp_path / "data", VLLM_URL=stub.url, FLEET_CONFIG=str(config))
    try:
        stub.gate.clear()
        task_id = await up.request(rounds=0, num_agents=2)
        await stub.until_open(2)
        actors = family(up.process.pid, "ray::WorkerActor")
        victims = [psutil.Process(pid) for pid in actors if connections_to(pid, stub.url)]
        for victim in victims:
            victim.terminate()
        await until(lambda: not any(map(psutil.pid_exists, (victim.pid for victim in victims))))
        stub.gate.set()
        assert (await up.result(task_id))["successful_responses"] == 2
        await until(lambda: len(family(up.process.pid, "ray::WorkerActor")) == len(actors))
    finally:
        assert await stop(up) == 0


def connections_to(pid: int, url: str) -> list[Any]:
    """Open ones, to the port of `url`."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    return [each for each in psutil.Process(pid).net_connections("tcp") if each.raddr and each.raddr.port == port]


async def test_a_local_ray_starts_where_another_has_run_and_listens_on_loopback_only(tmp_path: Path) -> None:
    """Ray would join what `ray start` has noted, also when that is gone; and would leave its files to everybody."""
    note_of_another_ray(tmp_path)
    port = free_port()
    try:
        async with running("fleet.local.ray_head", str(tmp_path), str(port), RAY_TMPDIR=str(tmp_path)) as head:
            assert listening_on(head.pid) == {"127.0.0.1"}
            assert files_of_ray(tmp_path) == (0o700, 1)
            assert parts_of(head.pid) - {"ray::IDLE"} == {"gcs_server", "raylet", "agent_stand_in.py"}
    finally:
        ray_remains.end_remains(tmp_path)
    assert files_of_ray(tmp_path) is None


async def test_a_local_ray_ends_with_the_process_that_watches_it(tmp_path: Path) -> None:
    """However that one ends: here by SIGKILL, after which it can see to nothing."""
    async with running("fleet.local.ray_head", str(tmp_path), str(free_port())) as head:
        parts = [*family(head.pid, "gcs_server"), *family(head.pid, "raylet")]
        assert len(parts) == 2
        head.kill()
        await until(lambda: not set(parts) & set(psutil.pids()))


async def test_a_local_ray_ends_whose_control_service_listens_no_more(tmp_path: Path) -> None:
    """Told to end, it hangs: the raylet and its workers would follow after a minute, and be started again only then."""
    said = tmp_path / "said"
    with said.open("wb") as stderr:
        async with running("fleet.local.ray_head", str(tmp_path), str(free_port()), stderr=stderr) as head:
            (control,) = family(head.pid, "gcs_server")
            psutil.Process(control).terminate()
            async with asyncio.timeout(WITHIN_S):
                assert await head.wait() == 1
            assert not psutil.pid_exists(control)
    assert said.read_text().splitlines()[-1] == "Ray's control service listens no more"


def parts_of(pid: int) -> set[str]:
    """The names of its descendants; of those that Python runs, their scripts'."""
    commands = [process.cmdline() for process in psutil.Process(pid).children(recursive=True)]
    scripts = [next((part for part in command if part.endswith(".py")), command[0]) for command in commands]
    return {script.rpartition("/")[2] for script in scripts}


def note_of_another_ray(temp_dir: Path) -> None:
    (temp_dir / "ray").mkdir()
    (temp_dir / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")


def files_of_ray(data_dir: Path) -> tuple[int, int] | None:
    """The mode of the folder and the sessions in it; None without one."""
    noted = data_dir / "ray-temp-dir"
    if not noted.exists():
        return None
    folder = Path(noted.read_text())
    return folder.stat().st_mode & 0o777, len(list(folder.glob("ray/session_2*/logs")))


def listening_on(pid: int) -> set[str]:
    """The addresses of a process and its descendants."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
