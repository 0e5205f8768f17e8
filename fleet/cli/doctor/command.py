"""Runs `fleet doctor`: checks what a fleet needs, and says for each finding what to do."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import typer

from fleet import subjects
from fleet.cli import options
from fleet.cli.doctor.dead_letters import letters
from fleet.cli.doctor.findings import Finding, show, some
from fleet.cli.doctor.models import model_servers
from fleet.cli.output import print_json
from fleet.config import Settings, without_userinfo
from fleet.errors import Unreachable
from fleet.exits import Exit
from fleet.jetstream.declaring.permissions import FILE, allowed, denied, granted_to
from fleet.local.data_dir import client_settings, running_on

LEAST_VERSION = (2, 12, 3)
PROBE_WITHIN_S = 5.0
RAY_WITHIN_S = 20.0
LONG_WAIT_S = 60.0
SHOWN = 6
"""Of what this user may not."""


def doctor(
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Look at a fleet and everything it needs, and say what to do about what is wrong.

    NATS, streams, permissions, who serves, what waits, dead letters, Ray; each
    model server is asked for one token. Exit status 1 when a request would not
    be served, 3 when NATS cannot be reached.

    [dim]Example:[/dim]  NATS_URL=nats://nats:4222 VLLM_URL=http://gpu-1:8000 fleet doctor
    """
    settings = client_settings(data_dir, nats_url)
    known = running_on(settings.nats, data_dir)
    findings = asyncio.run(_examine(settings, known))
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        show(findings)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(Exit.UNREACHABLE if findings[0].verdict == "fail" else Exit.FAILED)


async def _examine(settings: Settings, known: dict[str, Any]) -> list[Finding]:
    """NATS first: its finding decides the exit status."""
    rest = asyncio.gather(_ray(settings), model_servers(settings, known))
    try:
        found = [finding async for finding in _nats(settings, known)]
    except BaseException:  # a file of credentials is not there, say
        rest.cancel()
        with suppress(asyncio.CancelledError):
            await rest
        raise
    return [*found, *[finding for group in await rest for finding in group]]


async def _nats(settings: Settings, known: dict[str, Any]) -> AsyncIterator[Finding]:
    from nats.errors import Error

    from fleet.client.connection import ELSEWHERE, has_streams_elsewhere, is_tenants
    from fleet.jetstream.connection import connect

    try:
        nc = await connect(settings, "fleet-doctor")
    except Unreachable as error:
        problem, _, todo = str(error).rpartition(": ")
        yield Finding("fail", "NATS", problem, todo)
        return
    try:
        yield _version(nc)
        granted = await granted_to(nc)
        if (looks := _may_look(granted)) is not None:
            yield looks
            return
        if await has_streams_elsewhere(nc):
            text, _, todo = ELSEWHERE.format(without_userinfo(settings.nats)).partition(": ")
            yield Finding("warn", "streams", text, todo)
            return
        js = nc.jetstream(timeout=PROBE_WITHIN_S)
        try:
            await js.account_info()
        except (Error, TimeoutError):
            if await is_tenants(nc):
                yield Finding("ok", "JetStream", "not for this account, a tenant's: nothing more can be seen from here")
                return
            yield Finding("fail", "JetStream", "does not answer", "add `jetstream {}` to the server's configuration")
            return
        yield Finding("ok", "JetStream", "on")
        yield _durability(settings, known)
        async for finding in _topology(js, settings):
            yield finding
        yield _permissions(granted)
        for finding in await _fleet(nc):
            yield finding
    except (Error, TimeoutError) as error:
        todo = "look again; if it lasts, see the server's log"
        yield Finding("fail", "NATS", f"stopped answering meanwhile ({type(error).__name__})", todo)
    finally:
        with suppress(Exception):
            await nc.close()


def _version(nc: Any) -> Finding:
    version = nc.connected_server_version
    server = f"{nc.connected_url.netloc.rpartition('@')[2]}, version {version.major}.{version.minor}.{version.patch}"
    if (version.major, version.minor, version.patch) < LEAST_VERSION:
        needed = ".".join(map(str, LEAST_VERSION))
        return Finding("fail", "NATS", server, f"use nats-server {needed} or later: scheduled messages need it")
    return Finding("ok", "NATS", server)


def _durability(settings: Settings, known: dict[str, Any]) -> Finding:
    from fleet.local.nats_server import SYNC_INTERVAL

    if known.get("nats_embedded"):
        return Finding("ok", "durability", f"embedded server, sync_interval: {SYNC_INTERVAL}")
    return Finding(
        "warn",
        "durability",
        "how often the server calls fsync cannot be seen over the wire",
        "a single server: set `jetstream { sync_interval: always }`; a cluster: `replicas = 3` under [limits]",
    )


