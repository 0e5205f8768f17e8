import pytest

from fleet.model_servers import EndpointConfig, JudgeConfig, ModelConfig, seats_of


def server(seats: int | None, *models: str) -> EndpointConfig:
    return EndpointConfig(url="http://a", max_concurrency=seats, models=models or None)


@pytest.mark.parametrize(("servers", "seats"), [
    ((server(64),), 64),
    ((server(None),), None),
    ((server(64, "m"), server(32, "m")), 96),
    ((server(64, "m"), server(None, "m")), None),
    ((server(64, "m"), server(32, "n")), None),
    ((server(64), server(32)), None),  # their lists may differ
])  # fmt: skip
def test_seats_are_known_where_any_call_may_have_any_of_them(
    servers: tuple[EndpointConfig, ...], seats: int | None
) -> None:
    """Else a call may wait for one while another has room."""
    named = {f"e{number}": each for number, each in enumerate(servers)}
    assert seats_of(named, {}, {}) == seats
    everywhere = {"m": ModelConfig(endpoints=tuple(named))}
    assert seats_of(named, {"anywhere": JudgeConfig(kind="score")}, everywhere) == seats


def test_seats_are_not_known_where_some_calls_may_have_only_some_of_them() -> None:
    """A reward model that does not answer holds up its calls until their time has passed, and no others."""
    servers = {"a": server(64, "m"), "b": server(32, "m")}
    assert seats_of(servers, {}, {"m": ModelConfig(endpoints=("a",))}) is None
    assert seats_of(servers, {"judge": JudgeConfig(kind="score", endpoint="a")}, {}) is None
    reward = {"reward": JudgeConfig(kind="classify", endpoint="rm")}
    for seats in (8, None):
        assert seats_of({"a": server(64), "rm": server(seats)}, reward, {}) is None
