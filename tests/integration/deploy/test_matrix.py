"""Each user against each verb of JetStream, NATS and the fleet, with the shipped permissions, on a real server.

Every verb that the server knows is tried by every user on every stream. What is let through is listed here, by hand,
with the reason why it does no harm; all else must be refused. `rights.py` plays no part in what is expected.
"""

import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client

from fleet import subjects
from fleet.config import load
from fleet.jetstream import topology
from tests.support.nats.permitted import CLIENTS_APART, PERMISSIONS, Users, permitted, settle

pytestmark = pytest.mark.usefixtures("nats_binary")

QUEUES = {
    subjects.DELIBERATION_REQUESTS: subjects.DISPATCHER,
    subjects.DELIBERATION_CONTROL: subjects.CONTROLLER,
    subjects.AGENT_REQUESTS: subjects.WORKERS,
    subjects.AGENT_RESPONSES: subjects.COLLECTOR,
}
"""Streams with a consumer of the fleet's."""
READ = (subjects.DELIBERATIONS, subjects.AGENT_PROGRESS_STREAM, subjects.STATES)
"""What anybody may read by consumers; answers too, by name."""
STORES = (subjects.TEXTS_STREAM, subjects.ANSWERS_STREAM)
STREAMS = (
    *(*QUEUES, *READ, subjects.DEAD_LETTERS, *STORES),
    *(subjects.WORKERS_STREAM, subjects.KEYS_STREAM, subjects.CACHE_STREAM),
)
BODY = b"!"
"""No request of JetStream's API is valid with it: what is let through changes nothing."""
KEY = f"$KV.{subjects.BUCKET}.victim"
SECRET = f"$KV.{subjects.KEYS}.calls"
SLOT = f"$KV.{subjects.CACHE}.default.7"
META, CHUNK = f"$O.{subjects.TEXTS}.M.bmFtZQ==", f"$O.{subjects.TEXTS}.C.chunk"
NOTE, PIECE = f"$O.{subjects.ANSWERS}.M.bmFtZQ==", f"$O.{subjects.ANSWERS}.C.chunk"

VERBS = (
    *("INFO", "STREAM.NAMES", "STREAM.LIST", "META.LEADER.STEPDOWN", "SERVER.REMOVE", "ACCOUNT.PURGE.FLEET"),
    *("ACCOUNT.STREAM.MOVE.FLEET.{s}", "ACCOUNT.STREAM.CANCEL_MOVE.FLEET.{s}", "STREAM.TEMPLATE.CREATE.{s}"),
    *(f"STREAM.{verb}.{{s}}" for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "INFO", "SNAPSHOT", "RESTORE")),
    *(f"STREAM.{verb}.{{s}}" for verb in ("MSG.GET", "MSG.DELETE", "LEADER.STEPDOWN", "PEER.REMOVE")),
    *("DIRECT.GET.{s}", "DIRECT.GET.{s}.{k}", "CONSUMER.NAMES.{s}", "CONSUMER.LIST.{s}", "CONSUMER.CREATE.{s}"),
    *("CONSUMER.CREATE.{s}.{c}", "CONSUMER.CREATE.{s}.{c}.{k}", "CONSUMER.DURABLE.CREATE.{s}.{c}"),
    *(f"CONSUMER.{verb}.{{s}}.{{c}}" for verb in ("INFO", "DELETE", "MSG.NEXT", "PAUSE", "RESET", "UNPIN")),
    "CONSUMER.LEADER.STEPDOWN.{s}.{c}",
)
"""`$JS.API.…`, as nats-server 2.15 has them; {s} a stream, {c} a consumer, {k} the subject of a message."""

