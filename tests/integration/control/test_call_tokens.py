"""Tokens of calls: all processes of the control plane agree on them, also after the bucket was lost or restored."""

from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext

from fleet import subjects
from fleet.config import load
from fleet.control.call_tokens import KEY, OLDER, CallTokens
from fleet.jetstream import topology
from tests.support import agents
from tests.support.council import begin, calls
from tests.support.nats import servers

pytestmark = pytest.mark.usefixtures("nats_binary")

CALL, OTHER = calls(begin(num_agents=2))
ANSWER = agents.answer(CALL)


@pytest.fixture
async def js(tmp_path: Path) -> AsyncIterator[JetStreamContext]:
    async with servers.one(tmp_path) as server:
        nc = await nats.connect(server.url)
        await topology.declare(nc.jetstream(), load({}))
        yield nc.jetstream()
        await nc.close()


async def test_an_answer_fits_its_call_and_no_other(js: JetStreamContext) -> None:
    """Of any attempt and any process; not of another agent, round, question or run."""
    one, two = await CallTokens.open(js), await CallTokens.open(js)
    token = one.of(CALL)
    assert await two.fits(ANSWER.change(attempt=7), token)
    for change in ({"agent_id": OTHER.agent_id}, {"round": 1}, {"question": 2}, {"run": "f00"}, {"task_id": "t-2"}):
        assert not await two.fits(ANSWER.change(**change), token)
    for wrong in ("", "é", "0" * 32, token[:-1], token + "0", one.of(OTHER)):
        assert not await two.fits(ANSWER, wrong)


async def test_the_key_survives_its_bucket(js: JetStreamContext) -> None:
    """A process that has known it stores it again; one that begins later gives the same tokens."""
    before = await CallTokens.open(js)
    token = before.of(CALL)
    await js.delete_stream(subjects.KEYS_STREAM)
    await topology.declare(js, load({}))
    await before.keep()
    later = await CallTokens.open(js)
    assert later.of(CALL) == token
    assert await later.fits(ANSWER, token)


async def test_after_a_restore_both_keys_are_taken(js: JetStreamContext) -> None:
    """What was asked before is answered, and what others ask now."""
    here = await CallTokens.open(js)
    token = here.of(CALL)
    await (await js.key_value(subjects.KEYS)).put(KEY, b"another key")
    elsewhere = await CallTokens.open(js)
    assert elsewhere.of(CALL) != token
    assert await here.fits(ANSWER, elsewhere.of(CALL))
    assert await here.fits(ANSWER, token)
    assert here.of(CALL) == elsewhere.of(CALL)


async def test_of_many_keys_the_newest_are_taken(js: JetStreamContext) -> None:
    """Each once, however often it comes back; so what an answer with a wrong token costs has a bound."""
    here = await CallTokens.open(js)
    token, bucket = here.of(CALL), await js.key_value(subjects.KEYS)
    first = (await bucket.get(KEY)).value or b""
    for _ in range(OLDER):
        for key in (b"another key", first):
            await bucket.put(KEY, key)
            await here.keep()
    await bucket.put(KEY, b"a third key")
    await here.keep()
    assert await here.fits(ANSWER, token)
    for number in range(OLDER):
        await bucket.put(KEY, b"key %d" % number)
        await here.keep()
    assert not await here.fits(ANSWER, token)
