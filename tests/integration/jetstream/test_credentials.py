"""Servers that let in only whom they know: by password, key or certificate, also after a restart."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import nkeys
import pytest
import trustme

from fleet import subjects
from fleet.chaos.proxy import Proxy
from fleet.client.session import session
from fleet.config import Limits, load
from fleet.control import collector
from fleet.errors import ConfigError, Unreachable
from fleet.jetstream import connection
from tests.support.client import commands
from tests.support.fleets.control_plane import Fleet
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import servers
from tests.support.nats.servers import HOST, Server
from tests.support.waiting import WITHIN_S, until

pytestmark = pytest.mark.usefixtures("nats_binary")

LOGIN = "fleet:p%40ss"
"""As it stands in a URL; the password is `p@ss`."""
USERS = 'authorization { user: fleet, password: "p@ss" }'
OTHERS = 'authorization { user: fleet, password: "another" }'
LIMITS = Limits(replicas=3)


def login(server: Server | Proxy) -> str:
    return server.url.replace("://", f"://{LOGIN}@")


async def completes(fleet: Fleet) -> None:
    """A question is answered, sooner or later: every connection of the fleet took part in that."""

    async def completed() -> bool:
        code, reply = await fleet.ask(subjects.ASK, {"task_description": "Design it", "num_agents": 1})
        return code is None and reply["status"] == "COMPLETED"

    await until(completed, pause_s=0.1, not_yet=(nats.errors.Error,))


async def restarted_in_turn(nodes: list[Server], fleet: Fleet) -> None:
    for node in nodes:
        await completes(fleet)
        await node.stop()
        await completes(fleet)
        await node.start()
        await node.healthy()
    await completes(fleet)


# --- a cluster with passwords -----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_rolling_restart_where_one_server_is_named(tmp_path: Path) -> None:
    """The others are known by what it has told of them, and take the same password."""
    async with servers.three(tmp_path, more=USERS) as nodes, whole(login(nodes[0]), limits=LIMITS) as fleet:
        await restarted_in_turn(nodes, fleet)
        assert [node.refusals for node in nodes] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("advertise", [True, False])
async def test_a_rolling_restart_behind_one_address(tmp_path: Path, advertise: bool) -> None:
    """As a Service of Kubernetes is."""
    async with servers.three(tmp_path, more=USERS, advertise=advertise) as nodes:
        proxy = Proxy(*(node.port for node in nodes))
        await proxy.start()
        async with whole(login(proxy), limits=LIMITS) as fleet:
            await restarted_in_turn(nodes, fleet)
        assert [node.refusals for node in nodes] == [0, 0, 0]
        await proxy.stop()


async def test_a_server_that_refuses_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every connection, those that FastStream reads on included."""
    monkeypatch.setattr("fleet.jetstream.lasting.REFUSED_FOR_S", 3600)
    async with servers.one(tmp_path, more=USERS) as server, whole(login(server)) as fleet:
        await completes(fleet)
        await server.stop()
        server.more = OTHERS
        await server.start()
        await until(lambda: server.refusals >= 40)  # a log does not tell
        await server.stop()
        server.more = USERS
        await server.start()
        await completes(fleet)


# --- credentials that are taken away ----------------------------------------------------------------------------------


async def test_a_component_ends_whose_user_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections are closed for good, and it hears so: a new process has new credentials."""
    monkeypatch.setattr("fleet.jetstream.lasting.REFUSED_FOR_S", 0.0)
    monkeypatch.setattr("fleet.control.recovery.watchdog.PROBE_INTERVAL_S", 3600)
    async with servers.one(tmp_path, more=USERS) as server:
        ready = asyncio.Event()
        running = asyncio.create_task(collector.run(load({"NATS_URL": login(server)}), on_ready=ready.set))
        async with asyncio.timeout(WITHIN_S):
            await ready.wait()
            server.more = OTHERS
            server.reload()
            with pytest.raises(Unreachable, match="closed for good"):
                await running


async def test_a_command_ends_whose_user_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waits for."""
    monkeypatch.setattr("fleet.jetstream.lasting.REFUSED_FOR_S", 0.0)
    async with servers.one(tmp_path, more=USERS) as server:

        async def wait_for_ever() -> None:
            async with session(load({"NATS_URL": login(server)})):
                server.more = OTHERS
                server.reload()
                await asyncio.Event().wait()

        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(Unreachable, match="closed for good"):
                await wait_for_ever()


async def test_a_connection_whose_callback_fails_is_closed(tmp_path: Path) -> None:
    """nats-py would neither reconnect any more nor say so."""

    async def fail() -> None:
        raise ValueError

    async with servers.one(tmp_path) as server:
        nc = await connection.connect(load({"NATS_URL": server.url}), "test", disconnected_cb=fail)
        await server.stop()
        async with asyncio.timeout(WITHIN_S):
            await nc.closed.wait()


