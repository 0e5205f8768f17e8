import pytest

from fleet.config import RoleProfile, Settings
from fleet.errors import AgentCallError
from fleet.messages import AgentRequested, ChatMessage
from fleet.model_servers import ModelConfig
from workers.llm.requests import resolve, with_persona
from workers.llm.servers import context_window as window


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


def test_the_persona_begins_the_first_user_message_and_nothing_else_changes() -> None:
    """The shared prefix stays the same, byte for byte; so do an author's own answer and what follows it."""
    after = (ChatMessage(role="assistant", content="done"), ChatMessage(role="user", content="again"))
    given = (*request().messages, *after)
    system, user, *rest = with_persona(given, "You are kind.")
    assert system is given[0]
    assert user.content == "You are kind.\n\ndo"
    assert tuple(rest) == after


def test_a_model_is_the_requests_the_profiles_or_the_settings() -> None:
    """The first that names one wins; none leaves it to the server."""
    plain, named = RoleProfile(persona="p"), RoleProfile(persona="p", model="own")
    assert resolve(Settings(roles={"DEV": named}, vllm_model="all"), request(model="asked")).targets[0].name == "asked"
    assert resolve(Settings(roles={"DEV": named}, vllm_model="all"), request()).targets[0].name == "own"
    assert resolve(Settings(roles={"DEV": plain}, vllm_model="all"), request()).targets[0].name == "all"
    assert resolve(Settings(roles={"DEV": plain}), request()).targets[0].name is None


def test_calls_that_judge_have_a_model_of_their_own() -> None:
    """Where the role names one."""
    settings = Settings(roles={"DEV": RoleProfile(persona="p", model="small", judge_model="big")})
    names = [
        resolve(settings, request(phase=phase)).targets[0].name for phase in ("propose", "revise", "score", "vote")
    ]
    assert names == ["small", "small", "big", "big"]


def test_fallbacks_and_the_base_of_an_adapter_stand_in() -> None:
    """In their order, each once, and each says for what it stands in."""
    models = {
        "fast": ModelConfig(name="org/fast", endpoints=("one",), fallbacks=("tuned", "big"), context_window=9),
        "tuned": ModelConfig(name="adapter", base="org/base", fallbacks=("fast",)),
    }
    settings = Settings(roles={"DEV": RoleProfile(persona="p", model="fast")}, models=models)
    first, *others = resolve(settings, request()).targets
    assert (first.name, first.endpoints, first.window, first.stands_in) == ("org/fast", frozenset({"one"}), 9, "")
    assert [(target.name, target.stands_in.partition(" ")[0]) for target in others] == [
        ("adapter", "tuned"),
        ("big", "big"),
        ("org/base", "org/base"),
    ]


def test_a_window_is_the_profiles_for_the_profiles_model_only() -> None:
    """Of another model, the server knows it."""
    settings = Settings(roles={"DEV": RoleProfile(persona="p", model="own", context_window=100)})
    windows = [resolve(settings, request(model=model)).targets[0].window for model in (None, "own", "other")]
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


@pytest.mark.parametrize(
    ("bytes_", "reported", "cut"),
    [
        (44_000, 4095, True),
        (28_000, 4096, True),
        (16_000, 4096, False),
        (44_000, 10_000, False),
        (200_000, 8_000, True),
        (1_000, 10, False),
        (0, 0, False),
    ],
)
def test_a_cut_prompt_is_seen_by_what_the_server_counted(bytes_: int, reported: int, cut: bool) -> None:
    """Only where no tokenizer could have counted so few."""
    messages = (ChatMessage(role="user", content="wordy " * (bytes_ // 6)),)
    assert window.is_cut(messages, reported) is cut


def test_runs_of_one_character_are_no_sign_of_a_cut() -> None:
    """Tokenizers make one token of many blanks."""
    assert not window.is_cut((ChatMessage(role="user", content="x" + " " * 100_000),), 4095)


def test_a_character_of_several_bytes_is_no_sign_of_a_cut() -> None:
    """A token of a repeated Japanese phrase may stand for a dozen of them."""
    assert not window.is_cut((ChatMessage(role="user", content="詳細を尽くして" * 2_500),), 1_460)
