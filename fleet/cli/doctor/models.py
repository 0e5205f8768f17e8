"""Reports on the model servers for `fleet doctor`."""

from typing import TYPE_CHECKING, Any

from msgspec import structs

from fleet.cli.doctor.findings import Finding
from fleet.config import Settings
from fleet.model_servers import only_for_judges

if TYPE_CHECKING:
    from workers.llm.servers.probe import ProbeResult

MODEL_WITHIN_S = 15.0
LEAST_CONTEXT_TOKENS = 8192


async def model_servers(settings: Settings, known: dict[str, Any]) -> list[Finding]:
    """Each server is asked for one token. It is a failure where none answers."""
    from workers.llm.servers import probe

    if not settings.model_servers and (remembered := known.get("vllm_url")):
        settings = structs.replace(settings, vllm_urls=tuple(remembered.split(",")))
    if not settings.model_servers:
        return [Finding("warn", "models", "VLLM_URL is not set", "set it for real answers; `fleet up` simulates them")]
    results = await probe.ask_all(settings, MODEL_WITHIN_S)
    none = all(each.error for each in results)
    rewards = only_for_judges(settings.judges)
    return [_model_server(each, alone=none, reads_one=each.name in rewards) for each in results]


def _model_server(result: "ProbeResult", *, alone: bool, reads_one: bool) -> Finding:
    """`reads_one`: a reward model, which sees each proposal alone."""
    what = f"{result.kind} {result.name}"
    if result.error:
        return Finding("fail" if alone else "warn", what, result.error, _REMEDIES.get(result.error_type or "", _REMEDY))
    answers = f"{result.model} answers, {result.seconds:.1f} s for one token"
    if result.misses:
        todo = "correct VLLM_MODEL or the role's model, or serve it; another server may"
        return Finding("warn", what, f"{answers}; it does not list {', '.join(result.misses)}", todo)
    if not result.window:
        todo = "set context_window under [models.NAME] or [roles.NAME], so that prompts are kept within it"
        return Finding("warn", what, f"{answers}; it does not say its context window", todo)
    answers = f"{answers}, context window of {result.window:,} tokens"
    if result.window < LEAST_CONTEXT_TOKENS and not reads_one:
        todo = f"at least {LEAST_CONTEXT_TOKENS:,} (--max-model-len): a reviewer reads every proposal at once"
        return Finding("warn", what, answers, todo)
    return Finding("ok", what, answers)


_REMEDY = "see the server's log"
_REMEDIES = {
    "Unauthorized": "set the key it wants: VLLM_API_KEY(_FILE), or api_key_env or api_key_file of the endpoint",
    "ConnectionRefused": "start it, or correct its URL",
    "ConnectionFailed": "start it, or correct its URL; for a certificate see `ca` of the endpoint",
    "NotFound": "correct the URL (with the path that it serves), or the model's name",
    "Timeout": "it may be loading its model, or be overloaded: look again",
    "Config": "set it where doctor and the workers run",
}