# --- keys and certificates --------------------------------------------------------------------------------------------


def with_certificate(directory: Path) -> tuple[str, dict[str, str]]:
    """What the server is configured with, and the fleet."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    for name, issued in (("server", ca.issue_cert(HOST)), ("client", ca.issue_cert("client"))):
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
        for pem in issued.cert_chain_pems:
            pem.write_to_path(directory / f"{name}.pem")
    files = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem"}
    block = "".join(f"  {name}: {json.dumps(str(directory / file))}\n" for name, file in files.items())
    given = {"NATS_CA": "ca.pem", "NATS_CERT": "client.pem", "NATS_KEY": "client.key"}
    return f"tls {{\n{block}  verify: true\n}}", {name: str(directory / file) for name, file in given.items()}


def with_nkey(directory: Path) -> tuple[str, dict[str, str]]:
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (directory / "user.nk").write_bytes(seed)
    user = nkeys.from_seed(bytearray(seed)).public_key.decode()
    return f"authorization {{ users: [{{ nkey: {user} }}] }}", {"NATS_NKEY_SEED_FILE": str(directory / "user.nk")}


@asynccontextmanager
async def guarded(
    directory: Path, guard: Callable[[Path], tuple[str, dict[str, str]]]
) -> AsyncIterator[tuple[Server, Fleet, dict[str, str]]]:
    more, environ = guard(directory)
    async with servers.one(directory / "server", more=more) as server:
        environ = {"NATS_URL": server.url, **environ}
        given = {name.lower(): value for name, value in environ.items() if name != "NATS_URL"}
        async with whole(server.url, **given) as fleet:
            yield server, fleet, environ


async def command(*arguments: str, **environ: str) -> Any:
    """What `fleet … --json` says."""
    _, out, _ = await commands.fleet(*arguments, "--json", **environ)
    return json.loads(out)


@pytest.mark.parametrize("guard", [with_certificate, with_nkey])
async def test_every_part_of_the_fleet_is_let_in(
    tmp_path: Path, guard: Callable[[Path], tuple[str, dict[str, str]]]
) -> None:
    """Also after a restart. Nothing that is deprecated is used: a warning is an error here."""
    async with guarded(tmp_path, guard) as (server, fleet, environ):
        await completes(fleet)
        await server.stop()
        await server.start()
        await completes(fleet)
        assert (await command("ask", "Design it", "--agents", "1", **environ))["status"] == "COMPLETED"
        found = await command("doctor", "--data-dir", str(tmp_path / "data"), **environ)
        assert {"NATS": "ok", "JetStream": "ok"}.items() <= {one["what"]: one["verdict"] for one in found}.items()


@pytest.mark.parametrize("guard", [with_certificate, with_nkey])
async def test_what_is_rotated_in_place_is_used_at_the_next_connection(
    tmp_path: Path, guard: Callable[[Path], tuple[str, dict[str, str]]]
) -> None:
    """By every connection of a fleet: a new authority and its certificates, or a new key. The old ones are refused."""
    async with guarded(tmp_path, guard) as (server, fleet, environ):
        await completes(fleet)
        old = tmp_path / "old"
        shutil.copytree(tmp_path, old, ignore=shutil.ignore_patterns("server"))
        await server.stop()
        server.more, _ = guard(tmp_path)
        await server.start()
        await server.healthy()
        await completes(fleet)
        stolen = {name: value.replace(str(tmp_path), str(old)) for name, value in environ.items()}
        stolen |= {name: value for name, value in environ.items() if name == "NATS_CA"}
        with pytest.raises(Unreachable):
            await connection.connect(load(stolen), "thief")


async def test_half_a_rotation_changes_nothing(tmp_path: Path) -> None:
    """A new certificate without its key, or files that are gone for a moment: the last pair that fitted is shown."""
    more, environ = with_certificate(tmp_path)
    async with servers.one(tmp_path / "server", more=more) as server:
        nc = await connection.connect(load({"NATS_URL": server.url, **environ}), "test")
        key = (tmp_path / "client.key").read_bytes()
        await server.stop()
        for half in (b"", trustme.CA().issue_cert("client").private_key_pem.bytes(), None):
            (tmp_path / "client.key").unlink()
            if half is not None:
                (tmp_path / "client.key").write_bytes(half)
            await server.start()
            await until(lambda: nc.is_connected)
            await server.stop()
            await until(lambda: not nc.is_connected)
            (tmp_path / "client.key").write_bytes(key)
        await nc.close()


async def test_who_has_no_certificate_is_told_so(tmp_path: Path) -> None:
    more, environ = with_certificate(tmp_path)
    async with servers.one(tmp_path / "server", more=more) as server:
        with pytest.raises(Unreachable):
            await connection.connect(load({"NATS_URL": server.url, "NATS_CA": environ["NATS_CA"]}), "test")
    with pytest.raises(ConfigError, match="NATS_CERT"):
        await connection.connect(load({"NATS_CERT": str(tmp_path / "none.pem")}), "test")


async def test_advertised_addresses_are_verified_by_the_name_that_was_given(tmp_path: Path) -> None:
    """Also that of a server which another advertised one has told of."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    file = json.dumps(str(tmp_path / "server.pem"))
    more = f"tls {{ cert_file: {file}, key_file: {file} }}"
    routes = servers.free_ports(3)
    first, second, third = (Server(f"nats-{at}", tmp_path / str(at), routes=routes, more=more) for at in routes)
    settings = load({"NATS_URL": f"nats://localhost:{first.port}", "NATS_CA": str(tmp_path / "ca.pem")})
    try:
        await first.start()
        nc = await connection.connect(settings, "test")
        for server, another in ((first, second), (second, third)):
            await another.start()
            await until(lambda port=another.port: port in {url.port for url in nc.discovered_servers})
            await server.stop()
            await until(lambda port=another.port: nc.is_connected and nc.connected_url.port == port)
        await nc.close()
    finally:
        await asyncio.gather(*(server.kill() for server in (first, second, third)))


