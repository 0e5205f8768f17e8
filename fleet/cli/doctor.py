"""`fleet doctor`: what a fleet needs, looked at from here, each finding with what to do."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import typer

from fleet import subjects
from fleet.cli import options
from fleet.cli.output import console, print_json
from fleet.cli.permissions import PUBLISHES, SUBSCRIBES, allowed
from fleet.config import Settings, without_userinfo
from fleet.errors import Unreachable
from fleet.exits import Exit
from fleet.local.data_dir import client_settings, running
from fleet.model_servers import EndpointConfig, base_url, joined

LEAST_VERSION = (2, 12, 3)
PROBE_WITHIN_S = 5.0
RAY_WITHIN_S = 20.0
LEAST_CONTEXT_TOKENS = 8192

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`todo` says what to do about it; empty when nothing need be done."""

    verdict: Verdict
    what: str
    found: str
    todo: str = ""


def doctor(
    data_dir: options.DataDir = options.DATA_DIR,
    nats_url: options.NatsUrl = None,
    json_output: options.Json = False,
) -> None:
    """Check everything a fleet needs: NATS, streams, permissions, Ray, the models. Says what to do about the rest.

    Exit status 0 when nothing fails; 3 when NATS cannot be reached, else 1.

    [dim]Example:[/dim]  NATS_URL=nats://nats:4222 VLLM_URL=http://gpu-1:8000 fleet doctor
    """
    settings = client_settings(data_dir, nats_url)
    known = running(data_dir)
    findings = asyncio.run(_examine(settings, known))
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(Exit.UNREACHABLE if findings[0].verdict == "fail" else Exit.FAILED)


async def _examine(settings: Settings, known: dict[str, Any]) -> list[Finding]:
    """NATS first: its finding decides the exit status."""
    rest = asyncio.gather(_ray(settings), _models(settings, known))
    return [*[finding async for finding in _nats(settings, known)], *[f for group in await rest for f in group]]


async def _nats(settings: Settings, known: dict[str, Any]) -> AsyncIterator[Finding]:
    from nats.errors import Error

    from fleet.jetstream.connection import connect

    try:
        nc = await connect(settings, "fleet-doctor")
    except Unreachable as error:
        yield Finding("fail", "NATS", str(error).partition(":")[0], "start a server, set NATS_URL, or run `fleet up`")
        return
    try:
        yield _version(nc)
        js = nc.jetstream(timeout=PROBE_WITHIN_S)
        try:
            await js.account_info()
        except (Error, TimeoutError):
            yield Finding("fail", "JetStream", "does not answer", "add `jetstream {}` to the server's configuration")
            return
        yield Finding("ok", "JetStream", "on")
        yield _durability(settings, known)
        async for finding in _topology(js, settings):
            yield finding
        yield await _permissions(nc)
    finally:
        with suppress(Exception):
            await nc.close()


def _version(nc: Any) -> Finding:
    version = nc.connected_server_version
    found = f"{nc.connected_url.netloc.rpartition('@')[2]}, version {version.major}.{version.minor}.{version.patch}"
    if (version.major, version.minor, version.patch) < LEAST_VERSION:
        needed = ".".join(map(str, LEAST_VERSION))
        return Finding("fail", "NATS", found, f"use nats-server {needed} or later: scheduled messages need it")
    return Finding("ok", "NATS", found)


def _durability(settings: Settings, known: dict[str, Any]) -> Finding:
    from fleet.local.nats_server import SYNC_INTERVAL

    if known.get("nats_embedded") and known.get("nats_url") == settings.nats:
        return Finding("ok", "durability", f"embedded server, sync_interval: {SYNC_INTERVAL}")
    return Finding(
        "warn",
        "durability",
        "how often the server calls fsync cannot be seen over the wire",
        "a single server: set `jetstream { sync_interval: always }`; a cluster: `replicas = 3` under [limits]",
    )


async def _topology(js: Any, settings: Settings) -> AsyncIterator[Finding]:
    from nats.js.errors import NotFoundError

    from fleet.jetstream import topology

    declare = "start a dispatcher or a collector once: it declares what is missing"
    missing: list[str] = []
    changed: list[str] = []

    async def look(name: str, info: Any, wanted: Any = None) -> None:
        try:
            existing = await info
        except NotFoundError:
            missing.append(name)
            return
        if wanted is not None and (found := topology.differences(existing.config, wanted)):
            changed.append(f"{name} ({', '.join(found)})")

    streams = topology.streams(settings)
    for stream in streams:
        await look(str(stream.name), js.stream_info(stream.name), stream)
    consumers = list(topology.consumers(settings))
    for stream_name, consumer in consumers:
        name = str(consumer.durable_name)
        await look(f"{stream_name}/{name}", js.consumer_info(stream_name, name), consumer)
    await look(f"bucket {subjects.BUCKET}", js.key_value(subjects.BUCKET))
    await look(f"object store {subjects.TEXTS}", js.object_store(subjects.TEXTS))
    if missing:
        yield Finding("fail", "streams", f"missing: {', '.join(missing)}", declare)
    if changed:
        yield Finding("warn", "streams", f"differ from this configuration: {', '.join(changed)}", declare)
    if not missing and not changed:
        yield Finding("ok", "streams", f"{len(streams)} streams, {len(consumers)} consumers, bucket, object store")


