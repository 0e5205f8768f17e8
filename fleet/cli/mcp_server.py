"""Runs `fleet mcp`: the fleet as tools of an MCP server over stdio, for assistants and editors."""

import asyncio
import secrets
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fleet.cli import options
from fleet.config import Settings
from fleet.errors import ConfigError, FleetError
from fleet.local.data_dir import client_settings

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from fleet.client.session import Session
    from fleet.messages import TerminalEvent

INSTRUCTIONS = (
    "A council of language models deliberates on a question: each proposes an answer, they criticise one another, "
    "revise, and score. It takes a minute or more and costs many model calls: use it where that is worth it."
)
INSTALL = "fleet mcp needs the MCP SDK: pip install 'deliberation-fleet[mcp]'"
LONGEST_WAIT_S = 300.0


@dataclass
class Outcome:
    """What a tool returns. `answer`: the winning text. `confidence`: how far reviewers agree on it, 0 … 1.

    `status`: PENDING, IN_PROGRESS, COMPLETED, FAILED, TIMEOUT, CANCELLED, or UNKNOWN. While it runs only `progress` is
    known: ask again by `result`.
    """

    task_id: str
    status: str
    answer: str | None = None
    verdict: str | None = None
    confidence: float | None = None
    score: float | None = None
    degraded: bool | None = None
    error: str | None = None
    cost: float | None = None
    progress: str | None = None


def mcp(data_dir: options.DataDir = options.DATA_DIR, nats_url: options.NatsUrl = None) -> None:
    """Serve the fleet to an assistant, as an MCP server on standard input and output.

    Its tools are deliberate, result and cancel. It needs the extra `mcp`.

    [dim]Example:[/dim]  claude mcp add fleet -- fleet mcp
    """
    if find_spec("mcp") is None:
        raise ConfigError(INSTALL)
    server(client_settings(data_dir, nats_url)).run("stdio")


def server(settings: Settings) -> "MCPServer[Any]":
    """Needs the SDK."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.exceptions import ToolError

    from fleet import __version__
    from fleet.client.session import session

    made: MCPServer[Any] = MCPServer("deliberation-fleet", instructions=INSTRUCTIONS, version=__version__)

    async def deliberate(
        question: str,
        context: Context[Any, Any],
        agents: int = 3,
        rounds: int = 1,
        role: str | None = None,
        requirements: list[str] | None = None,
        rubric: dict[str, float] | None = None,
        timeout_seconds: float = 300.0,
        wait_seconds: float = LONGEST_WAIT_S,
        task_id: str | None = None,
    ) -> Outcome:
        """Put a question to the council and wait for its answer.

        agents: 1 to 16. rounds: of mutual review and revision, 0 to 5. role: DEV, QA, ARCHITECT, DEVOPS, DATA, or
        another one that is configured. requirements: what the answer must do. rubric: criterion -> weight.
        timeout_seconds: until it must be done. wait_seconds: how long to wait here; what takes longer goes on, and
        `result` tells its end. task_id: a name of your own; the same question under it runs once.
        """
        body = {
            "task_id": task_id or f"mcp-{secrets.token_hex(6)}",
            "task_description": question,
            "num_agents": agents,
            "rounds": rounds,
            "role": role,
            "constraints": {"requirements": requirements, "rubric": rubric, "timeout_seconds": timeout_seconds},
        }
        try:
            async with session(settings) as fleet:
                return await _deliberate(fleet, body, wait_seconds, context.report_progress)
        except FleetError as error:
            raise ToolError(str(error)) from None

    async def result(task_id: str, wait_seconds: float = 0.0) -> Outcome:
        """Tell where a deliberation stands, or its answer once it has ended. wait_seconds: for the end, at most 300."""
        try:
            async with session(settings) as fleet:
                return await _standing(fleet, task_id, min(wait_seconds, LONGEST_WAIT_S))
        except FleetError as error:
            raise ToolError(str(error)) from None

    async def cancel(task_id: str, reason: str | None = None) -> Outcome:
        """Stop a deliberation, and free what it uses."""
        try:
            async with session(settings) as fleet:
                return Outcome(task_id, (await fleet.cancel(task_id, reason)).status)
        except FleetError as error:
            raise ToolError(str(error)) from None

    for tool in (deliberate, result, cancel):
        made.add_tool(tool)
    return made


async def _deliberate(fleet: "Session", body: dict[str, Any], wait_s: float, report: Any) -> Outcome:
    """Raises `BadRequest`. Each call that ends, and each phase that begins, is reported."""
    from fleet.messages import FollowReply

    ticket, steps = await fleet.submit_body(body), 0
    await report(steps, message=f"task {ticket.task_id}")
    try:
        async with asyncio.timeout(wait_s):
            async for event in fleet.watch(ticket):
                if isinstance(event, FollowReply):
                    steps += 1
                    await report(steps, message=f"{event.phase} {event.round}: {event.done} of {event.expected} calls")
    except TimeoutError:
        pass  # it goes on
    return await _standing(fleet, ticket.task_id, 0.0)


async def _standing(fleet: "Session", task_id: str, wait_s: float) -> Outcome:
    reply = await fleet.result(task_id, wait_s=wait_s)
    if reply.result is not None:
        return _outcome(await fleet.with_texts(reply.result))
    progress = reply.progress
    told = f"{progress.phase} {progress.round}: {progress.done} of {progress.expected} calls" if progress else None
    return Outcome(task_id, reply.status, progress=told)


def _outcome(event: "TerminalEvent") -> Outcome:
    from fleet.cli.verdict import first
    from fleet.messages import DeliberationCancelled, DeliberationCompleted, status_of

    if isinstance(event, DeliberationCompleted):
        best = event.results[0]
        return Outcome(
            event.task_id,
            "COMPLETED",
            answer=best.proposal.content,
            verdict=first(event),
            confidence=event.confidence,
            score=best.score,
            degraded=event.degraded,
            cost=event.cost,
        )
    error = event.reason if isinstance(event, DeliberationCancelled) else event.error
    return Outcome(event.task_id, status_of(event), error=error, cost=event.cost)