async def _topology(js: Any, settings: Settings) -> AsyncIterator[Finding]:
    from nats.errors import Error
    from nats.js.errors import NotFoundError

    from fleet.jetstream import topology
    from fleet.jetstream.declaring.differences import drift
    from fleet.jetstream.streams import BUCKETS

    declare = "start a dispatcher or a collector once: it declares what is missing"
    missing: list[str] = []
    changed: list[str] = []
    unseen: list[str] = []

    async def look(name: str, info: Any, wanted: Any = None) -> None:
        try:
            existing = await info
        except NotFoundError:
            missing.append(name)
            return
        except (Error, TimeoutError):
            unseen.append(name)
            return
        if wanted is not None and (changes := drift(existing.config, wanted)):
            changed.append(f"{name} ({', '.join(changes)})")

    streams = topology.streams(settings)
    for stream in streams:
        await look(str(stream.name), js.stream_info(stream.name), stream)
    consumers = list(topology.consumers(settings))
    for stream_name, consumer in consumers:
        name = str(consumer.durable_name)
        await look(f"{stream_name}/{name}", js.consumer_info(stream_name, name), consumer)
    for bucket in BUCKETS:
        name = f"{'bucket' if bucket.kind == 'keys' else 'object store'} {bucket.name}"
        await look(name, js.stream_info(bucket.stream))
    if missing:
        yield Finding("fail", "streams", f"missing: {', '.join(missing)}", declare)
    if changed:
        yield Finding("warn", "streams", f"differ from this configuration: {', '.join(changed)}", declare)
    if unseen:
        todo = "may this user look at them? A client need not"
        yield Finding("warn", "streams", f"could not be looked at: {', '.join(unseen)}", todo)
    if not missing and not changed and not unseen:
        yield Finding("ok", "streams", f"{len(streams)} streams, {len(consumers)} consumers, {len(BUCKETS)} buckets")


def _may_look(granted: dict[str, Any] | None) -> Finding | None:
    """NATS answers nothing at all to whoever may not ask."""
    needed = [
        *("$JS.API.INFO", f"$JS.API.STREAM.INFO.{subjects.DELIBERATION_REQUESTS}", f"$SRV.PING.{subjects.SERVICE}"),
        f"$JS.API.CONSUMER.INFO.{subjects.AGENT_REQUESTS}.{subjects.WORKERS}",
    ]
    unseen = [subject for subject in needed if granted is not None and not allowed(granted.get("publish"), subject)]
    if not unseen:
        return None
    text = f"this user may not publish {', '.join(unseen)}: nothing more can be seen"
    return Finding("warn", "permissions", text, "look as the user `operator` (or `control`) of permissions.conf")


def _permissions(granted: dict[str, Any] | None) -> Finding:
    if granted is None:
        todo = "allow publishing to $SYS.REQ.USER.INFO to have them checked"
        return Finding("warn", "permissions", "the server does not say what this user may do", todo)
    missing = denied(granted)
    served = [user for user, lines in missing.items() if not lines]
    if served:
        return Finding("ok", "permissions", f"may do all that these users need: {', '.join(served)}")
    user, fewest = min(missing.items(), key=lambda each: len(each[1]))
    more = f" and {len(fewest) - SHOWN} more" if len(fewest) > SHOWN else ""
    return Finding(
        "warn",
        "permissions",
        f"this user lacks, of what `{user}` needs: {', '.join(fewest[:SHOWN])}{more}",
        f"fine for a client; for `{user}` take these lines from the {FILE} of this version",
    )


async def _fleet(nc: Any) -> list[Finding]:
    """Who serves, and what waits. A request that nobody would serve is a failure."""
    from fleet.cli.doctor import fleet_state
    from fleet.cli.doctor import workers as own_words

    try:
        state = await fleet_state.look(nc)
    except KeyError:  # the streams' finding says so
        return [Finding("fail", "fleet", "none runs here: streams or consumers are missing", "start one: `fleet up`")]
    dispatcher, collector, workers = (state.consumer(name) for name in ("dispatcher", "collector", "workers"))
    findings = [
        _served("dispatcher", dispatcher.served, f"{dispatcher.open:,} requests in hand"),
        _served("collector", collector.served, f"{collector.waiting:,} answers wait, {collector.open:,} in hand"),
        Finding("ok", "service", f"{some(len(state.instances), 'instance')} answer: {', '.join(state.instances)}")
        if state.instances
        else Finding("fail", "service", "no instance answers `ask`, `result` and `cancel`", "start a collector"),
        own_words.asking(workers, state.pool),
        *own_words.findings(state.workers, state.pool),
    ]
    waits = f"{some(state.requests, 'request')} not accepted yet"
    if state.oldest_s > LONG_WAIT_S:
        todo = "as many deliberations run as `max_in_flight` or workers allow, or nobody serves: see the lines above"
        findings.append(Finding("warn", "waiting", f"{waits}, the oldest for {state.oldest_s:,.0f} s", todo))
    else:
        findings.append(Finding("ok", "waiting", waits))
    if state.unserved and dispatcher.served:
        todo = "put [tenants.NAME] back into the settings, or delete DELIBERATION_REQUESTS_<NAME>: NATS takes them"
        unread = f"no dispatcher reads requests of {', '.join(state.unserved)}"
        findings.append(Finding("warn", "tenants", unread, todo))
    findings.append(await letters(nc, state.dead_letters))
    return findings


def _served(name: str, served: bool, load: str) -> Finding:
    if served:
        return Finding("ok", name, f"at work, {load}")
    return Finding("fail", name, f"none is at work, {load}", f"start one: `fleet up`, or `fleet {name}`")


async def _ray(settings: Settings) -> list[Finding]:
    address = settings.ray_address
    if not address:
        return [Finding("ok", "Ray", "RAY_ADDRESS is not set: `fleet up` runs a local one")]
    todo = "start it, or correct RAY_ADDRESS; unset, a local one is started"
    # A process of its own: a broken cluster may hang whoever asks, and importing ray takes seconds.
    probe = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from ray.scripts.scripts import main; main()", "health-check", "--address", address),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(RAY_WITHIN_S):
            status = await probe.wait()
    except TimeoutError:
        probe.kill()
        await probe.wait()
        return [Finding("fail", "Ray", f"{address} gives no answer within {RAY_WITHIN_S:.0f} s", todo)]
    if status:
        return [Finding("fail", "Ray", f"{address} does not answer (or runs another version, or wants a token)", todo)]
    return [Finding("ok", "Ray", f"{address} answers")]
