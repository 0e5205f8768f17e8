"""Parses `deliberation.requested` into a `Task` with every default filled in, or raises `BadRequest`."""

import re
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from fleet import subjects
from fleet.errors import BadRequest
from fleet.messages import Policy, decode
from fleet.requests import schemas
from fleet.requests.depth import check_depth
from fleet.requests.fields import (
    Constraints,
    DeliberationRequested,
    Options,
    RequestCriterion,
    RequestPolicy,
    Rubric,
    Weight,
    WeightedRubric,
)
from fleet.requests.sizes import too_large
from fleet.requests.task import DEFAULT_AGENTS, Task
from fleet.requests.tolerance import with_integers
from fleet.undecodable import broken_rule, located, why_undecodable

_GENERATED_ID = re.compile(r"d-\d+\Z")


def parse_request(data: bytes, sequence: int, roles: Collection[str] | None) -> tuple[str, Task]:
    """Returns the task's id (`d-<sequence>` when the request names none) and the task. Raises `BadRequest`.

    `roles`: the configured ones; None: unknown here, so any role is accepted. `fleet.requests.compiling` checks whether
    patterns and schema compile: that takes time.
    """
    if not data.strip():
        raise BadRequest("malformed", "$", "$: the body is empty")
    try:
        check_depth(data)
        request = _decoded(data)
    except msgspec.ValidationError as error:
        raise _explain(data, str(error), sequence) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest("malformed", "$", f"$: {why_undecodable(error, data)}") from None

    if roles is not None:
        request = _with_known_roles(request, roles)
    task_id = request.task_id or subjects.generated_id(sequence)
    for path, problem in _problems(request, roles):
        raise BadRequest("invalid", path, f"{path}: {problem}", task_id=task_id, correlation=request.correlation)
    return task_id, _task(request)


def _decoded(data: bytes) -> DeliberationRequested:
    try:
        return decode(data, DeliberationRequested)
    except msgspec.ValidationError:
        if (body := with_integers(data)) is None:
            raise
        return decode(body, DeliberationRequested)


def _with_known_roles(request: DeliberationRequested, roles: Collection[str]) -> DeliberationRequested:
    """Roles as the configuration spells them: case does not matter."""
    spelled = {role.casefold(): role for role in roles} | {role: role for role in roles}

    def known(role: str) -> str:
        return spelled.get(role) or spelled.get(role.casefold()) or role

    options = request.options
    if options is not None and options.roles is not None:
        options = options.change(roles=tuple(known(role) for role in options.roles))
    return request.change(role=None if request.role is None else known(request.role), options=options)


