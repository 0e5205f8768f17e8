"""A client in an account of its own, with the exports that `permissions.conf` advises."""

import json
import re
from pathlib import Path

import nats
import pytest

from fleet import subjects
from tests.support import agents, servers
from tests.support.control_plane import Fleet, running
from tests.support.following import Follower, steps
from tests.support.permitted import PERMISSIONS
from tests.support.servers import HOST


def exports() -> str:
    """As the comment says them."""
    comment = re.sub(r"^# ?", "", PERMISSIONS.read_text(), flags=re.MULTILINE)
    found = re.search(r"exports: \[.*?\]", comment, re.DOTALL)
    assert found is not None
    return found[0]


@pytest.mark.usefixtures("nats_binary")
async def test_a_client_of_another_account_asks_and_follows(tmp_path: Path) -> None:
    """All replies reach it, and the server waits two hours for each."""
    names = (subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL)
    imports = ", ".join(f'{{ service: {{ account: FLEET, subject: "{name}" }} }}' for name in names)
    accounts = f"""
accounts {{
  FLEET {{ jetstream: enabled, users: [{{ user: fleet, password: p }}], {exports()} }}
  TEAM {{ users: [{{ user: team, password: p }}], imports: [{imports}] }}
}}"""
    async with servers.one(tmp_path / "nats", more=accounts) as server:
        url = f"{HOST}:{server.port}"
        async with running(f"nats://fleet:p@{url}", agents.answer) as fleet:
            team = Fleet(await nats.connect(f"nats://team:p@{url}"), fleet.inbox)
            code, done = await team.ask(subjects.ASK, {"task_id": "t", "task_description": "Design it"})
            assert (code, done["status"]) == (None, "COMPLETED")
            replies = await (await Follower(team).call({"task_description": "Design it"})).rest()
            assert {"propose", "critique", "revise", "score"} == {phase for phase, *_ in steps(replies)}
            assert replies[-1]["status"] == "COMPLETED"
            await team.nc.close()
        config = await server.look("accountz?acc=FLEET") or {}
        told = {export["subject"]: export for export in config["account_detail"]["exports"]}
        assert set(told) == set(names), json.dumps(told)
