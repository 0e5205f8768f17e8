"""A second `fleet up` on a NATS where a fleet is at work: it is refused, unless it is meant to share the work."""

import asyncio
import sys
from pathlib import Path

import pytest

from fleet.config import load, names_fleet
from fleet.errors import ConfigError
from fleet.jetstream.connection import connect, disconnect
from fleet.local import other_fleets
from tests.e2e.conftest import environment
from tests.support import agents
from tests.support.fleets.control_plane import running


@pytest.mark.slow
async def test_a_second_fleet_up_is_refused_while_the_first_one_is_at_work(nats_url: str, tmp_path: Path) -> None:
    """Whoever starts it is told whose fleet it is, and what to do."""
    async with running(nats_url, agents.answer):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fleet.cli", "up", "--data-dir", str(tmp_path / "data")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment(NATS_URL=nats_url),
        )
        async with asyncio.timeout(120):
            said, _ = await process.communicate()
        assert process.returncode == 2, said.decode()
        for told in (b"a fleet named 'fleet' is at work", b"FLEET_NAME=fleet", b"account of its own"):
            assert told in said


async def test_where_no_fleet_answers_nobody_is_refused(nats_url: str) -> None:
    """Also where one was at work before."""
    nc = await connect(load({"NATS_URL": nats_url}), "test")
    try:
        await other_fleets.refuse(nc, nats_url)
        async with running(nats_url, agents.answer):
            with pytest.raises(ConfigError, match="at work"):
                await other_fleets.refuse(nc, nats_url)
        await other_fleets.refuse(nc, nats_url)
    finally:
        await disconnect(nc)


def test_a_name_that_was_chosen_is_told_from_the_default(tmp_path: Path) -> None:
    """Be it the same; in the environment or in the file."""
    file = tmp_path / "fleet.toml"
    file.write_text('FLEET_NAME = "fleet"\n')
    assert not names_fleet({})
    assert names_fleet({"FLEET_NAME": "fleet"})
    assert names_fleet({"FLEET_CONFIG": str(file)})
