"""Two tenants on one fleet, as `deploy/nats/tenants.conf` has them: each use, and each attack, both ways."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError, ServiceUnavailableError

from fleet import subjects
from fleet.client import connect
from fleet.config import Limits
from fleet.jetstream.payloads import Texts
from fleet.messages import ContentRef, DeliberationCompleted, encode
from fleet.tenants.limits import Tenant
from fleet.tenants.names import DEFAULT_TENANT, TEXT, key_of, requests_of, subject_of
from tests.support.client.following import Follower, steps
from tests.support.fleets.tenants import A, B, shared
from tests.support.fleets.whole_fleet import whole
from tests.support.nats import natscli
from tests.support.nats.permitted import TENANTS, permitted, settle
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until
from tests.support.workers.fake_control_plane import SLOW
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")

BOTH_WAYS = pytest.mark.parametrize(("attacker", "victim"), [(A, B), (B, A)])
AND_DEFAULT = pytest.mark.parametrize(
    ("attacker", "victim"), [(A, B), (B, A), (A, DEFAULT_TENANT), (DEFAULT_TENANT, A)]
)
SECRET = "a secret of the victim"
MAX_PAYLOAD = 1_000 * 1_024
"""Of a tenant's account. NATS tells clients the server's own, 1,024 KB, and disconnects who sends more than this."""
PROMPT = subjects.of_fleet(subjects.PROMPT, "*")
OF_NO_TENANT = r"(?:\$SRV|agents)\.[^\"]+"
NO_JETSTREAM = 10039
"""JetStream's code for an account that has none."""


async def nobody_answers(nc: Client, subject: str, body: bytes = b"") -> None:
    with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)):
        await nc.request(subject, body, timeout=1)


def asked(task_id: str, text: str = "Design it", **more: Any) -> dict[str, Any]:
    return {"task_id": task_id, "task_description": text, "num_agents": 1, "rounds": 0, **more}


# --- the file ---------------------------------------------------------------------------------------------------------


def without_the_default_tenants() -> str:
    """The shipped file: no comments, and no exports for the default tenant alone."""
    return re.sub(r"#.*|{.*accounts: \[CLIENTS\] }", "", TENANTS.read_text())


def test_each_tenant_has_all_that_is_exported_and_under_the_subjects_of_its_clients() -> None:
    """Line by line; whatever is exported names the tenant in its second part, and goes to nobody else."""
    text = without_the_default_tenants()
    text = re.sub(rf'{{ (service|stream): "({OF_NO_TENANT})".*}}', "", text)
    exported = re.findall(r'{ (service|stream): "tenant\.\*\.([^"]+)"(.*)}', text)
    assert len(exported) == len(re.findall(r"account_token_position: 2 }", text)) == 13
    assert not re.findall(r'{ (?:service|stream): "(?!tenant\.\*\.)', text)
    for tenant in (A, B):
        assert re.search(rf"{tenant} {{\n\s+limits: {{ max_payload: 1000KB }}", text)
        imported = re.findall(
            rf'{{ (service|stream): {{ account: FLEET, subject: "tenant\.{tenant}\.([^"]+)" }}, to: "([^"]+)" }}', text
        )
        wanted = {(kind, subject.replace("council.*", "council.fleet")) for kind, subject, _ in exported}
        assert {(kind, subject) for kind, subject, _ in imported} == wanted
        assert all(subject == to for _, subject, to in imported)
    for kind, subject, rest in exported:
        if subject in (subjects.ASK, subjects.FOLLOW, PROMPT):
            assert (kind, 'threshold: "2h"' in rest) == ("service", True)
        assert ('response_type: "Stream"' in rest) == (subject in (subjects.FOLLOW, TEXT, PROMPT))