OTHERS = (
    *("$JS.ACK.{s}.{c}.1.1.1.1.0", "$JS.ACK._.HASH.{s}.{c}.1.1.1.1.0.x"),
    *("$JS.SNAPSHOT.ACK.{s}.x", "$JS.SNAPSHOT.RESTORE.{s}.x", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{s}.{c}"),
    *("$JS.EVENT.ADVISORY.STREAM.DELETED.{s}", "$JS.FC.{s}.{c}.x", "$JSC.R.x", "$NRG.P.x"),
    *("$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.FLEET.CONNZ", "$SYS.ACCOUNT.FLEET.CONNECT"),
    *("$SYS.REQ.SERVER.X.RELOAD", "$SYS.REQ.CLAIMS.UPDATE", "$MQTT.sub.x", "$G.x", "$GNR.x"),
    *(
        KEY,
        f"$KV.{subjects.WORKERS_BUCKET}.limits",
        subjects.POOL,
        subjects.TURN,
        META,
        CHUNK,
        NOTE,
        PIECE,
        SECRET,
        SLOT,
    ),
    *("_INBOX.x", "_INBOX.control.x", "_INBOX.worker.x", "_R_.x"),
    *("$SRV.PING", "$SRV.INFO.deliberations", "$SRV.STATS.deliberations.x"),
    *(subjects.DELIVER_REQUESTS, subjects.DELIVER_RESPONSES, subjects.DELIVER_CONTROL, subjects.instance_of("x")),
    *(subjects.REQUESTED, subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL),
    *(subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL),
    *(subjects.AGENT_REQUESTED, subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.AGENT_PROGRESS),
    *(subjects.AGENT_STOP, subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE, subjects.CONTROL_LOOK),
    subjects.schedule_of("victim"),
    *(f"deadletter.{subjects.AGENT_REQUESTED}", f"deadletter.{subjects.REQUESTED}", subjects.replayed(1)),
)


def tried() -> Iterator[str]:
    """Every subject; consumers are the fleet's own, where there is one, and one of somebody's."""
    seen: dict[str, None] = {}
    for template in (*(f"$JS.API.{verb}" for verb in VERBS), *OTHERS):
        for stream in STREAMS:
            for consumer in filter(None, (QUEUES.get(stream), "theirs")):
                for key in KEYS.get(stream, ("x",)):
                    seen[template.format(s=stream, c=consumer, k=key)] = None
    return iter(seen)


KEYS = {
    subjects.STATES: (KEY,),
    subjects.TEXTS_STREAM: (META, CHUNK, "$O.>"),
    subjects.ANSWERS_STREAM: (NOTE, PIECE, "$O.>"),
    subjects.WORKERS_STREAM: (f"$KV.{subjects.WORKERS_BUCKET}.status.w",),
    subjects.KEYS_STREAM: (SECRET, ">"),
    subjects.CACHE_STREAM: (SLOT,),
    subjects.DELIBERATIONS: (subjects.COMPLETED, ">"),
    subjects.AGENT_RESPONSES: (subjects.AGENT_COMPLETED,),
    subjects.AGENT_PROGRESS_STREAM: (subjects.AGENT_PROGRESS,),
}

ASKS = {
    "requests, whose headers and bodies are judged": [re.escape(subjects.REQUESTED)],
    "endpoints of the service": [
        re.escape(subject) for subject in (subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL)
    ],
}
LOOKS = {
    "tells of itself": [r"\$SYS\.REQ\.USER\.INFO", r"\$JS\.API\.INFO", r"\$SRV\.(PING|INFO|STATS).*"],
    "names and numbers": [r"\$JS\.API\.STREAM\.(NAMES|LIST|INFO\.\w+)", r"\$JS\.API\.STREAM\.INFO\..*"],
    "of a consumer, numbers": [r"\$JS\.API\.CONSUMER\.INFO\..*"],
    "reads one state, event or text": [
        rf"\$JS\.API\.(STREAM\.MSG|DIRECT)\.GET\.({subjects.STATES}|{subjects.DELIBERATIONS})(\..*)?",
        rf"\$JS\.API\.STREAM\.MSG\.GET\.({'|'.join(STORES)})",
        rf"\$JS\.API\.DIRECT\.GET\.{subjects.WORKERS_STREAM}\..*",
    ],
    "flow control of one's own consumer": [r"\$JS\.FC\..*"],
}
CONSUMES = {
    "a consumer: what it delivers tells where it is from, and the fleet looks": [
        rf"\$JS\.API\.CONSUMER\.CREATE\.({'|'.join(READ)})(\..*)?",
        rf"\$JS\.API\.CONSUMER\.CREATE\.{subjects.AGENT_RESPONSES}\.theirs(\..*)?",
        rf"\$JS\.API\.CONSUMER\.MSG\.NEXT\.({'|'.join(READ)})\..*",
        rf"\$JS\.API\.CONSUMER\.MSG\.NEXT\.{subjects.AGENT_RESPONSES}\.theirs",
    ],
}
MAY: dict[str, dict[str, list[str]]] = {
    "client": {
        **ASKS,
        **LOOKS,
        **CONSUMES,
        "names and sizes of texts, no chunk": [
            rf"\$JS\.API\.CONSUMER\.CREATE\.{subjects.TEXTS_STREAM}\.theirs\.{re.escape(META)}",
            rf"\$JS\.API\.DIRECT\.GET\.{subjects.TEXTS_STREAM}\.{re.escape(META)}",
            rf"\$JS\.API\.CONSUMER\.DELETE\.{subjects.TEXTS_STREAM}\.theirs",
        ],
        "takes away a consumer of its own kind": [
            rf"\$JS\.API\.CONSUMER\.DELETE\.({'|'.join((*READ, subjects.AGENT_RESPONSES))})\.theirs",
            rf"\$JS\.ACK\.({subjects.DELIBERATIONS}|{subjects.AGENT_PROGRESS_STREAM})\..*",
        ],
    },
    "viewer": {
        **LOOKS,
        **CONSUMES,
        "status of a task": [re.escape(subjects.RESULT)],
        "what waits, and what nobody could handle; wrapped by the server": [
            rf"\$JS\.API\.STREAM\.MSG\.GET\.({subjects.DELIBERATION_REQUESTS}|{subjects.DEAD_LETTERS})"
        ],
    },
    "worker": {
        "its trade": [
            *map(re.escape, (subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.AGENT_PROGRESS)),
            re.escape(f"deadletter.{subjects.AGENT_REQUESTED}"),
            rf"\$JS\.API\.CONSUMER\.(MSG\.NEXT|INFO)\.{subjects.AGENT_REQUESTS}\.{subjects.WORKERS}",
            rf"\$JS\.ACK\.{subjects.AGENT_REQUESTS}\.{subjects.WORKERS}\..*",
        ],
        "how it is, and its share of limits": [
            rf"\$KV\.{subjects.WORKERS_BUCKET}\.(?!{subjects.POOL_KEY}|{subjects.TURN_KEY}).*"
        ],
        "long answers, and notes; what is there stays": [re.escape(NOTE), re.escape(PIECE)],
        "tells of itself": [r"\$SYS\.REQ\.USER\.INFO", r"\$JS\.API\.(INFO|STREAM\.NAMES)", r"\$JS\.FC\..*"],
        "reads": [
            rf"\$JS\.API\.STREAM\.INFO\.({subjects.AGENT_REQUESTS}|{subjects.STATES})",
            rf"\$JS\.API\.(STREAM\.MSG|DIRECT)\.GET\.{subjects.STATES}(\..*)?",
            rf"\$JS\.API\.STREAM\.MSG\.GET\.{subjects.TEXTS_STREAM}",
            rf"\$JS\.API\.DIRECT\.GET\.{subjects.ANSWERS_STREAM}\.{re.escape(NOTE)}",
            rf"\$JS\.API\.DIRECT\.GET\.{subjects.WORKERS_STREAM}\..*",
        ],
    },
    "operator": {
        **ASKS,
        "repairs by hand": [r"\$JS\.(API|ACK|FC|SNAPSHOT)\..*", r"\$SRV\..*", r"\$SYS\.REQ\.USER\.INFO"],
        "puts messages back": [
            *map(re.escape, (subjects.AGENT_REQUESTED, subjects.AGENT_COMPLETED, subjects.AGENT_FAILED)),
            *map(re.escape, (subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE, subjects.CONTROL_LOOK)),
            *map(re.escape, (subjects.replayed(1), KEY, SLOT, META, CHUNK, NOTE, PIECE)),
        ],
    },
}
APART = {
    **ASKS,
    "tells of itself": LOOKS["tells of itself"],
    "names and numbers": [r"\$JS\.API\.STREAM\.INFO\..*"],
    "reads one state, event or text": LOOKS["reads one state, event or text"],
}
"""A client in an account of its own."""


@asynccontextmanager
async def declared(folder: Path, permissions: Path = PERMISSIONS) -> AsyncIterator[Users]:
    async with permitted(folder / "nats", permissions=permissions) as users:
        async with users.connected("control") as (control, _):
            await topology.declare(control.jetstream(), load({}))
        yield users


async def refused_to(nc: Client, refused: list[str], verb: str, which: list[str]) -> set[str]:
    """Those of these subjects that the server does not let this connection publish or subscribe to."""
    for subject in which:
        if verb == "publish":
            await nc.publish(subject, BODY)
        else:
            await nc.subscribe(subject)
    await settle(nc)
    named = {found[1] for text in refused if (found := re.search(r'for \w+ to "([^"]+)"', text))}
    return {subject for subject in which if subject in named or subject.lower() in named}


@pytest.mark.parametrize(("user", "permissions"), [*((user, PERMISSIONS) for user in MAY), ("client", CLIENTS_APART)])
async def test_each_user_may_what_is_listed_and_nothing_else(tmp_path: Path, user: str, permissions: Path) -> None:
    """Publishing. A verb or stream that is new fails here, until somebody says why it may be allowed."""
    listed = APART if permissions == CLIENTS_APART else MAY[user]
    patterns = list(itertools.chain.from_iterable(listed.values()))
    which = list(tried())
    async with declared(tmp_path, permissions) as users, users.connected(user) as (nc, refused):
        denied = await refused_to(nc, refused, "publish", which)
    allowed = {subject for subject in which if any(re.fullmatch(pattern, subject) for pattern in patterns)}
    assert sorted(set(which) - denied - allowed) == [], "let through, and not listed"
    assert sorted(denied & allowed) == [], "listed, and refused"


# --- listening --------------------------------------------------------------------------------------------------------

HEARD = (
    *(subjects.REQUESTED, subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL),
    *(subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL),
    *(subjects.AGENT_REQUESTED, subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.AGENT_PROGRESS),
    *(subjects.AGENT_STOP, subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE, subjects.CONTROL_LOOK),
    subjects.schedule_of("victim"),
    *(subjects.DELIVER_REQUESTS, subjects.DELIVER_RESPONSES, subjects.DELIVER_CONTROL, subjects.instance_of("x")),
    *(f"deadletter.{subjects.AGENT_REQUESTED}", KEY, META, CHUNK, NOTE, PIECE, SECRET, SLOT),
    f"$KV.{subjects.WORKERS_BUCKET}.status.w",
    *("_INBOX.control.x", "_INBOX.worker.x", "_INBOX.x", "_R_.x", "$SRV.PING", "$JS.API.>", "$JS.ACK.>", "$SYS.>"),
    *(
        "$JS.EVENT.ADVISORY.>",
        "deliberation.>",
        "agent.>",
        "control.>",
        "fleet.>",
        "$KV.>",
        "$O.>",
        "$JS.>",
        ">",
        "*.>",
    ),
)
EVENTS = {subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL}
ANSWERS = {subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.AGENT_PROGRESS}
HEARS: dict[str, set[str]] = {
    "client": {"_INBOX.x", *EVENTS, *ANSWERS},
    "viewer": {"_INBOX.x", *EVENTS, *ANSWERS},
    "worker": {"_INBOX.x", "_INBOX.worker.x", subjects.AGENT_STOP},
    "operator": {
        subject for subject in HEARD if re.match(r"deliberation\.|agent\.|control\.|deadletter|_INBOX", subject)
    }
    | {KEY, META, CHUNK, NOTE, PIECE, "$JS.EVENT.ADVISORY.>"},
}


@pytest.mark.parametrize("user", HEARS)
async def test_each_user_hears_what_is_listed_and_nothing_else(tmp_path: Path, user: str) -> None:
    """Not what the control plane is asked or told, nor its answers. The operator sees all but that."""
    async with declared(tmp_path) as users, users.connected(user) as (nc, refused):
        denied = await refused_to(nc, refused, "subscribe", list(HEARD))
    assert set(HEARD) - denied == HEARS[user]
