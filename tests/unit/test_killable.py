"""Jobs in processes that can be killed: what they return, and what ends them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest

from fleet.event_loop import fast_loop
from fleet.killable import Exhausted, JobFailed, Processes
from tests.support.variants import some_of
from tests.support.waiting import until

JOBS = "tests.unit.test_killable"


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    made = Processes(most=1)
    yield made
    await made.close()


def twice(text: str) -> str:
    print("no reply")
    return text + text


async def who() -> int:
    return os.getpid()


def defect() -> None:
    raise ValueError("of ours")


def for_ever() -> None:
    while True:
        pass


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def much() -> int:
    return len(bytearray(3 * 1024**3))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def secrets() -> list[str]:
    return [name for name in os.environ if name.startswith(("NATS_", "VLLM_"))]


async def test_jobs_run_one_after_the_other_in_one_process(processes: Processes) -> None:
    """Whatever they print, and after one that failed."""
    first = await processes.run(f"{JOBS}:who", cpu_s=5)
    assert await processes.run(f"{JOBS}:twice", "ab\ud800ü", cpu_s=5) == "ab\ud800üab\ud800ü"
    with pytest.raises(JobFailed, match="of ours"):
        await processes.run(f"{JOBS}:defect", cpu_s=5)
    assert await processes.run(f"{JOBS}:who", cpu_s=5) == first != os.getpid()


async def test_no_process_is_started_before_there_is_work() -> None:
    """A fleet whose requests need none pays nothing."""
    before = psutil.Process().children()
    await Processes().close()
    assert psutil.Process().children() == before


@some_of(
    1,
    ("job", "why"),
    [("for_ever", "took (more|longer)"), ("stand_still", "longer than 10 s"), ("much", "memory"), ("crash", "crashed")],
)
async def test_a_job_beyond_its_limits_is_ended_and_the_next_one_runs(processes: Processes, job: str, why: str) -> None:
    """The process is replaced, and the event loop goes on meanwhile."""
    first = await processes.run(f"{JOBS}:who", cpu_s=5)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    with pytest.raises(Exhausted, match=why):
        await processes.run(f"{JOBS}:{job}", cpu_s=1)
    counting.cancel()
    assert turns > 1
    assert not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE
    assert await processes.run(f"{JOBS}:who", cpu_s=5) != first


async def test_a_process_that_ended_between_two_jobs_costs_none_of_them(processes: Processes) -> None:
    """It may have ended for want of work."""
    first = await processes.run(f"{JOBS}:who", cpu_s=5)
    os.kill(first, signal.SIGKILL)
    assert await processes.run(f"{JOBS}:who", cpu_s=5) != first


def test_it_is_noticed_on_the_loop_of_the_components_too() -> None:
    """Its pipes are known to be closed there: uvloop raises an error of its own."""

    async def two_jobs() -> None:
        processes = Processes(most=1)
        first = await processes.run(f"{JOBS}:who", cpu_s=5)
        os.kill(first, signal.SIGKILL)
        await until(lambda: processes._idle[0]._process.returncode is not None)
        assert await processes.run(f"{JOBS}:who", cpu_s=5) != first
        await processes.close()

    with asyncio.Runner(loop_factory=fast_loop) as runner:
        runner.run(two_jobs())


async def test_a_cancelled_job_is_killed(processes: Processes) -> None:
    """A deliberation that was cancelled leaves nothing behind that computes."""
    first = await processes.run(f"{JOBS}:who", cpu_s=5)
    used_s = psutil.Process(first).cpu_times().user
    job = asyncio.create_task(processes.run(f"{JOBS}:for_ever", cpu_s=60))
    await until(lambda: psutil.Process(first).cpu_times().user >= used_s + 0.5)  # it computes
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert await processes.run(f"{JOBS}:who", cpu_s=5) != first


async def test_what_runs_there_knows_no_credentials(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works on what strangers wrote."""
    monkeypatch.setenv("NATS_URL", "nats://user:secret@127.0.0.1")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert await processes.run(f"{JOBS}:secrets", cpu_s=5) == []