def test_the_default_tenant_has_what_each_tenant_has() -> None:
    """Its account alone; under subjects without a prefix, and with the same options."""
    text = re.sub(r"#.*", "", TENANTS.read_text())
    own = re.findall(r'{ (service|stream): "([^"]+)"(.*), accounts: \[CLIENTS\] }', text)
    others = re.findall(r'{ (service|stream): "tenant\.\*\.([^"]+)"(.*), account_token_position: 2 }', text)
    assert sorted(own) == sorted(others)
    (block,) = re.findall(r"  CLIENTS {\n(.*?)\n  }", text, re.DOTALL)
    (of_a,) = re.findall(rf"  {A} {{\n(.*?)\n  }}", text, re.DOTALL)
    imported = r'{ (service|stream): { account: FLEET, subject: "(?:tenant\.team-a\.)?([^"]+)" }(?:, to: "[^"]+")? }'
    assert sorted(re.findall(imported, block)) == sorted(re.findall(imported, of_a))
    assert "tenant." not in block
    assert "max_payload: 1000KB" in block


def test_each_tenant_finds_agents() -> None:
    """These are no tenant's: they say which agents there are, and that they live."""
    text = without_the_default_tenants()
    exported = set(re.findall(rf'{{ (service|stream): "({OF_NO_TENANT})"', text))
    assert len(exported) == 6
    for tenant in (A, B):
        (own,) = re.findall(rf"  {tenant} {{\n(.*?)\n  }}", text, re.DOTALL)
        imported = re.findall(rf'{{ (service|stream): {{ account: FLEET, subject: "({OF_NO_TENANT})" }} }}', own)
        assert set(imported) == {(kind, subject.replace("council.*", "council.fleet")) for kind, subject in exported}


# --- uses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", [A, B, DEFAULT_TENANT])
async def test_a_tenant_uses_the_subjects_of_every_client(tmp_path: Path, tenant: str) -> None:
    """It asks, follows, looks at results, cancels; hears what happens to its tasks; the server refuses it nothing."""
    async with shared(tmp_path, SimulatorConfig(answer_tokens=2_000)) as stage:
        fleet, progress = stage[tenant], asyncio.Event()
        told: list[Any] = []

        async def hear(msg: Any) -> None:
            told.append((msg.headers["Task-Id"], json.loads(msg.data)["task_id"]))
            progress.set()

        await fleet.nc.subscribe(subjects.AGENT_PROGRESS, cb=hear)
        await fleet.request(**asked("one"))
        accepted = await fleet.inbox.next(subjects.ACCEPTED, task_id="one")
        done = await fleet.inbox.next(subjects.COMPLETED, task_id="one")
        assert accepted["tenant"] == done["tenant"] == tenant
        async with asyncio.timeout(WITHIN_S):
            await progress.wait()
        assert set(told) == {("one", "one")}
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": "one", "wait_seconds": 1})
        assert (code, reply["task_id"], reply["result"]) == (None, "one", done)
        replies = await (await Follower(fleet).call({"task_id": "two", "task_description": "Design it"})).rest()
        assert {"propose", "critique", "revise", "score"} == {phase for phase, *_ in steps(replies)}
        assert {reply["task_id"] for reply in replies} == {"two"}
        code, reply = await fleet.ask(subjects.CANCEL, {"task_id": "one"})
        assert (code, reply["status"]) == ("409", "COMPLETED")
        code, reply = await fleet.ask(subjects.ASK, {"task_id": "three"})
        assert (code, reply["code"], reply["tenant"]) == ("400", "invalid", tenant)
        code, reply = await fleet.ask(subjects.ASK, asked("one", "Another question"))
        assert (code, reply["code"], reply["task_id"]) == ("409", "conflict", "one")
        code, unnamed = await fleet.ask(subjects.ASK, {"task_description": "Design it", "num_agents": 1})
        assert (code, unnamed["status"], unnamed["task_id"][:2]) == (None, "COMPLETED", "d-")
        assert stage.refused[tenant] == []


@some_of(1, "tenant", [A, DEFAULT_TENANT])
async def test_the_clients_for_python_and_of_nats_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    binary = natscli.nats_cli(tmp_path)
    async with shared(tmp_path) as stage:
        monkeypatch.setenv("NATS_URL", stage.url(tenant))
        async with connect() as client:
            result = await client.ask("Design it", agents=2, task_id="python")
            assert isinstance(result, DeliberationCompleted)
            assert (len(result.results), result.tenant) == (2, tenant)
            ticket = await client.submit("Design it", agents=1)
            assert (await client.result(ticket, wait_s=30)).status == "COMPLETED"
            assert isinstance([event async for event in client.watch(ticket)][-1], DeliberationCompleted)
        words = ("req", subjects.FOLLOW, "--wait-for-empty", "--reply-timeout", "20s", "--raw")
        status, said = await natscli.run(binary, stage.url(tenant), *words, '{"task_description": "Design it"}')
        assert (status, '"COMPLETED"' in said) == (0, True), said