def _problems(request: DeliberationRequested, roles: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """(path, problem) for each rule that the types cannot express."""
    constraints, options = request.constraints or Constraints(), request.options or Options()
    if request.task_id and _GENERATED_ID.match(request.task_id):
        yield "$.task_id", "ids of the form d-<digits> are reserved for the fleet"
    if not request.task_description.strip():
        yield "$.task_description", "must not be blank"
    yield from too_large(request)
    requested = [("$.role", request.role)] if request.role is not None else []
    requested += [(f"$.options.roles[{index}]", role) for index, role in enumerate(options.roles or ())]
    for path, role in requested:
        if roles is not None and role not in roles:
            yield path, f"unknown role, expected one of {', '.join(sorted(roles))}"
    for name, seats in (("roles", options.roles), ("models", options.models)):
        if seats and request.num_agents is not None and len(seats) > request.num_agents:
            yield f"$.options.{name}", f"{len(seats)} {name} for {request.num_agents} agents"
    for path, text in _texts(constraints, options):
        if not text.strip():
            yield path, "must not be blank"
    if options.output_schema is not None and (problem := schemas.too_large(options.output_schema)):
        yield "$.options.output_schema", problem


def _texts(constraints: Constraints, options: Options) -> Iterator[tuple[str, str]]:
    """(path, text) of each text that must not be blank."""
    for name in ("rubric", "architect_rubric"):
        rubric = getattr(constraints, name)
        if isinstance(rubric, dict):
            yield from ((f"$.constraints.{name}", criterion) for criterion in rubric)
    yield from (
        (f"$.constraints.requirements[{index}]", text) for index, text in enumerate(constraints.requirements or ())
    )
    yield from ((f"$.options.models[{index}]", model) for index, model in enumerate(options.models or ()))


def _rubric(rubric: Rubric | WeightedRubric | None) -> WeightedRubric | None:
    """Weights alone. An empty or blank rubric counts as absent."""
    if not rubric or (isinstance(rubric, str) and not rubric.strip()):
        return None
    if isinstance(rubric, str):
        return rubric
    return {name: each.weight if isinstance(each, RequestCriterion) else each for name, each in rubric.items()}


def _descriptions(rubric: Rubric | None) -> dict[str, str]:
    if not isinstance(rubric, dict):
        return {}
    described = {name: each.description for name, each in rubric.items() if isinstance(each, RequestCriterion)}
    return {name: text.strip() for name, text in described.items() if text and text.strip()}


def _patterns(policy: RequestPolicy | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    if policy is not None:
        yield "required", policy.required or ()
        yield "forbidden", policy.forbidden or ()


def _seats(options: Options) -> int:
    """The default of `num_agents`: one for each role, and enough to use each model."""
    return max(len(options.roles) if options.roles else DEFAULT_AGENTS, len(options.models or ()))


def _task(request: DeliberationRequested) -> Task:
    constraints, options = request.constraints or Constraints(), request.options or Options()
    fields: dict[str, Any] = {
        "role": request.role or (options.roles[0] if options.roles else None),
        "num_agents": request.num_agents or _seats(options),
        "rounds": request.rounds,
        "priority": request.priority,
        "rubric": _rubric(constraints.rubric),
        "descriptions": _descriptions(constraints.rubric),
        "reference": (constraints.reference or "").strip() or None,
        "requirements": constraints.requirements,
        "metadata": constraints.metadata,
        "timeout_seconds": constraints.timeout_seconds,
        "policy": Policy(**dict(_patterns(constraints.policy))),
        "architect_rubric": _rubric(constraints.architect_rubric),
        "correlation": request.correlation,
        **msgspec.structs.asdict(options),
    }
    present = {name: value for name, value in fields.items() if value is not None}
    return Task(task_description=request.task_description, **present)


def _explain(data: bytes, problem: str, sequence: int) -> BadRequest:
    """msgspec's error as a `BadRequest`, with the fields of the body that can still be read."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # A wrong field in front of broken JSON: the whole is not JSON.
        return BadRequest("malformed", "$", f"$: {why_undecodable(error, data)}")
    path, rule = located(problem)
    path = _with_key(path, body)
    said = broken_rule(problem, body, DeliberationRequested, path)
    if "matching regex" in rule:  # there is one
        said = f"{path}: expected 1 to 64 letters, digits, `_` or `-`"
    readable = body if isinstance(body, dict) else {}
    task_id = readable.get("task_id")
    if task_id is None and isinstance(body, dict):
        task_id = subjects.generated_id(sequence)
    correlation = readable.get("correlation")
    strings = isinstance(correlation, dict) and all(isinstance(value, str) for value in correlation.values())
    return BadRequest(
        "invalid",
        path,
        said,
        task_id=task_id if isinstance(task_id, str) else None,
        correlation=correlation if strings else None,
    )


def _with_key(path: str, body: Any) -> str:
    """msgspec writes `[...]` for a value in a map: names the first key whose value is invalid."""
    before, placeholder, after = path.partition("[...]")
    if not placeholder:
        return path
    values = body
    for name in before.removeprefix("$").strip(".").split("."):
        values = values.get(name, {}) if isinstance(values, dict) else {}
    kind: Any = Weight | RequestCriterion if "rubric" in before else str
    for key, value in values.items() if isinstance(values, dict) else ():
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return f"{before}.{key}{after}"
    return path
