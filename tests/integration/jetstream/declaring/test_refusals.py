"""What the server's operator has limited is told at the start: by stream, and with what to do."""

from pathlib import Path

import pytest
from msgspec import structs

from fleet import subjects
from fleet.config import Limits, load
from fleet.control import collector
from fleet.errors import ConfigError
from fleet.jetstream.connection import connect, disconnect
from tests.support.nats import servers

pytestmark = pytest.mark.usefixtures("nats_binary")


def account(limits: str) -> str:
    return (
        f"accounts {{ limited {{ jetstream: {{ {limits} }}, users: [{{ user: u, password: p }}] }} }}\nno_auth_user: u"
    )


@pytest.mark.parametrize(
    ("configuration", "limits", "said"),
    [
        (account("max_memory: 64MB, max_file: 10GB"), Limits(), "AGENT_PROGRESS: insufficient memory .* storage to"),
        (account("max_memory: 1GB, max_file: 1GB"), Limits(), "DELIBERATIONS: insufficient storage .* max_bytes"),
        (account("max_memory: 0, max_file: 10GB"), Limits(), "AGENT_PROGRESS: insufficient memory"),
        (account("max_memory: 1GB, max_file: 10GB, max_streams: 5"), Limits(), "maximum number of streams"),
        (
            account("max_memory: 1GB, max_file: 10GB, max_ack_pending: 100"),
            Limits(),
            "the consumer [a-z]+ of [A-Z_]+: consumer max ack pending .* raise that limit",
        ),
        ("", Limits(replicas=3), "DELIBERATION_REQUESTS: replicas > 1 .* replicas under"),
        ("", Limits(results_days=0.001), "DELIBERATIONS: duplicates window .* results_days"),
    ],
)
async def test_a_limit_ends_the_start(tmp_path: Path, configuration: str, limits: Limits, said: str) -> None:
    async with servers.one(tmp_path, more=configuration) as server:
        settings = structs.replace(load({"NATS_URL": server.url}), limits=limits)
        with pytest.raises(ConfigError, match=said):
            await collector.run(settings, on_ready=lambda: None)


async def test_a_stream_of_others_with_our_subjects_is_told(nats_url: str) -> None:
    settings = load({"NATS_URL": nats_url})
    nc = await connect(settings, "test")
    await nc.jetstream().add_stream(name="ALL", subjects=["agent.>"])
    with pytest.raises(ConfigError, match=f"{subjects.AGENT_REQUESTS}: subjects overlap .* another stream takes"):
        await collector.run(settings, on_ready=lambda: None)
    await disconnect(nc)
