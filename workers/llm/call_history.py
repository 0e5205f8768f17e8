"""Remembers what the attempts of one call have shown: what went wrong, and which endpoints not to ask again."""

from msgspec import structs

from fleet.errors import AgentCallError
from workers.llm.attempt import Attempt
from workers.llm.failures import CONNECTION_TYPES, AttemptError
from workers.llm.reading.answer import BYTES_PER_TOKEN
from workers.llm.requests import ModelRequest
from workers.llm.servers import context_window
from workers.llm.servers.endpoints import Endpoints
from workers.llm.servers.search import Nowhere, Route, Search

_OF_THE_REQUEST = frozenset({"BadRequest", "ContentFiltered", "ContextOverflow", "RequestTooLarge", "PromptTruncated"})
"""Refusals that say nothing of the next request."""

_OF_THE_FORM = frozenset({"BadRequest", "Unauthorized", "UnexpectedStatus", "NotFound", "ContextOverflow"})
"""Refusals that may be of how a request was sent; some say 403 of a parameter that a model does not take."""


class CallHistory:
    """Of one call. What other calls should know, too, it tells the endpoints."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self.errors: list[AttemptError] = []
        self.invalid: Attempt | None = None
        """The last one whose answer could not be used."""
        self.impatient = 0
        """How often the first token did not come in time."""
        self._failed: set[str] = set()
        """Endpoints that failed since the call last waited."""
        self._refused: dict[tuple[str, str | None], AttemptError] = {}
        self._prompt_tokens: dict[tuple[str, str], int] = {}
        self._last: Attempt | None = None

    # --- what an attempt teaches ------------------------------------------------------------------------------------

    def adapted(self, attempt: Attempt, error: AttemptError, request: ModelRequest) -> bool:
        """Whether the same endpoint can be asked in another form, which costs nothing: it has refused to begin."""
        route = attempt.route
        if route is None or error.begun or error.fault != "endpoint" or not attempt.sent:
            return False
        endpoint, key = route.endpoint, _key(route)
        form, said = attempt.form, error.body or error.error
        if form is not None and form.lessons > attempt.lessons and error.error_type in _OF_THE_FORM:
            return True  # Another call was refused meanwhile: this one was sent as nothing is sent any more.
        if error.error_type == "ContextOverflow" and form is not None and form.learn_most_tokens(said, attempt.sent):
            return True
        if error.error_type == "ContextOverflow" and error.window and key not in self._prompt_tokens:
            endpoint.learn_window(attempt.model, error.window)
            tokens = error.prompt_tokens or context_window.estimate_tokens(request.messages)
            self._prompt_tokens[key] = tokens
            return error.window - tokens >= context_window.MIN_ANSWER_TOKENS
        if error.error_type in _OF_THE_FORM and form is not None:
            return form.learn(said, attempt.sent)
        return False

    def note(self, attempt: Attempt, error: AttemptError) -> None:
        """It failed: what this call, and others after it, should know of the endpoint."""
        self.errors.append(error)
        self._last = attempt
        if error.error_type == "InvalidAnswer":
            self.invalid = attempt
        route = attempt.route
        if route is None:
            return
        endpoint, name, now = route.endpoint, route.target.name, self._endpoints.clock()
        self._failed.add(endpoint.name)
        if error.fault == "busy":
            endpoint.pause(error.retry_after_s, now)
        if error.error_type in CONNECTION_TYPES and not error.begun:
            endpoint.forget()  # It may come back with another model.
        if attempt.waited_for_first:
            self.impatient += 1
        if error.fault == "endpoint":
            self._refused[endpoint.name, name] = error
            if error.error_type not in _OF_THE_REQUEST:
                endpoint.refused(name, error, now)
            if error.error_type == "NotFound" and attempt.sent:
                endpoint.forget()

    def note_success(self, route: Route) -> None:
        """This endpoint took what others refused: these are not asked for a while."""
        now = self._endpoints.clock()
        route.endpoint.took(route.target.name)
        for endpoint in self._endpoints.all:
            error = self._refused.get((endpoint.name, route.target.name))
            if error is not None and error.error_type == "BadRequest" and endpoint is not route.endpoint:
                endpoint.refused(route.target.name, error, now)

    def note_wait(self) -> None:
        """What failed before may be well again."""
        self._failed.clear()

    def note_other_prompt(self) -> None:
        """How many tokens it has is not known."""
        self._prompt_tokens.clear()

    # --- where to go next -------------------------------------------------------------------------------------------

    def search(self, request: ModelRequest, failed: Attempt | None = None) -> Search:
        """Where the next attempt may go. `failed`: the attempt that it should not be beside; else the last one."""
        last = failed or self._last
        error = self.errors[-1] if self.errors else None
        return Search(
            targets=request.targets,
            # Where a judge is asked says nothing of where the task's own prompts are cached.
            task_id=request.task_id if request.judge is None else f"{request.task_id}/judge",
            failed=last.route.endpoint if last is not None and last.route is not None else None,
            unreachable=error is not None and not error.begun,
            refused=self._refused.keys(),
            suspect=any(each.fault == "server" and each.begun for each in self.errors),
            expected_tokens=_expected_tokens(request),
        )

    def has_another(self, request: ModelRequest) -> bool:
        """Whether an endpoint is left that has not refused this call, now or later."""
        try:
            self._endpoints.choose(self.search(request))
        except Nowhere:
            return False
        return True

    def has_fresh(self, request: ModelRequest) -> bool:
        """Whether another endpoint can take the call now that has not failed it since it last waited."""
        route = self._endpoints.another(self.search(request))
        return route is not None and route.endpoint.name not in self._failed

    def has_beside(self, route: Route, search: Search) -> bool:
        """Whether an endpoint other than that of `route` can take the call now."""
        return self._endpoints.another(structs.replace(search, failed=route.endpoint, unreachable=False)) is not None

    def prompt_tokens(self, route: Route) -> int | None:
        """As the endpoint has counted them, when it refused."""
        return self._prompt_tokens.get(_key(route))

    # --- what to say at the end -------------------------------------------------------------------------------------

    def nowhere(self, request: ModelRequest) -> AgentCallError:
        """Why no endpoint is left."""
        if self.errors:
            return self.errors[-1]
        names = ", ".join(target.name or "any model" for target in request.targets)
        text = f"no endpoint of the settings serves {names}"
        return AttemptError("NotFound", text, fault="request", begun=False)

    def first_cause(self, error: AttemptError) -> AttemptError:
        """A repair that did not fit the window says less than the answer that was to be repaired."""
        first = next((each for each in self.errors if each.error_type == "InvalidAnswer"), None)
        return first if first is not None and error.error_type == "ContextOverflow" else error


def _key(route: Route) -> tuple[str, str]:
    return route.endpoint.name, route.target.name or ""


def _expected_tokens(request: ModelRequest) -> int:
    """What a call will use, before anybody has counted: its prompt, and a quarter of what its answer may have."""
    return sum(len(message.content) for message in request.messages) // BYTES_PER_TOKEN + request.max_tokens // 4