async def _permissions(nc: Any) -> Finding:
    from nats.errors import Error

    try:
        reply = await nc.request("$SYS.REQ.USER.INFO", b"", timeout=PROBE_WITHIN_S)
        granted = json.loads(reply.data)["data"].get("permissions") or {}
    except (Error, TimeoutError, ValueError, KeyError):
        todo = "allow publishing to $SYS.REQ.USER.INFO to have them checked"
        return Finding("warn", "permissions", "the server does not say what this user may do", todo)
    denied = [
        *(f"publish {subject}" for subject in PUBLISHES if not allowed(granted.get("publish"), subject)),
        *(f"subscribe {subject}" for subject in SUBSCRIBES if not allowed(granted.get("subscribe"), subject)),
    ]
    if denied:
        return Finding(
            "warn",
            "permissions",
            f"this user may not: {', '.join(denied)}",
            "fine for a client; a component needs them: add them to its permissions",
        )
    return Finding("ok", "permissions", "may publish and subscribe what a component needs")


async def _ray(settings: Settings) -> list[Finding]:
    address = settings.ray_address
    if not address:
        return [Finding("ok", "Ray", "RAY_ADDRESS is not set: `fleet up` starts a local one")]
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


async def _models(settings: Settings, known: dict[str, Any]) -> list[Finding]:
    servers = settings.model_servers
    if not servers and (remembered := known.get("vllm_url")):
        servers = {url: EndpointConfig(url=url) for url in remembered.split(",")}
    if not servers:
        return [Finding("warn", "vLLM", "VLLM_URL is not set", "set it for real answers; `fleet up` simulates them")]
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=PROBE_WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        groups = await asyncio.gather(
            *(_model_server(http, name, server, settings, len(servers)) for name, server in servers.items())
        )
    return [finding for group in groups for finding in group]


async def _model_server(
    http: Any, name: str, server: EndpointConfig, settings: Settings, servers: int
) -> list[Finding]:
    import aiohttp

    from workers.llm.servers.cards import cards_in
    from workers.llm.servers.dialects import DIALECTS

    what = f"{server.kind} {name}"
    dialect, named = DIALECTS[server.kind], _wanted(settings) | set(server.models or ())
    try:
        key = server.key()
    except ValueError as error:
        return [Finding("fail", what, str(error), "set the key where workers run, or correct the setting")]
    headers = {**dialect.headers, **server.headers}
    if key:
        headers |= {"Authorization": f"Bearer {key}"} if dialect.key_header == "bearer" else {dialect.key_header: key}
    try:
        async with http.get(joined(base_url(server.url), "/models"), headers=headers) as answer:
            if answer.status in (401, 403) and not named:
                return [Finding("fail", what, f"answers {answer.status}", "set its key: VLLM_API_KEY, or api_key_env")]
            served = {} if answer.status >= 400 else {card.id: card for card in cards_in(await answer.json())}
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        todo = "start it, or correct its URL"
        said = str(error).replace(server.url, without_userinfo(server.url)) or type(error).__name__
        return [Finding("fail", what, f"does not answer: {said}", todo)]
    except (aiohttp.ClientError, ValueError):
        served = {}
    if not served:
        if named:
            return [Finding("warn", what, "answers, and gives no list of its models", "none is needed for named ones")]
        return [Finding("fail", what, "lists no model", "set VLLM_MODEL, or `models` of the endpoint")]
    wanted = named or {next(iter(served))}
    if missing := sorted(name for name in wanted if name not in served and f"{name}:latest" not in served):
        todo = "correct VLLM_MODEL or the role's model, or serve it; with several servers one of them may do"
        verdict: Verdict = "fail" if servers < 2 else "warn"
        return [Finding(verdict, what, f"serves {', '.join(served)}, not {', '.join(missing)}", todo)]
    return [_window(what, name, served[name].window) for name in sorted(wanted) if name in served]


def _wanted(settings: Settings) -> set[str]:
    roles = settings.roles.values()
    named = [settings.vllm_model, *(role.model for role in roles), *(role.judge_model for role in roles)]
    aliases = settings.models
    return {(aliases[name].name or name) if name in aliases else name for name in named if name}


def _window(what: str, model: str, tokens: int | None) -> Finding:
    if not tokens:
        todo = "set context_window under [roles.NAME], so that prompts are kept within it"
        return Finding("warn", what, f"{model}, does not say its context window", todo)
    if tokens < LEAST_CONTEXT_TOKENS:
        todo = f"at least {LEAST_CONTEXT_TOKENS:,} (--max-model-len): a reviewer reads every proposal at once"
        return Finding("warn", what, f"{model}, context window of {tokens:,} tokens", todo)
    return Finding("ok", what, f"{model}, context window of {tokens:,} tokens")


def _show(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        told = Text(finding.found)
        if finding.todo:
            told.append(f"\n→ {finding.todo}", style="dim")
        table.add_row(Text(finding.verdict, style=colours[finding.verdict]), Text(finding.what, style="bold"), told)
    console().print(table)
