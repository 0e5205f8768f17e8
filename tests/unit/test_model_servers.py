import pytest

from fleet.model_servers import EndpointConfig, JudgeConfig, seats_of


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
    """Else a call may wait for one while another has room. Where reward models are, no other call goes."""
    named = {f"e{number}": each for number, each in enumerate(servers)}
    assert seats_of(named, {}) == seats
    judges = {"reward": JudgeConfig(kind="classify", endpoint="rm")}
    assert seats_of({**named, "rm": server(None)}, judges) == seats
