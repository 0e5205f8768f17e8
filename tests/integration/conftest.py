import pytest


@pytest.fixture
def nats_server(nats_url: str) -> str:
    """URL of a nats-server of the test's own, with JetStream."""
    return nats_url
