import pytest

from fleet.config import RoleProfile, Settings
from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage, CriterionScore
from workers import answers, window
from workers.roles import resolve, with_persona

SCHEMA = {"type": "object", "properties": {"A": {"type": "object"}}, "required": ["A"], "additionalProperties": False}


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


def test_a_model_is_the_profiles_or_the_settings() -> None:
    """The profile wins; neither leaves it to the server."""
    plain, named = RoleProfile(persona="p"), RoleProfile(persona="p", model="own")
    assert resolve(Settings(roles={"DEV": named}, vllm_model="all"), request()).model == "own"
    assert resolve(Settings(roles={"DEV": plain}, vllm_model="all"), request()).model == "all"
    assert resolve(Settings(roles={"DEV": plain}), request()).model is None


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


def test_scores_are_mapped_from_labels_to_authors() -> None:
    """A label that the prompt did not use is ignored."""
    content = '{"A": {"cost": {"rationale": "r", "score": 7}}, "Z": {}}'
    (card,) = answers.check(request(phase="score", labels={"A": "agent-dev-002"}), content)
    assert (card.author_id, card.criteria) == ("agent-dev-002", {"cost": CriterionScore(score=7.0, rationale="r")})


def test_critiques_are_mapped_from_labels_to_authors() -> None:
    """A fence, and a raw line break in a string, do no harm."""
    content = '```json\n{"A": {"strengths": ["a\nb"], "weaknesses": [], "changes": []}}\n```'
    (critique,) = answers.check(request(phase="critique", labels={"A": "agent-dev-002"}), content)
    assert (critique.author_id, critique.strengths) == ("agent-dev-002", ("a\nb",))


@pytest.mark.parametrize("content", ["no JSON", "{}", '{"A": {}, "B": {}}', "[]", '{"A": 1}', "[" * 100_000])
def test_an_answer_that_breaks_its_schema_is_invalid_and_worth_another_try(content: str) -> None:
    """Whatever the model wrote, it is an `AgentCallError`."""
    with pytest.raises(AgentCallError) as raised:
        answers.check(request(phase="critique", labels={"A": "x"}, answer_schema=SCHEMA), content)
    assert (raised.value.error_type, raised.value.retryable) == ("InvalidAnswer", True)