# --- what stands in NATS_URL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "given"),
    [
        ("nats://a:4222", ["nats://a:4222"], {}),
        ("a:4222", ["a:4222"], {}),
        ("nats://u:p@a:4222, nats://b:4222", ["nats://a:4222", "nats://b:4222"], {"user": "u", "password": "p"}),
        ("tls://u:p%40%3A%2C@a", ["tls://a"], {"user": "u", "password": "p@:,"}),
        ("u:p/w@d:x@a:4222", ["a:4222"], {"user": "u", "password": "p/w@d:x"}),
        ("nats://t%2Foken@[::1]:4222", ["nats://[::1]:4222"], {"token": "t/oken"}),
    ],
)
def test_the_login_is_taken_out_of_the_url(url: str, hosts: list[str], given: dict[str, str]) -> None:
    """As nats-py takes it, but for the servers that it is told of, too. What a URL cannot hold is escaped there."""
    settings = load({"NATS_URL": url})
    assert connection.servers(settings) == hosts
    assert given.items() <= connection.options(settings).items()
    assert not {"user", "password", "token"} - given.keys() & connection.options(settings).keys()


def test_a_cluster_has_one_login() -> None:
    """The servers that are not named could take only one."""
    with pytest.raises(ConfigError, match="NATS_URL") as raised:
        connection.options(load({"NATS_URL": "nats://u:secret@a, nats://v:secret@b"}))
    assert "secret" not in str(raised.value)


# --- secrets in files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secrets", [{"NATS_USER": "fleet", "NATS_PASSWORD": "p@ss"}, {"NATS_TOKEN": "p@ss"}])
async def test_a_rotated_secret_is_read_again_at_reconnect(tmp_path: Path, secrets: dict[str, str]) -> None:
    """All connections of a fleet go on with the new one, without a restart of theirs."""
    files = {f"{name}_FILE": str(tmp_path / name) for name in secrets}
    for name, value in secrets.items():
        (tmp_path / name).write_text(f"{value}\n")
    guard = (
        'authorization { token: "%s" }' if "NATS_TOKEN" in secrets else 'authorization { user: fleet, password: "%s" }'
    )
    async with servers.one(tmp_path / "server", more=guard % "p@ss") as server:
        given = load({"NATS_URL": server.url, **files})
        more = {name: getattr(given, name) for name in ("nats_user", "nats_password", "nats_token", "secret_files")}
        async with whole(server.url, **more) as fleet:
            await completes(fleet)
            await server.stop()
            for name in secrets:
                if name != "NATS_USER":
                    (tmp_path / name).write_text("another")
            server.more = guard % "another"
            await server.start()
            await server.healthy()
            await completes(fleet)
            assert server.refusals == 0


async def test_a_wrong_secret_is_told_by_the_setting_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cr3t")
    given = {"NATS_USER": "fleet", "NATS_PASSWORD_FILE": str(tmp_path / "password")}
    async with servers.one(tmp_path / "server", more=USERS) as server:
        with pytest.raises(Unreachable, match=r"refuses user 'fleet': .* see NATS_PASSWORD_FILE") as raised:
            await connection.connect(load({"NATS_URL": server.url, **given}), "test")
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"NATS_URL": "nats://u:secret@a", "NATS_TOKEN": "secret"},
        {"NATS_USER": "u"},
        {"NATS_PASSWORD": "secret"},
        {"NATS_USER": "u", "NATS_PASSWORD": "secret", "NATS_TOKEN": "secret"},
    ],
)
def test_two_ways_to_log_in_are_told_apart(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="NATS_") as raised:
        connection.options(load(environ))
    assert "secret" not in str(raised.value)
