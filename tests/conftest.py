"""A real nats-server for whoever needs one: a free port, a temporary store, gone with the test."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from fleet.errors import ConfigError
from fleet.local.nats_server import EmbeddedNats, find_server

# structlog would draw each error with the local variables around it: that stands on the event loop for seconds.
_PLAIN = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def apart_from_other_fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs on this machine besides is not found by commands here, and finds nothing that is started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(autouse=True)
def logging_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test runs in this process sets up its log, and no other test's: loggers keep no stream of it."""
    before, configure = structlog.get_config(), structlog.configure

    def uncached(**given: Any) -> None:
        configure(**given | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    configure(**before)
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def nats_binary() -> None:
    """The binary is there: a visible skip without it on a laptop, a failure under CI."""
    try:
        find_server()
    except ConfigError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture
async def nats_url(tmp_path: Path, nats_binary: None) -> AsyncIterator[str]:
    """URL of a nats-server with JetStream. What it has written survives the process; no test here cuts the power."""
    server = EmbeddedNats(tmp_path / "nats", sync_interval="1m")
    await server.start()
    yield server.url
    await server.stop()
