"""Defines the errors, named by who is at fault, with the facts."""

from fleet.messages.error_types import ErrorType


class FleetError(Exception):
    """Base of every error the fleet raises on purpose."""


MOST_CHARACTERS, MOST_PATH_CHARACTERS, MOST_ID_CHARACTERS = 1_000, 300, 256
MOST_CORRELATION_CHARACTERS = 4096


def echoed(correlation: dict[str, str] | None) -> dict[str, str] | None:
    """A correlation as a rejection repeats it: None where no request may have one so long."""
    characters = sum(len(name) + len(value) for name, value in (correlation or {}).items())
    return None if characters > MOST_CORRELATION_CHARACTERS else correlation


class BadRequest(FleetError):
    """The client's fault: a `deliberation.requested` that breaks a rule.

    `code` is `malformed`, `invalid`, `conflict`, `forbidden` or `budget`; `path` is a JSON path such as `$.num_agents`.
    `task_id` and `correlation` are what could still be read of the body. Long paths and errors are cut, and what is too
    long for an id or a correlation is left out: they repeat what the client wrote, in events, letters and logs.
    """

    def __init__(
        self,
        code: str,
        path: str,
        error: str,
        *,
        task_id: str | None = None,
        correlation: dict[str, str] | None = None,
    ) -> None:
        error = error if len(error) <= MOST_CHARACTERS else f"{error[: MOST_CHARACTERS - 1]}…"
        super().__init__(error)
        self.code = code
        self.path = path[:MOST_PATH_CHARACTERS]
        self.error = error
        self.task_id = task_id if task_id is None or len(task_id) <= MOST_ID_CHARACTERS else None
        self.correlation = echoed(correlation)


class ConfigError(FleetError):
    """The operator's fault: a setting that cannot be used; the text names it."""


class Unreachable(FleetError):
    """A server the fleet needs does not answer; the text says which, and what to do."""


class StoreConflict(FleetError):
    """Another process changed `key` after `revision` was read."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(f"{key} was changed after revision {revision}")
        self.key = key
        self.revision = revision


class EventInFlight(FleetError):
    """The terminal event of a task may have been sent and not arrived yet. It must not be published again now."""

    def __init__(self, task_id: str, why: str) -> None:
        super().__init__(f"the terminal event of {task_id} may still arrive: {why}")


class NewerState(StoreConflict):
    """A newer version of the fleet wrote this state: only such a one may change it."""

    def __init__(self, key: str, schema: int) -> None:
        super().__init__(key, 0)
        self.args = (f"{key} was written by a newer version of the fleet (schema {schema})",)


class UnreadableState(FleetError):
    """What lies under `key`, at `revision`, is no state any more. `may_come`: a part of it may only be late."""

    def __init__(self, key: str, revision: int, why: Exception, *, may_come: bool = False) -> None:
        super().__init__(f"the state of {key} cannot be read: {why}")
        self.key = key
        self.revision = revision
        self.may_come = may_come


LONGEST_ERROR = 2000
"""Characters of an error. It stands in state, events and logs, several times, and a model server has written it."""


def bounded(text: str) -> str:
    """The beginning of what is too long for an error, and how long it was."""
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}… ({len(text)} characters in all)"


class AgentCallError(FleetError):
    """One attempt at a model call failed.

    `error_type` is the name that travels in `agent.response.failed`; `retry_after_s` is what the server asked for.
    """

    def __init__(
        self, error_type: ErrorType, error: str, *, retryable: bool, retry_after_s: float | None = None
    ) -> None:
        error = bounded(error)
        super().__init__(error)
        self.error_type = error_type
        self.error = error
        self.retryable = retryable
        self.retry_after_s = retry_after_s
