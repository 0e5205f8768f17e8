"""What a command does when its user, or its reader, has had enough."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from fleet import subjects
from fleet.config import unconfigured
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S


async def started(*words: str) -> Process:
    command = (sys.executable, "-m", "fleet.cli", *words)
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=unconfigured(os.environ))


async def line_with(process: Process, text: str) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(WITHIN_S):
        while line := (await process.stderr.readline()).decode():
            if text in line:
                return line
    pytest.fail(f"it never said {text!r}")


@some_of(1, "times", [1, 2])
async def test_ctrl_c_says_how_to_go_on_and_twice_cancels(nats_url: str, times: int) -> None:
    """The id comes first, and the task goes on without the command."""
    async with running(nats_url, lambda call: None) as fleet:
        asking = await started("ask", "Design it", "--nats-url", nats_url)
        task_id = (await line_with(asking, "task ")).split()[1]
        await fleet.inbox.next(subjects.ACCEPTED, task_id=task_id)
        asking.send_signal(signal.SIGINT)
        await line_with(asking, f"fleet result {task_id}")
        await line_with(asking, f"fleet cancel {task_id}")
        if times == 2:
            asking.send_signal(signal.SIGINT)
            await fleet.inbox.next(subjects.CANCELLED, task_id=task_id)
        async with asyncio.timeout(WITHIN_S):
            assert await asking.wait() == 130
        _, state = await fleet.ask(subjects.RESULT, {"task_id": task_id})
        assert state["status"] == ("CANCELLED" if times == 2 else "IN_PROGRESS")


@some_of(1, "words", [("watch", "t", "--json"), ("watch", "t"), ("result", "t"), ("ask", "x", "--json")])
async def test_a_reader_that_has_left_is_no_fault_of_nats(nats_url: str, words: tuple[str, ...]) -> None:
    """`fleet watch t | head -1`: nothing on standard error but the id, and status 0."""
    async with running(nats_url, agents.answer) as fleet:
        await fleet.request(task_id="t", rounds=0)
        await fleet.inbox.next(subjects.COMPLETED, task_id="t")
        read, write = os.pipe()
        os.close(read)
        command = (sys.executable, "-m", "fleet.cli", *words, "--nats-url", nats_url)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=write, stderr=PIPE, env=unconfigured(os.environ)
        )
        os.close(write)
        async with asyncio.timeout(WITHIN_S):
            _, said = await process.communicate()
        assert (process.returncode, said.decode().partition("task ask-")[0]) == (0, "")