async def test_a_task_is_cancelled_before_it_has_ended_and_while_it_waits(tmp_path: Path) -> None:
    """The model is stopped; a request that waits for room is recorded as cancelled. Both are nobody else's."""
    async with shared(tmp_path, SLOW, room=Limits(max_in_flight=1)) as stage:
        await stage[A].request(**asked("long"))
        await stage[A].inbox.next(subjects.ACCEPTED, task_id="long")
        await stage[A].request(**asked("waits"))
        assert (await stage[A].ask(subjects.RESULT, {"task_id": "waits"}))[1]["status"] == "PENDING"
        assert (await stage[B].ask(subjects.CANCEL, {"task_id": "waits"}))[0] == "404"
        for task_id in ("waits", "long"):
            done = {"task_id": task_id, "status": "CANCELLED"}
            assert await stage[A].ask(subjects.CANCEL, {"task_id": task_id}) == (None, done)
            assert (await stage[A].inbox.next(subjects.CANCELLED, task_id=task_id))["tenant"] == A


async def test_ids_and_message_ids_of_two_tenants_do_not_meet(tmp_path: Path) -> None:
    """The same id, the same message id, at the same time: two deliberations, each with its own result."""
    async with shared(tmp_path) as stage:
        sent = {"Nats-Msg-Id": "order-1"}
        for tenant in (A, B):
            body = json.dumps(asked("same", f"Of {tenant}")).encode()
            ack = json.loads((await stage[tenant].nc.request(subjects.REQUESTED, body, headers=sent)).data)
            assert (ack["stream"], ack.get("duplicate")) == (f"DELIBERATION_REQUESTS_{tenant}", None)
        for tenant in (A, B):
            done = await stage[tenant].inbox.next(subjects.COMPLETED, task_id="same")
            assert (done["tenant"], done["task"]["task_description"]) == (tenant, f"Of {tenant}")
        sent = {"Nats-Msg-Id": "order-2"}
        rejected = await stage[A].nc.request(subjects.ASK, b'{"task_id": "bad"}', headers=sent, timeout=9)
        assert code_of(rejected) == "400"
        body = json.dumps(asked("good")).encode()
        answered = await stage[B].nc.request(subjects.ASK, body, headers=sent, timeout=WITHIN_S)
        assert json.loads(answered.data)["status"] == "COMPLETED"
        assert [stage[tenant].inbox.of("same") for tenant in (A, B)] == [[subjects.ACCEPTED, subjects.COMPLETED]] * 2


async def test_a_full_queue_is_one_tenants_own(tmp_path: Path) -> None:
    """It is told as every client is where requests wait; the other one's request is taken."""
    async with permitted(tmp_path / "server", permissions=TENANTS) as users, AsyncExitStack() as stack:
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("operator")}
        tenants = {A: Tenant(max_waiting=1), B: Tenant()}
        async with whole(users.url("control"), tenants=tenants, **names):
            pass  # streams are there, and nobody takes requests
        a, _ = await stack.enter_async_context(users.connected(A))
        b, _ = await stack.enter_async_context(users.connected(B))
        acks = [json.loads((await a.request(subjects.REQUESTED, b"{}")).data) for _ in range(2)]
        assert ["error" in ack for ack in acks] == [False, True]
        assert acks[1]["error"]["err_code"] == 10077
        assert "error" not in json.loads((await b.request(subjects.REQUESTED, b"{}")).data)


