"""The fleet on a real vLLM. The model's weights are random: this proves the plumbing, never the quality of a result."""

import asyncio
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import aiohttp

from fleet import subjects
from tests.e2e.conftest import Up, start, stop
from tests.support.waiting import until
from tests.support.workers.fake_control_plane import Plane, request, worker_process, working

ROLE = '[roles.DEV]\npersona = "You write code."\ntemperature = 0.8\nmax_tokens = {max_tokens}\n'
STEPS = ["cache it", "count it", "queue it", "shard it", "retry it", "log it", "drop it", "price it"]


async def fleet_on(real_vllm: str, tmp_path: Path, *, max_tokens: int) -> Up:
    """A whole fleet on the served model; answers of random weights end at `max_tokens`."""
    config = tmp_path / "fleet.toml"
    config.write_text(ROLE.format(max_tokens=max_tokens))
    return await start(tmp_path / "data", VLLM_URL=real_vllm, FLEET_CONFIG=str(config))


async def metric(real_vllm: str, name: str) -> float:
    """The sum of a Prometheus metric over its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{real_vllm}/metrics") as response:
        text = await response.text()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def until_running(real_vllm: str, fact: Callable[[float], bool]) -> None:
    """Until vLLM runs so many requests."""

    async def is_so() -> bool:
        return fact(await metric(real_vllm, "vllm:num_requests_running"))

    await until(is_so)


async def test_deliberation_runs_through_every_phase(real_vllm: str, tmp_path: Path) -> None:
    """Three agents, one round: twelve answered calls, all revised and scored, prompts found in the cache. Random
    weights end a text once in two thousand tokens, so those that are cut count; they often give two proposals the same
    scores, which are compared then, in both orders.
    """
    up = await fleet_on(real_vllm, tmp_path, max_tokens=1500)
    task_id = await up.request(
        num_agents=3,
        rounds=1,
        constraints={"rubric": {"correctness": 1}, "timeout_seconds": 240},
        options={"accept_truncated": True},
    )
    done = await up.result(task_id, within_s=260)
    assert await stop(up) == 0
    assert done["status"] == "COMPLETED"
    assert done["failed_agents"] == []
    assert done["usage"]["calls"] - len(done["comparisons"]) == 12
    assert [result["proposal"]["revisions"] for result in done["results"]] == [1, 1, 1]
    assert all(0 <= result["score"] <= 10 for result in done["results"])
    assert done["usage"]["prompt_tokens"] > done["usage"]["cached_tokens"] > 0


async def test_most_of_a_councils_prompts_come_from_the_prefix_cache(real_vllm: str, tmp_path: Path) -> None:
    """Five agents, one round, a task of 2,000 tokens: at least 60 % of all prompt tokens are cached. Random weights
    would write to the end of the window, so a format bounds the proposals to the length of a short answer.
    """
    task = await words(real_vllm, tokens=2000)
    answer = {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": {"enum": STEPS}, "minItems": 40, "maxItems": 60}},
        "required": ["steps"],
        "additionalProperties": False,
    }
    up = await fleet_on(real_vllm, tmp_path, max_tokens=4000)
    task_id = await up.request(
        task_description=task,
        num_agents=5,
        rounds=1,
        constraints={"rubric": {"correctness": 1}, "timeout_seconds": 240},
        options={"output_schema": answer},
    )
    done = await up.result(task_id, within_s=260)
    assert await stop(up) == 0
    assert (done["status"], done["failed_agents"]) == ("COMPLETED", [])
    usage = done["usage"]
    share = usage["cached_tokens"] / usage["prompt_tokens"]
    print(f"prefix cache: {usage['cached_tokens']} of {usage['prompt_tokens']} prompt tokens, {share:.1%}")
    assert share >= 0.6


async def words(real_vllm: str, *, tokens: int) -> str:
    """A text of so many tokens, by the server's own count."""
    text = ""
    async with aiohttp.ClientSession() as session:
        count = 0
        while count < tokens:
            text += f"Requirement {len(text)}: the limiter keeps its counters when a node is replaced. "
            body = {"model": "tiny", "prompt": text}
            async with session.post(f"{real_vllm}/tokenize", json=body) as response:
                count = (await response.json())["count"]
    return text


async def nothing_is_generated(real_vllm: str) -> None:
    """vLLM runs nothing any more, and generates no further token."""
    await until_running(real_vllm, lambda count: count == 0)
    generated = await metric(real_vllm, "vllm:generation_tokens_total")
    # Whatever is generated from here on would be for nobody.
    for _ in range(5):
        await asyncio.sleep(0.1)
        assert await metric(real_vllm, "vllm:generation_tokens_total") == generated


async def test_cancel_stops_the_generation(real_vllm: str, tmp_path: Path) -> None:
    """Of all eight agents."""
    up = await fleet_on(real_vllm, tmp_path, max_tokens=6000)
    task_id = await up.request(num_agents=8, rounds=0)
    await until_running(real_vllm, lambda count: count > 0)
    reply = await up.nc.request("deliberation.cancel", task_id.encode(), timeout=20)
    assert json.loads(reply.data)["status"] == "CANCELLED"
    await nothing_is_generated(real_vllm)
    assert await stop(up) == 0


async def test_the_deadline_stops_the_generation(real_vllm: str, tmp_path: Path) -> None:
    """Of all agents that have not finished by then."""
    up = await fleet_on(real_vllm, tmp_path, max_tokens=6000)
    task_id = await up.request(num_agents=8, rounds=0, constraints={"timeout_seconds": 3})
    await until_running(real_vllm, lambda count: count > 0)
    done = await up.result(task_id)
    assert {call["error_type"] for call in done["failed_agents"]} == {"DeadlineExceeded"}
    await nothing_is_generated(real_vllm)
    assert await stop(up) == 0


async def test_a_duplicates_end_stops_its_generation(real_vllm: str, nats_url: str, tmp_path: Path) -> None:
    """A worker stood still, another one makes its call again: neither goes on once the call is answered."""
    plane, served = Plane(nats_url), SimpleNamespace(url=real_vllm)
    await plane.open()
    await plane.put_state()
    # As many as the window holds: the first call must not be over when the second one begins.
    async with worker_process(plane, served, tmp_path, max_tokens=7500) as zombie:
        await plane.submit(request())
        await plane.next(subjects.AGENT_PROGRESS)
        zombie.send_signal(signal.SIGSTOP)
        async with working(plane, served):
            await until_running(real_vllm, lambda count: count == 2)
            zombie.send_signal(signal.SIGCONT)
            await plane.put_state(calls="completed")
            await nothing_is_generated(real_vllm)
            await plane.settled()
    assert not plane.of(subjects.AGENT_COMPLETED) + plane.of(subjects.AGENT_FAILED)
    await plane.nc.close()


async def test_prompt_beyond_the_window_is_refused_clearly(real_vllm: str, tmp_path: Path) -> None:
    """The call fails as ContextOverflow, once, and says how large prompt and window are."""
    up = await fleet_on(real_vllm, tmp_path, max_tokens=100)
    failed = await up.result(await up.request(task_description="xq zj " * 9000, num_agents=1))
    assert await stop(up) == 0
    assert failed["status"] == "FAILED"
    assert failed["failed_agents"][0]["error_type"] == "ContextOverflow"
    assert "8192" in failed["failed_agents"][0]["error"]
