"""Why NATS cannot be reached is told apart, by the server and the user, and never with a secret."""

import asyncio
import json
import socket
from pathlib import Path

import pytest
import trustme

from fleet.config import load
from fleet.errors import ConfigError, Unreachable
from fleet.jetstream import connection
from tests.support.client import commands
from tests.support.nats import servers

pytestmark = pytest.mark.usefixtures("nats_binary")

USERS = 'authorization { user: fleet, password: "right-one" }'


async def told(**environ: str) -> str:
    """What somebody reads who connects so."""
    with pytest.raises(Unreachable) as raised:
        await connection.connect(load(environ), "test")
    assert "Traceback" not in str(raised.value)
    assert "secret" not in str(raised.value)
    return str(raised.value)


async def test_a_wrong_password_is_told_from_none(tmp_path: Path) -> None:
    """The user by name; a token by being one."""
    async with servers.one(tmp_path, more=USERS) as server:
        for login, who in (("fleet:secret@", "user 'fleet'"), ("secret-token@", "the token"), ("", "no name")):
            text = await told(NATS_URL=server.url.replace("://", f"://{login}"))
            assert f"NATS at {server.url} refuses" in text
            assert who in text


@pytest.mark.slow
async def test_a_server_that_is_away_is_told_from_a_host_that_is_not() -> None:
    """Neither says anything of passwords."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert "nobody listens there" in await told(NATS_URL=f"nats://u:secret@127.0.0.1:{port}")
        assert "no host of that name" in await told(NATS_URL="nats://u:secret@no-such-host.invalid:4222")
        free.listen()
        assert "silent" in await told(NATS_URL=f"nats://u:secret@127.0.0.1:{port}")


@pytest.mark.parametrize("first", ["silent", "closed"])
async def test_an_address_that_has_just_lost_one_server_is_tried_again(tmp_path: Path, first: str) -> None:
    """It stands for several, as a Service does: the next connection reaches another one."""
    came: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        if len(came) > 1:
            host, port = server.url.removeprefix("nats://").split(":")
            there = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))
        elif first == "closed":
            writer.close()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with servers.one(tmp_path) as server:
        listening = await asyncio.start_server(pass_on, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        nc = await connection.connect(load({"NATS_URL": f"nats://127.0.0.1:{port}"}), "test")
        await nc.flush()
        await nc.close()
        assert len(came) == 3  # let down, tried, made
        listening.close()
        for writer in came:
            writer.close()


def tls(tmp_path: Path, ca: trustme.CA, *, verify: bool) -> str:
    """The configuration of a server."""
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    file, authority = (json.dumps(str(tmp_path / name)) for name in ("server.pem", "ca.pem"))
    verified = f", ca_file: {authority}, verify: true" if verify else ""
    return f"tls {{ cert_file: {file}, key_file: {file}{verified} }}"


async def test_tls_is_told_for_what_is_missing(tmp_path: Path) -> None:
    """The authority, or the client's certificate."""
    ca, other = trustme.CA(), trustme.CA()
    more = tls(tmp_path, ca, verify=True)
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    async with servers.one(tmp_path / "server", more=more) as server:
        url = server.url
        assert "set NATS_CA" in await told(NATS_URL=url, NATS_CA=str(tmp_path / "other.pem"))
        assert "NATS_CERT" in await told(NATS_URL=url, NATS_CA=str(tmp_path / "ca.pem"))
        assert "set NATS_CA" in await told(NATS_URL=url)


@pytest.mark.parametrize(
    ("handshake", "given"), [("false", "false"), ("auto", "false"), ("auto", "true"), ("true", "true")]
)
async def test_tls_may_come_before_the_servers_first_word(tmp_path: Path, handshake: str, given: str) -> None:
    """As the server wants it; and nothing but what was asked for is on the terminal."""
    block = tls(tmp_path, trustme.CA(), verify=False).rstrip("}") + f"\n handshake_first: {handshake}\n}}"
    async with servers.one(tmp_path / "server", more=block) as server:
        url = server.url.replace("nats://", "tls://")
        environ = {"NATS_CA": str(tmp_path / "ca.pem"), "NATS_TLS_FIRST": given}
        _, out, err = await commands.fleet("doctor", "--nats-url", url, "--data-dir", str(tmp_path), **environ)
        assert "JetStream" in out
        assert "eof_received" not in err


async def test_a_server_that_wants_tls_first_is_told(tmp_path: Path) -> None:
    block = tls(tmp_path, trustme.CA(), verify=False).rstrip("}") + "\n handshake_first: true\n}"
    async with servers.one(tmp_path / "server", more=block) as server:
        said = await told(NATS_URL=server.url.replace("nats://", "tls://"), NATS_CA=str(tmp_path / "ca.pem"))
        assert "NATS_TLS_FIRST" in said


def test_tls_first_is_on_or_off() -> None:
    with pytest.raises(ConfigError, match="NATS_TLS_FIRST: expected true or false, got 'perhaps'"):
        load({"NATS_TLS_FIRST": "perhaps"})


async def test_a_server_that_ends_the_connection_in_its_greeting_is_passed_over(tmp_path: Path) -> None:
    """As one does that is being restarted: another one that was named is asked; alone, it is asked once more."""
    greeted: list[int] = []

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted.append(1)
        writer.close()

    ending = await asyncio.start_server(end, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{ending.sockets[0].getsockname()[1]}"
    async with servers.one(tmp_path) as server:
        nc = await connection.connect(load({"NATS_URL": f"{url},{server.url}"}), "test")
        assert nc.is_connected
        await nc.close()
    greeted.clear()
    assert "no NATS server answers" in await told(NATS_URL=url)
    assert len(greeted) == 2
    ending.close()