@some_of(1, ("tenant", "other"), [(A, B), (A, DEFAULT_TENANT), (DEFAULT_TENANT, A)])
async def test_a_long_result_is_whole_for_its_tenant_only(tmp_path: Path, tenant: str, other: str) -> None:
    """Texts that do not fit a message: its own client reads them, and for the other tenant they do not exist."""
    async with shared(tmp_path, SimulatorConfig(answer_tokens=12_000), more="max_payload: 64KB") as stage:
        async with connect(stage.url(tenant)) as client:
            result = await client.ask("Design it", agents=2, rounds=0, task_id="long")
            assert isinstance(result, DeliberationCompleted)
            assert len(result.results[0].proposal.content) > 20_000
        _, reply = await stage[tenant].ask(subjects.RESULT, {"task_id": "long"})
        ref = ContentRef(**reply["content_ref"]) if "content_ref" in reply else refs_in(reply["result"])[0]
        pieces = await Follower(stage[other]).call(encode(ref), TEXT)
        assert (await pieces.rest(), pieces.codes) == ([{"error": f"{ref.bucket}/{ref.name} is gone"}], ["404"])


def refs_in(result: dict[str, Any]) -> list[ContentRef]:
    refs = [each["proposal"]["content_ref"] for each in result["results"]]
    return [ContentRef(**ref) for ref in refs if ref is not None]


def code_of(reply: Any) -> str | None:
    return (reply.headers or {}).get("Nats-Service-Error-Code")


async def test_a_viewer_reads_the_results_of_tenants(tmp_path: Path) -> None:
    """It sees everything and does nothing: a result, and no question or cancellation."""
    async with shared(tmp_path) as stage, stage.users.connected("viewer") as (viewer, refused):
        await stage[A].ask(subjects.ASK, asked("seen"))
        reply = json.loads(
            (await viewer.request(subject_of(A, subjects.RESULT), b'{"task_id": "seen"}', timeout=WITHIN_S)).data
        )
        assert (reply["status"], reply["result"]["task_id"]) == ("COMPLETED", "seen")
        for subject in (subjects.ASK, subjects.CANCEL, subjects.FOLLOW):
            await viewer.publish(subject_of(A, subject), b'{"task_id": "seen"}')
        await settle(viewer)
        assert len(refused) == 3


async def test_dead_letters_say_whose_they_are(tmp_path: Path) -> None:
    async with shared(tmp_path) as stage, stage.users.connected("operator") as (operator, _):
        await stage[A].nc.request(subjects.REQUESTED, b"no JSON", timeout=WITHIN_S)
        rejected = await stage[A].inbox.next(subjects.REJECTED)
        assert (rejected["code"], rejected["tenant"]) == ("malformed", A)
        letter = await last(operator, subjects.DEAD_LETTERS, f"deadletter.{subject_of(A, subjects.REQUESTED)}")
        assert letter == b"no JSON"


async def last(nc: Client, stream: str, subject: str) -> bytes:
    """The message, once it is there."""
    js = nc.jetstream()
    await until(lambda: js.get_last_msg(stream, subject), not_yet=(NotFoundError,))
    return (await js.get_last_msg(stream, subject)).data or b""


async def test_what_a_tenant_sends_takes_no_room_in_the_object_store(tmp_path: Path) -> None:
    """The longest request that NATS takes from it is no request: as a dead letter it is whole in one message."""
    async with shared(tmp_path) as stage, stage.users.connected("operator") as (operator, _):
        junk = b"x" * MAX_PAYLOAD
        await stage[A].nc.request(subjects.REQUESTED, junk, timeout=WITHIN_S)
        assert await last(operator, subjects.DEAD_LETTERS, f"deadletter.{subject_of(A, subjects.REQUESTED)}") == junk
        assert (await operator.jetstream().stream_info(subjects.TEXTS_STREAM)).state.bytes < len(junk)
        with pytest.raises(nats.errors.Error):
            await stage[A].nc.request(subjects.REQUESTED, junk + b"x", timeout=1)
        assert (await operator.jetstream().stream_info(requests_of(A))).state.last_seq == 1


# --- attacks ----------------------------------------------------------------------------------------------------------


