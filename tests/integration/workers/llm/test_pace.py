"""Many streams are read some tokens at a time, and none of them loses a character by it."""

import asyncio

from tests.support.workers.calls import RecordingWatcher, ask, client, complete
from workers.llm.reading.read_pacing import FEW_STREAMS, LONGEST_S, ReadPacing
from workers.simulator.server import Simulator, SimulatorConfig

MANY = 40


class Reads(RecordingWatcher):
    """Counts how often it is told of text."""

    reads = 0

    def wrote(self, text: str, tokens: int, max_tokens: int) -> None:
        self.reads += 1
        super().wrote(text, tokens, max_tokens)


async def test_many_streams_are_read_less_often_and_whole() -> None:
    """Everything that was said is heard, in far fewer reads than tokens."""
    paced = SimulatorConfig(tokens_per_second=100, answer_tokens=100)
    async with Simulator(paced) as simulator, client(simulator.url) as made:
        heard = [Reads() for _ in range(MANY)]
        answers = await asyncio.gather(*(complete(made, ask(), each) for each in heard))
        tokens = sum(call.completion_tokens for call in simulator.calls())
    assert [answer.content for answer in answers] == [each.texts[1] for each in heard]
    assert sum(answer.tokens for answer in answers) == tokens
    assert sum(each.reads for each in heard) < tokens / 2


def test_a_few_streams_are_never_left_alone() -> None:
    """The pause begins with more than a few streams, and has an end."""
    pace, open_ = ReadPacing(), []
    pauses = []
    for _ in range(200):
        stream = pace.stream()
        stream.__enter__()
        open_.append(stream)
        pauses.append(pace.pause_s)
    assert set(pauses[:FEW_STREAMS]) == {0.0}
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_S
    for stream in open_:
        stream.__exit__(None, None, None)
    assert pace.pause_s == 0.0
