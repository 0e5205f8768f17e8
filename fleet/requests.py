"""`deliberation.requested`: from bytes to a `Task` with every default filled in, or to a `BadRequest`."""

import re
from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fleet.errors import BadRequest
from fleet.messages import Message, decoder

MAX_TASK_CHARACTERS = 65_536
MAX_DEPTH = 64
"""How deep a request may nest. Deeper ones cannot be decoded safely, and no prompt has a use for them."""

TASK_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}\Z"
_GENERATED_ID = re.compile(r"d-\d+\Z")

TaskId = Annotated[str, Meta(pattern=TASK_ID_PATTERN)]
Weight = Annotated[float, Meta(gt=0, le=100)]


class Constraints(Message, frozen=True, kw_only=True):
    """`constraints` as sent: null means absent."""

    rubric: str | Annotated[dict[str, Weight], Meta(max_length=20)] | None = None
    requirements: tuple[str, ...] | None = None
    metadata: dict[str, Any] | None = None
    timeout_seconds: Annotated[float, Meta(ge=1, le=3600)] | None = None


class Options(Message, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`options` as sent. An unknown key is an error: a typo here costs GPU time."""

    early_stop: bool | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None


class DeliberationRequested(Message, frozen=True, kw_only=True):
    """`deliberation.requested` as sent: null means absent."""

    task_description: Annotated[str, Meta(min_length=1, max_length=MAX_TASK_CHARACTERS)]
    task_id: TaskId | None = None
    role: str | None = None
    num_agents: Annotated[int, Meta(ge=1, le=16)] | None = None
    rounds: Annotated[int, Meta(ge=0, le=5)] | None = None
    constraints: Constraints | None = None
    correlation: dict[str, str] | None = None
    options: Options | None = None


class Task(Message, frozen=True, kw_only=True):
    """A request that was understood: what is compared when the same id comes again."""

    task_description: str
    role: str = "DEV"
    num_agents: int = 3
    rounds: int = 1
    rubric: str | dict[str, float] | None = None
    requirements: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    timeout_seconds: float = 300.0
    correlation: dict[str, str] = {}
    early_stop: bool = True
    seed: int | None = None


def parse_request(data: bytes, sequence: int, roles: Collection[str]) -> tuple[str, Task]:
    """Returns the task's id (`d-<sequence>` when the request names none) and the task. Raises `BadRequest`."""
    try:
        _check_depth(data)
        request = decoder(DeliberationRequested).decode(data)
    except msgspec.ValidationError as error:
        raise _explain(data, str(error), sequence) from None
    except msgspec.DecodeError as error:
        raise BadRequest("malformed", "$", f"{error} (at $)") from None
    except UnicodeDecodeError as error:
        raise BadRequest("malformed", "$", f"not UTF-8: {error.reason} (at $)") from None

    task_id = request.task_id or f"d-{sequence}"

    def invalid(path: str, problem: str) -> BadRequest:
        return BadRequest("invalid", path, f"{path}: {problem}", task_id=task_id, correlation=request.correlation)

    if request.task_id and _GENERATED_ID.match(request.task_id):
        raise invalid("$.task_id", "ids of the form d-<digits> are given by the fleet")
    if not request.task_description.strip():
        raise invalid("$.task_description", "must not be blank")
    if request.role is not None and request.role not in roles:
        raise invalid("$.role", f"unknown role, expected one of {', '.join(sorted(roles))}")

    given = request.constraints or Constraints()
    options = request.options or Options()
    fields: dict[str, Any] = {
        "role": request.role,
        "num_agents": request.num_agents,
        "rounds": request.rounds,
        "rubric": given.rubric or None,
        "requirements": given.requirements,
        "metadata": given.metadata,
        "timeout_seconds": given.timeout_seconds,
        "correlation": request.correlation,
        "early_stop": options.early_stop,
        "seed": options.seed,
    }
    present = {name: value for name, value in fields.items() if value is not None}
    return task_id, Task(task_description=request.task_description, **present)


_AT = re.compile(r" - at `(?P<path>[^`]*)`\Z")
_FIELD = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<field>[^`]*)`")


def _explain(data: bytes, problem: str, sequence: int) -> BadRequest:
    """msgspec's first complaint as a rejection, with what can still be read of the body."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # A wrong field in front of broken JSON: the whole is not JSON.
        return BadRequest("malformed", "$", f"{error} (at $)")
    at = _AT.search(problem)
    path = at["path"] if at else "$"
    text = problem[: at.start()] if at else problem
    if field := _FIELD.match(text):
        path = f"{path}.{field['field']}"
    readable = body if isinstance(body, dict) else {}
    task_id = readable.get("task_id")
    if task_id is None and isinstance(body, dict):
        task_id = f"d-{sequence}"
    correlation = readable.get("correlation")
    strings = isinstance(correlation, dict) and all(isinstance(value, str) for value in correlation.values())
    return BadRequest(
        "invalid",
        path,
        f"{path}: {text}",
        task_id=task_id if isinstance(task_id, str) else None,
        correlation=correlation if strings else None,
    )


_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}:,]', re.DOTALL)


def _check_depth(data: bytes) -> None:
    """Refuses what nests deeper than `MAX_DEPTH`, naming the field, without recursing into it."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    keys: list[str] = []  # the key that led to each open object's current member; "" inside an array
    last_string = ""
    top: dict[str, str] = {}
    expect_id = False
    for match in _STRUCTURE.finditer(data):
        token = match[0]
        if token[:1] == b'"':
            last_string = token[1:-1].decode("utf-8", "replace")
            if expect_id:
                top["task_id"] = last_string
                expect_id = False
        elif token in b"{[":
            keys.append("")
            if len(keys) > MAX_DEPTH:
                path = ".".join(["$", *[key for key in keys[:2] if key]])
                raise BadRequest(
                    "invalid", path, f"{path}: nested deeper than {MAX_DEPTH} levels", task_id=top.get("task_id")
                )
        elif token in b"}]":
            if keys:
                keys.pop()
        elif token == b":" and keys:
            keys[-1] = last_string
            expect_id = len(keys) == 1 and last_string == "task_id"
        elif token == b",":
            expect_id = False