@AND_DEFAULT
async def test_nobody_reads_follows_or_cancels_anothers_task(tmp_path: Path, attacker: str, victim: str) -> None:
    """Under whatever name: it does not exist. It goes on, and ends as its tenant wants."""
    async with shared(tmp_path, SLOW) as stage:
        await stage[victim].request(**asked("secret", SECRET))
        await stage[victim].inbox.next(subjects.ACCEPTED, task_id="secret")
        for name in ("secret", f"{victim}.secret", f"tenant.{victim}.secret", f"../{victim}.secret", "*", ">"):
            for subject in (subjects.RESULT, subjects.CANCEL):
                code, reply = await stage[attacker].ask(subject, {"task_id": name})
                expected = ("404", "UNKNOWN") if name == "secret" else ("400", None)
                assert (code, reply.get("status")) == expected
            follower = await Follower(stage[attacker]).call({"task_id": name})
            assert {reply.get("status") for reply in await follower.rest()} <= {"UNKNOWN", None}
        _, reply = await stage[victim].ask(subjects.RESULT, {"task_id": "secret"})
        assert reply["status"] == "IN_PROGRESS"
        _, reply = await stage[victim].ask(subjects.CANCEL, {"task_id": "secret"})
        assert reply["status"] == "CANCELLED"


@BOTH_WAYS
@some_of(3, "verb", [subjects.REQUESTED, subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL])
async def test_the_fleets_subjects_of_another_tenant_do_not_exist(
    tmp_path: Path, attacker: str, victim: str, verb: str
) -> None:
    """Nobody answers there, and nothing arrives in the fleet's account."""
    async with shared(tmp_path) as stage, stage.users.connected("operator") as (operator, _):
        heard = await listening(operator, "tenant.>")
        for subject in (subject_of(victim, verb), subject_of(attacker, verb), subject_of("*", verb)):
            await nobody_answers(stage[attacker].nc, subject, json.dumps(asked("forged")).encode())
        await settle(stage[attacker].nc)
        await settle(operator)
        assert heard == []


async def test_the_default_tenant_speaks_as_no_other(tmp_path: Path) -> None:
    """The subjects of tenants in the fleet's account are not there for it."""
    async with shared(tmp_path) as stage, stage.users.connected("operator") as (operator, _):
        heard = await listening(operator, "tenant.>")
        for verb in (subjects.REQUESTED, subjects.ASK, subjects.FOLLOW, subjects.RESULT, subjects.CANCEL, TEXT):
            await nobody_answers(stage[DEFAULT_TENANT].nc, subject_of(A, verb), json.dumps(asked("forged")).encode())
        for subject in (*subjects.TERMINAL, subjects.AGENT_PROGRESS):
            await stage[DEFAULT_TENANT].nc.publish(subject_of(A, subject), b'{"task_id": "secret"}')
        await settle(stage[DEFAULT_TENANT].nc)
        await settle(operator)
        assert heard == []


@BOTH_WAYS
async def test_a_forged_event_reaches_nobody_else(tmp_path: Path, attacker: str, victim: str) -> None:
    """Events, answers, progress, stops, deadlines, dead letters: they stay in the account where they are published."""
    async with shared(tmp_path) as stage, stage.users.connected("operator") as (operator, _):
        at_victim = await listening(stage[victim].nc, ">")
        in_fleet = await listening(operator, "deliberation.>", "tenant.>", "agent.>", "control.>", "deadletter.>")
        forged = (
            *(subjects.ACCEPTED, subjects.REJECTED, *subjects.TERMINAL),
            *(subjects.AGENT_REQUESTED, subjects.AGENT_COMPLETED, subjects.AGENT_FAILED, subjects.AGENT_PROGRESS),
            *(subjects.AGENT_STOP, subjects.CONTROL_CANCEL, subjects.CONTROL_DEADLINE, subjects.CONTROL_LOOK),
            *(subjects.schedule_of("x"), f"$KV.{subjects.CACHE}.{victim}.7"),
            *(f"$KV.{subjects.BUCKET}.{victim}.x", f"$O.{subjects.TEXTS}.C.x", subjects.DELIVER_REQUESTS),
            *(subjects.instance_of("x"), subjects.deadletter_of("x"), f"{subjects.DELIVER_REQUESTS}.{victim}"),
        )
        for subject in forged:
            for name in (subject, subject_of(victim, subject), subject_of(attacker, subject)):
                await stage[attacker].nc.publish(name, b'{"task_id": "secret"}')
        await settle(stage[attacker].nc)
        await settle(operator)
        await settle(stage[victim].nc)
        assert (at_victim, in_fleet) == ([], [])


