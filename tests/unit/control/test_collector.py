"""Answers that nobody was asked for."""

from typing import Any

from structlog.testing import capture_logs

from fleet import subjects
from fleet.control.collector import Collector
from fleet.messages import AgentResponse, encode
from tests.support import agents
from tests.support.council import begin, calls


class Plain:
    """Bodies as they are; no token fits."""

    async def inline(self, body: bytes) -> bytes:
        return body

    async def fits(self, answer: AgentResponse, token: str) -> bool:
        return False


class Answer:
    """A message from `agent.response.completed`, and its delivery."""

    sequence = 7

    def __init__(self, body: bytes, call_token: str) -> None:
        self.subject, self.body, self.call_token, self.delivery = subjects.AGENT_COMPLETED, body, call_token, self
        self.acknowledged = False

    async def ack(self) -> None:
        self.acknowledged = True


async def test_a_flood_of_forged_answers_is_a_line_for_each_reason() -> None:
    """However many calls they name. None is kept, and none comes again."""
    call, *_ = calls(begin())
    parts, nobody = Plain(), None
    collector = Collector(*(parts, nobody, parts, nobody))  # type: ignore[arg-type]
    flood: list[Any] = [
        Answer(encode(agents.answer(call).change(task_id=f"t-{number}")), token)
        for number in range(50)
        for token in ("", "wrong")
    ]
    with capture_logs() as logs:
        for message in flood:
            await collector.on_response(message)
    lines = [(line["event"], line["reason"], line.get("call")) for line in logs]
    assert lines == [
        ("answer.forged", "no token", None),
        ("answer.forged", "wrong token", agents.answer(call).change(task_id="t-0").call_id),
    ]
    assert all(message.acknowledged for message in flood)
