"""Maps each kind of fault to the function that makes it. `inject` returns when it is over, and says what was done."""

from collections.abc import Awaitable, Callable
from typing import Final

from fleet.chaos.faults import messages, model, network, process, streams
from fleet.chaos.faults.target import Target
from fleet.chaos.schedule import Fault, Kind

HOW: Final[dict[Kind, Callable[[Target, Fault], Awaitable[str]]]] = {
    "kill": process.kill,
    "term": process.term,
    "stop": process.stop,
    "roll": process.roll,
    "crash": process.crash,
    "clock": process.clock,
    "partition": network.partition,
    "cut": network.cut,
    "model": model.spoil,
    "responses": messages.responses,
    "malformed": messages.malformed,
    "delete": streams.delete,
    "full": streams.fill,
}


async def inject(target: Target, fault: Fault) -> str:
    """Makes it, and undoes it where it can be undone."""
    return await HOW[fault.kind](target, fault)


__all__ = ["HOW", "Target", "inject"]