@AND_DEFAULT
async def test_nobody_listens_to_anothers_events_requests_and_answers(
    tmp_path: Path, attacker: str, victim: str
) -> None:
    """A subscription to everything hears nothing of the other one: no event, no progress, no request, no inbox."""
    async with shared(tmp_path) as stage:
        heard = await listening(stage[attacker].nc, ">", "tenant.>", f"tenant.{victim}.>", "_INBOX.>", "$JS.>", "_R_.>")
        _, reply = await stage[victim].ask(subjects.ASK, asked("secret", SECRET))
        assert reply["status"] == "COMPLETED"
        await stage[victim].request(**asked("second", SECRET))
        await stage[victim].inbox.next(subjects.COMPLETED, task_id="second")
        await settle(stage[attacker].nc)
        assert heard == []


@AND_DEFAULT
async def test_nobody_reads_states_streams_and_stores_of_the_fleet(tmp_path: Path, attacker: str, victim: str) -> None:
    """There is no JetStream for a tenant: the server says so, whatever it is asked."""
    async with shared(tmp_path) as stage:
        _, reply = await stage[victim].ask(subjects.ASK, asked("secret", SECRET))
        assert reply["status"] == "COMPLETED"
        nc, js = stage[attacker].nc, stage[attacker].nc.jetstream(timeout=1)
        key = json.dumps({"last_by_subj": f"$KV.{subjects.BUCKET}.{key_of(victim, 'secret')}"}).encode()
        texts = (subjects.TEXTS_STREAM, subjects.ANSWERS_STREAM, subjects.KEYS_STREAM, subjects.CACHE_STREAM)
        requests = requests_of(victim)
        for stream in (subjects.STATES, subjects.DELIBERATIONS, requests, subjects.DEAD_LETTERS, *texts):
            for api in ("STREAM.MSG.GET", "STREAM.INFO", "STREAM.PURGE", "STREAM.DELETE"):
                reply = await nc.request(f"$JS.API.{api}.{stream}", key if "GET" in api else b"", timeout=WITHIN_S)
                assert json.loads(reply.data)["error"]["err_code"] == NO_JETSTREAM
            await nobody_answers(nc, f"$JS.API.DIRECT.GET.{stream}", key)
            with pytest.raises(ServiceUnavailableError):
                await js.add_consumer(stream, ConsumerConfig(name="x", deliver_subject="deliberation.completed"))
        reply = await nc.request("$JS.API.STREAM.NAMES", timeout=WITHIN_S)
        assert json.loads(reply.data)["error"]["err_code"] == NO_JETSTREAM


@BOTH_WAYS
async def test_nobody_reads_anothers_texts(tmp_path: Path, attacker: str, victim: str) -> None:
    """Whatever its name, and in whatever words it is asked for: it does not exist."""
    async with shared(tmp_path) as stage, stage.users.connected("control") as (control, _):
        texts = Texts(control.jetstream(), 32_768)
        names = [f"tasks/{victim}.secret/x", f"requests/{victim}.whole", "tasks/secret/x", f"tasks/{attacker}/x"]
        names += [f"calls/{victim}.s/shared", f"calls/{attacker}.s/shared", f"answers/{victim}.s/correlation"]
        names += [f"answers/{attacker}.0.propose.agent-dev-001.1", f"answers/{victim}.s.0.propose.agent-dev-001.1"]
        refs = [await texts.put(name, SECRET.encode()) for name in names]
        refs += [ref.change(name=f"tasks/{attacker}.x/../../{ref.name}") for ref in refs]
        refs += [ref.change(bucket=bucket) for ref in refs for bucket in (subjects.KEYS, subjects.BUCKET)]
        own = await texts.put(f"tasks/{attacker}.mine/x", b'{"mine": 1}')
        assert await (await Follower(stage[attacker]).call(encode(own), TEXT)).rest() == [{"mine": 1}]
        for ref in refs:
            pieces = await Follower(stage[attacker]).call(encode(ref), TEXT)
            assert [set(reply) for reply in await pieces.rest()] == [{"error"}]
            assert pieces.codes == ["404"]
            await nobody_answers(stage[attacker].nc, subject_of(victim, TEXT), encode(ref))


