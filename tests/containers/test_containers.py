"""`docker-compose.yml` for real: built, started, each container killed and drained while questions are asked.

`make test-containers`. Needs docker with its compose plugin, or podman; the base images must be there, or within reach.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.containers.stack import SERVICES, Stack
from tests.support.client.asking import Asking

pytestmark = pytest.mark.timeout(1800)
KILLED = 128 + 9


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("containers"))
    stack.build()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def test_a_question_is_answered(stack: Stack) -> None:
    """From outside, as the user `client`."""
    done = stack.ask("Design a rate limiter")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {"nats"}))
def test_containers_write_to_their_own_places_only(stack: Stack, service: str) -> None:
    """Nobody is root, and the image's files are as it brought them."""
    assert stack.inside(service, "id", "-u").strip() == "10001"
    tried = "for d in / /etc /usr/local/bin /home/fleet; do touch $d/written 2>/dev/null && echo $d; done; true"
    assert stack.inside(service, "sh", "-c", tried) == ""
    assert stack.inside(service, "sh", "-c", "touch /tmp/written && echo fine") == "fine\n"


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("hurt", [Stack.kill, Stack.drain], ids=["kill", "drain"])
def test_nothing_is_lost(stack: Stack, service: str, hurt: Callable[[Stack, str], int | None]) -> None:
    """Every question asked meanwhile ends once, and all is well again; what is told to end does so by itself."""
    before = stack.state(service)["StartedAt"]
    with Asking(stack.ask) as asking:
        status = hurt(stack, service)
        stack.until_started_since(service, before)
        stack.until_well()
    asking.check(stack.ends())
    assert status != KILLED
    assert stack.ask("And now?").returncode == 0
