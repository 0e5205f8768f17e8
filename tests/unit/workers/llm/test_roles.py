import pytest

from fleet.config import RoleProfile, Settings
from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage
from workers.llm import context_window as window
from workers.llm.roles import resolve, with_persona


def request(**more: object) -> AgentRequested:
    fields: dict[str, object] = {
        "task_id": "t",
        "agent_id": "agent-dev-001",
        "role": "DEV",
        "phase": "propose",
        "round": 0,
        "messages": (ChatMessage(role="system", content="rules"), ChatMessage(role="user", content="do")),
        "seed": 1,
        "num_agents": 3,
        "deadline_at": "2026-01-01T00:00:00.000Z",
    }
    return AgentRequested(**{**fields, **more})  # type: ignore[arg-type]


def test_the_persona_ends_the_last_user_message_and_nothing_before_it_changes() -> None:
    """The shared prefix stays the same, byte for byte."""
    given = request().messages
    system, user = with_persona(given, "You are kind.")
    assert system is given[0]
    assert user.content == "do\n\nYou are kind."


def test_a_model_is_the_requests_the_profiles_or_the_settings() -> None:
    """The first that names one wins; none leaves it to the server."""
    plain, named = RoleProfile(persona="p"), RoleProfile(persona="p", model="own")
    assert resolve(Settings(roles={"DEV": named}, vllm_model="all"), request(model="asked")).model == "asked"
    assert resolve(Settings(roles={"DEV": named}, vllm_model="all"), request()).model == "own"
    assert resolve(Settings(roles={"DEV": plain}, vllm_model="all"), request()).model == "all"
    assert resolve(Settings(roles={"DEV": plain}), request()).model is None


def test_a_window_is_the_profiles_for_the_profiles_model_only() -> None:
    """Of another model, the server knows it."""
    settings = Settings(roles={"DEV": RoleProfile(persona="p", model="own", context_window=100)})
    windows = [resolve(settings, request(model=model)).context_window for model in (None, "own", "other")]
    assert windows == [100, 100, None]


def test_a_role_without_a_profile_is_not_retryable() -> None:
    """No other attempt would know it."""
    with pytest.raises(AgentCallError) as raised:
        resolve(Settings(), request())
    assert (raised.value.error_type, raised.value.retryable) == ("UnknownRole", False)


def test_the_answer_gets_what_the_prompt_leaves() -> None:
    """`max_tokens` is lowered, the prompt is not cut."""
    assert window.answer_tokens(80, 100, 200, setting="") == 100
    assert window.answer_tokens(150, 100, 200, setting="") == 50


def test_too_little_room_is_an_overflow_that_names_tokens_window_and_setting() -> None:
    """So that the reader knows what to change."""
    with pytest.raises(AgentCallError, match=r"190 tokens.* window of 200 .*raise it") as raised:
        window.answer_tokens(190, 100, 200, setting="raise it")
    assert (raised.value.error_type, raised.value.retryable) == ("ContextOverflow", False)