@BOTH_WAYS
async def test_a_request_cannot_refer_to_anothers_text(tmp_path: Path, attacker: str, victim: str) -> None:
    """It is rejected; its own may be referred to."""
    async with shared(tmp_path) as stage, stage.users.connected("control") as (control, _):
        texts = Texts(control.jetstream(), 32_768)
        whole_body = json.dumps(asked("named", SECRET)).encode()
        for name in (f"requests/{victim}.mine", "requests/mine", f"tasks/{victim}.secret/x"):
            ref = await texts.put(name, whole_body)
            code, reply = await stage[attacker].ask(subjects.ASK, {"content_ref": {"name": ref.name}})
            assert (code, reply["path"]) == ("400", "$.content_ref")
            assert SECRET not in json.dumps(reply)
        ref = await texts.put(f"requests/{attacker}.mine", whole_body)
        _, reply = await stage[attacker].ask(subjects.ASK, {"content_ref": {"name": ref.name}})
        assert (reply["status"], reply["task_id"]) == ("COMPLETED", "named")


@BOTH_WAYS
async def test_no_reply_subject_reaches_the_other(tmp_path: Path, attacker: str, victim: str) -> None:
    """Whatever is to be answered, and to whatever subject: answers stay in the account that asked."""
    async with shared(tmp_path) as stage, stage.users.connected("operator") as (operator, _):
        at_victim = await listening(stage[victim].nc, ">")
        in_fleet = await listening(operator, "deliberation.>", "agent.>", "control.>", f"$KV.{subjects.BUCKET}.>")
        for reply in (subjects.COMPLETED, subjects.AGENT_COMPLETED, f"$KV.{subjects.BUCKET}.{victim}.x", "_INBOX.x"):
            for verb in (subjects.RESULT, subjects.CANCEL, subjects.REQUESTED):
                await stage[attacker].nc.publish(verb, b'{"task_id": "x"}', reply=reply)
        await stage[attacker].inbox.next(subjects.REJECTED)
        await settle(stage[attacker].nc)
        await settle(operator)
        await settle(stage[victim].nc)
        assert (at_victim, in_fleet) == ([], [])


@BOTH_WAYS
async def test_what_another_instance_is_said_to_have_begun_is_ones_own(
    tmp_path: Path, attacker: str, victim: str
) -> None:
    """The header by which instances hand calls over names a request of the caller's tenant, whatever it says."""
    async with shared(tmp_path) as stage:
        sent = {"Nats-Msg-Id": "known"}
        refused = await stage[victim].nc.request(subjects.ASK, b'{"task_id": "secret"}', headers=sent, timeout=9)
        assert code_of(refused) == "400"
        body, forged = b'{"task_description": "x"}', {"Fleet-Taken-Over": "1 known"}
        reply = await stage[attacker].nc.request(subjects.ASK, body, headers=forged, timeout=WITHIN_S)
        assert code_of(reply) == "404"


async def test_an_account_that_is_no_tenant_of_the_settings_is_told_so(tmp_path: Path) -> None:
    """NATS knows it, the fleet does not: nothing is done for it."""
    async with permitted(tmp_path / "server", permissions=TENANTS) as users:
        names: dict[str, Any] = {"worker_url": users.url("worker"), "client_url": users.url("operator")}
        async with (
            whole(users.url("control"), tenants={A: Tenant()}, **names),
            users.connected(B) as (nc, _),
        ):
            await nobody_answers(nc, subjects.REQUESTED, json.dumps(asked("x")).encode())
            reply = await nc.request(subjects.ASK, json.dumps(asked("x")).encode(), timeout=WITHIN_S)
            assert code_of(reply) == "404"
            assert B in (reply.headers or {})["Nats-Service-Error"]


async def listening(nc: Client, *patterns: str) -> list[str]:
    """What is heard from now on."""
    heard: list[str] = []

    async def hear(msg: Any) -> None:
        heard.append(msg.subject)

    for pattern in patterns:
        await nc.subscribe(pattern, cb=hear)
    await settle(nc)
    return heard
