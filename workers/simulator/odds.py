"""Makes up log-probabilities: of a score, its neighbours are likely, too; of any other token, nothing else."""

from collections.abc import Iterable
from math import log

from workers.simulator import wire

MOST = 10
BELOW, ABOVE = 0.25, 0.15
"""Of the score one lower and one higher, where there is one; the rest is that of the one that was written."""


def of_tokens(tokens: Iterable[str], most: int) -> wire.Logprobs:
    """`most`: so many likely tokens are told for each place."""
    return wire.Logprobs([_of_token(token, most) for token in tokens])


def _of_token(token: str, most: int) -> wire.TokenLogprob:
    chances = {token: 1.0}
    if token.isdecimal() and (score := int(token)) <= MOST:
        neighbours = {score - 1: BELOW, score + 1: ABOVE}
        near = {str(each): chance for each, chance in neighbours.items() if 0 <= each <= MOST}
        chances = {token: 1 - sum(near.values())} | near
    top = [wire.TopLogprob(token=text, logprob=log(each), bytes=[*text.encode()]) for text, each in chances.items()]
    return wire.TokenLogprob(token=token, logprob=top[0].logprob, bytes=top[0].bytes, top_logprobs=top[:most])
