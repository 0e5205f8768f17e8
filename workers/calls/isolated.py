"""Checks answers and proposals in processes that can be killed.

Strangers wrote these texts: on the worker's event loop one of them could stop all calls, and the renewal of leases.
"""

from typing import Any, Final

import msgspec
from msgspec import structs

from fleet.errors import AgentCallError
from fleet.killable import Exhausted, Processes
from fleet.messages import AgentRequested, Check, Policy, decode, encode
from fleet.requests.schemas import is_cheap
from workers import checks
from workers.calls.reading.answers import AnswerReader, CheckedAnswer

VALIDATE_WITHIN_S = 2
CHECK_WITHIN_S = 10
"""Of processor time, for each part of the checks; the parts' own limits are shorter."""

TEXTS: Final = frozenset({"propose", "revise", "synthesise"})
UNCHECKED: Final = "UncheckedAnswer"


class IsolatedChecks:
    """The checking processes of one worker."""

    def __init__(self) -> None:
        self._processes = Processes()

    async def close(self) -> None:
        await self._processes.close()

    async def answer(self, reader: AnswerReader, content: str) -> CheckedAnswer:
        """As `reader` does; what is surely quick is done here. Raises `AgentCallError`.

        Only texts are held against a schema that a client has sent; the others are the fleet's own.
        """
        request = reader.request
        schema = request.answer_schema if request.phase in TEXTS else None
        if schema is None or is_cheap(schema, len(content)):
            return reader(content)
        request_json = encode(structs.replace(request, messages=())).decode()
        try:
            outcome = await self._processes.run(f"{__name__}:answer", request_json, content, cpu_s=VALIDATE_WITHIN_S)
        except Exhausted as error:
            what = f"the answer could not be checked against its schema within {VALIDATE_WITHIN_S} s: the check {error}"
            raise AgentCallError(UNCHECKED, what, retryable=False) from None
        if "error" in outcome:
            raise AgentCallError(outcome["error_type"], outcome["error"], retryable=outcome["retryable"])
        return msgspec.convert(outcome, CheckedAnswer)

    async def checks(self, text: str, policy: Policy) -> dict[str, Check]:
        """As `checks.check`. A part that runs out of its limits says so, and is never passed."""
        results = dict.fromkeys(checks.NAMES, checks.NOTHING)
        text = text.encode(errors="replace").decode()  # half of a surrogate pair cannot be sent
        for part in checks.parts(text, policy):
            try:
                result = await self._processes.run(
                    f"{__name__}:check", part, text, structs.asdict(policy), cpu_s=CHECK_WITHIN_S
                )
                results |= msgspec.convert(result, dict[str, Check])
            except Exhausted as error:
                reason = f"could not be checked within {CHECK_WITHIN_S} s: the check {error}"
                results |= checks.not_finished(part, reason)
        return results


def answer(request: str, content: str) -> Any:
    """In the process: what `AnswerReader` returns, or the error."""
    try:
        return msgspec.to_builtins(AnswerReader(decode(request.encode(), AgentRequested))(content))
    except AgentCallError as error:
        return {"error_type": error.error_type, "error": error.error, "retryable": error.retryable}


async def check(part: checks.Part, text: str, policy: dict[str, Any]) -> Any:
    """In the process: what this part finds, by check."""
    return msgspec.to_builtins(await checks.part(part, text, msgspec.convert(policy, Policy)))
