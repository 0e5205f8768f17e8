"""Checks of a proposal: what fails, what does not, and that no text brings them down."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.messages import Check, Policy
from fleet.requests.patterns import bad_pattern
from tests.support.variants import some_of
from tests.support.waiting import until
from workers.checks import NOTHING, check, fences, policy, python, ruff

NAMES = ["python", "json", "yaml", "toml", "kubernetes", "policy"]

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, creationTimestamp: null, annotations: {since: 2026-01-01}}
spec:
  replicas: 3
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec:
      containers:
        - name: api
          image: api:1
          ports: [{containerPort: 8080}]
          resources: {limits: {cpu: 1, memory: 512Mi}}
          livenessProbe: {httpGet: {path: /healthz, port: http}}
          env: [{name: STARTS_AT, value: 12:30}]
      volumes:
        - name: files
          configMap: {name: files, defaultMode: 0o644}
"""


def fence(language: str, body: str) -> str:
    return f"Intro.\n\n```{language}\n{body}\n```\n"


async def of(name: str, text: str) -> Check:
    return (await check(text, Policy()))[name]


async def status(name: str, body: str) -> str:
    return (await of(name, fence(name, body))).status


# What there is to check


async def test_every_check_is_named_whatever_the_text() -> None:
    """Nothing of a kind: not applicable, without findings."""
    for text in (
        "",
        "Prose.",
        "```\nuntagged (\n```",
        "```python\n```",
        "```json\n\n\n```",
        "```rust\nfn main( {\n```",
    ):
        found = await check(text, Policy())
        assert list(found) == NAMES
        assert set(found.values()) == {NOTHING}


def test_nothing_heavy_is_imported_for_plain_text() -> None:
    """A worker starts as fast as before."""
    heavy = "{'yaml', 'markdown_it', 'regex', 'kubernetes_validate', 'tomllib', 'jsonschema_rs'}"
    program = (
        "import asyncio, sys; from fleet.messages import Policy; import workers.checks as c;"
        f"asyncio.run(c.check('Prose.', Policy())); print({heavy} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("```PY\nx\n```\n~~~yml foo=1\nx\n~~~", ["python", "yaml"]),
        ("````markdown\n```python\nprint x\n```\n````", ["markdown"]),
        ("   ```python3\n   x\n   ```\n    ```python\n    x\n", ["python"]),
        ("```python\nx = 1\n\nmore", ["python"]),
        ("1. Step\n\n   ```toml\n   a = 1\n   ```\n\n> ~~~json\n> {}\n> ~~~", ["toml", "json"]),
        ("```jsonc\n{} // x\n```\n``` `x`\nprose", ["jsonc"]),
        ("```\tpython\r\nx\r\n```\r\n", ["python"]),
    ],
)
def test_fences_are_those_of_commonmark(text: str, languages: list[str]) -> None:
    """Tildes, longer fences, indentation, lists and quotes, a missing end, the info string's first word."""
    assert [block.language for block in fences.blocks(text)] == languages


async def test_findings_say_where() -> None:
    """The block, the line within it, and the line in the proposal; also with CRLF, in lists, and after unicode."""
    text = "```text\nx\n```\r\n\r\n- 😀\r\n\r\n  ```json\r\n  {\r\n\t\"é\": 'x'}\r\n  ```"
    (finding,) = (await of("json", text)).findings
    assert finding.startswith("block 2, line 2 (line 9 of the proposal): ")


async def test_beyond_twenty_findings_the_last_one_counts() -> None:
    """Nothing is cut without a word."""
    found = await of("json", fence("json", "[,") * 30)
    assert len(found.findings) == 20
    assert found.findings[-1] == "and 11 more findings"


async def test_large_texts_and_blocks_are_not_checked_and_say_so() -> None:
    """Up to 2 MiB of text, 256 KiB of a block; a proposal is not blamed for it."""
    for name, line in (("yaml", "- x: é\n"), ("json", "[1,\n"), ("toml", "[a\n"), ("python", "x = (\n")):
        found = await of(name, fence(name, line * 90_000))
        assert (found.status, len(found.findings)) == ("not_applicable", 1)
        assert "larger than 256 KiB" in found.findings[0]
    found = await of("json", fence("json", "[,") + "x" * 2 * 1024 * 1024)
    assert (found.status, "larger than 2 MiB" in found.findings[0]) == ("not_applicable", True)


@some_of(
    2,
    ("unit", "size"),
    [
        *((unit, 1_000_000) for unit in ("word ", "```python\n```\n", "`", "[a]: b\n", "\ud800")),
        *((unit, 100_000) for unit in ("word\n\n", "> - a\n")),  # of these a megabyte takes ten seconds
    ],
)
async def test_a_megabyte_of_anything_is_read(unit: str, size: int) -> None:
    """Broken characters too."""
    text = unit * (size // len(unit)) + "\n\n\n" + fence("json", "[,").replace("```", "~" * 9)
    assert list(await check(text, Policy(forbidden=("zzz",)))) == NAMES


LINES = [
    "```",
    "~~~",
    "````",
    "python",
    "yaml",
    "json",
    "toml",
    "\n",
    "\n  ",
    "\t",
    "{",
    "]",
    ": ",
    "- ",
    "'",
    '"""',
    "&a ",
]
LINES += [
    "*a ",
    "!x ",
    "a",
    "1",
    "\x00",
    "\x1b",
    "é",
    "\r",
    "#",
    "...",
    "%",
    ">>>",
    "|",
    "? ",
    "\ud800",
    "\u2028",
    "\x0c",
    "=",
]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["python", "json", "yaml", "toml"]), st.lists(st.sampled_from(LINES), max_size=40))
async def test_no_text_breaks_a_check(language: str, parts: list[str]) -> None:
    """Whatever stands in a block, there is an answer."""
    text = f"```{language}\n" + "".join(parts)
    assert list(await check(text, Policy(required=("a",)))) == NAMES


# Python


@pytest.mark.parametrize(
    ("code", "line", "what"),
    [
        ("print 'Python 2'", 1, "Simple statements"),
        ("x = 1\nfor x in range(3)\n    pass", 2, "Expected"),
        ("def f(a, b):\n\treturn a +\n", 2, "Expected an expression"),
        ("def total(a):\n    return a + b", 2, "`b`"),
        ("import os\n\ndef now():\n    return time.time()", 4, "`time`"),
        ("'%s %s' % (1,)", 1, "F507"),
        ("x = 1\nassert (x, 'message')", 2, "F631"),
        ("raise NotImplemented", 1, "F901"),
        ("é = '😀' is x if (x := 1) else 'y' is x", 1, "F632"),
        ("import os  # noqa\ndef f():\n    return missing  # noqa", 3, "`missing`"),
    ],
)
async def test_defects_of_python_are_found(code: str, line: int, what: str) -> None:
    """What is no Python, and what fails whenever it runs; `noqa` does not help."""
    found = await of("python", fence("python", code))
    assert found.status == "failed"
    assert found.findings[0].startswith(f"block 1, line {line} (line {line + 3} of the proposal): ")
    assert what in found.findings[0]


@pytest.mark.parametrize(
    "code",
    [
        "import os, sys\nfrom typing import *\nx = 1\ndef f():\n    unused = List[int]\n    return f'plain'",
        "name = 'x'\nprint(f'{f'{name!r:>{10}}'} {'\\n'.join(['a', 'b'])}')",
        "def first[T](items: list[T]) -> T: ...\ntype Pair[T] = tuple[T, T]",
        "try:\n    pass\nexcept ValueError, KeyError:\n    pass",
        "response = await client.get(url)\nasync for row in response:\n    print(row)\n%timeit f()\n!pip install redis",
        "    async def allow(self, key):\n        return await self.redis.eval(SCRIPT, key)",
        "return result\nyield x\nbreak",
        "@app.get('/')\nasync def root(request: Request, db=Depends(get_db)) -> Response:\n    return await db.get(1)",
        "from app import Limiter\n\nlimiter = Limiter(redis_url)\nlimiter.allow(user_id)",
        "import os\n\ndef serve():\n    ...\n    start(port)",
        "import os\n\ndef serve():\n    # ... as before\n    return port",
        "from x import *\n\ndef f():\n    return whatever",
        "def f(x):\n    if x:\n        # refill the bucket\n    return x",
        "config = load(path, ..., retries=3, ...)\nf(a=..., ...)",
        "@cached(ttl=3)",
        "class Stack:\n    def push(self, x): ...\n    def pop(self): ...",
        "class A:\n    x: 'Float[Array, \"b n\"]'\n    def f(self): return __class__, _('text')",
        "# only a comment",
        "...",
    ],
)
async def test_fragments_and_new_syntax_are_no_defects(code: str) -> None:
    """Style, unused names, what a reader fills in, notebooks, and the syntax of the newest Python."""
    assert await of("python", fence("python", code)) == Check(status="passed")


@pytest.mark.parametrize("code", [">>> 1 +\n>>> x", "else:\n    stop()", "In [1]: x ="])
async def test_sessions_and_continuations_are_not_looked_at(code: str) -> None:
    """They are no Python of their own."""
    assert await of("python", fence("python", code)) == NOTHING


@pytest.mark.parametrize(
    "elsewhere",
    [
        fence("python", "limit = 3"),
        fence("py", "class Bucket:\n    def __init__(self, limit): ..."),
        fence("", "limit = 3"),
        "Here, `limit` is configured.\n",
    ],
)
async def test_names_that_the_proposal_explains_are_defined(elsewhere: str) -> None:
    """Before the block or after it."""
    code = fence("python", "def f(x):\n    return x < limit")
    assert (await of("python", code)).status == "failed"
    assert (await of("python", elsewhere + code)).status == "passed"
    assert (await of("python", code + "\n" + elsewhere)).status == "passed"


async def test_a_name_missing_in_two_blocks_is_missing() -> None:
    """Once in each, however often it is used; a broken block does not hide another one's defects."""
    code = fence("python", "def f(x):\n    return x < limit or x < limit")
    found = await of("python", code + code + fence("python", "def ("))
    assert [finding[:7] for finding in found.findings] == ["block 1", "block 2", "block 3"]


async def test_nothing_is_executed(tmp_path: Path) -> None:
    """Neither Python nor what YAML can construct."""
    mark = tmp_path / "executed"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nimport definitely_no_such_module"
    tag = f"apiVersion: v1\nkind: ConfigMap\ndata: !!python/object/apply:os.mkdir [{str(mark)!r}]"
    found = await check(fence("python", code) + fence("yaml", tag), Policy())
    assert (found["python"].status, found["yaml"].status) == ("passed", "passed")
    assert not mark.exists()


async def test_nesting_that_brings_ruff_down_fails_and_hides_nothing() -> None:
    """The process crashes: that block is at fault, and the others are checked as ever."""
    found = await of("python", fence("python", "x(" * 80_000) + fence("python", "x = ("))
    assert found.status == "failed"
    assert "cannot read it" in found.findings[0]
    assert "block 2" in found.findings[1]


@pytest.mark.parametrize(
    "code", [")\n" * 100_000, "def f(): return " + "x" * 200_000, "#" * 200_000, "\n" * 200_000 + "x"]
)
async def test_endless_complaints_are_bounded(code: str) -> None:
    """Ruff's output is read up to a limit."""
    assert len((await of("python", fence("python", code))).findings) <= 2


async def test_many_blocks_are_counted() -> None:
    """Those beyond the limit are named."""
    found = await of("python", fence("python", "x = 1") * (python.MAX_BLOCKS + 1))
    assert (found.status, "more than 50" in found.findings[0]) == ("not_applicable", True)


async def test_without_ruff_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not applicable, with a finding; the other checks go on."""
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    found = await check(fence("python", "x = 1") + fence("json", "[,"), Policy())
    assert found["python"].status == "not_applicable"
    assert "no ruff was found" in found["python"].findings[0]
    assert found["json"].status == "failed"


@pytest.fixture
def hanging_ruff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ruff that never answers; the path it writes its pid to."""
    pid, binary = tmp_path / "pid", tmp_path / "ruff"
    binary.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600\n")
    binary.chmod(0o755)
    monkeypatch.setattr(ruff, "find", lambda: binary)
    return pid


def is_alive(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


async def test_a_ruff_that_hangs_is_killed(hanging_ruff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few seconds; the check could not be run."""
    monkeypatch.setattr(python, "LINT_WITHIN_S", 0.5)
    found = await of("python", fence("python", "x = 1"))
    assert (found.status, "longer than 0.5 s" in found.findings[0]) == ("not_applicable", True)
    assert not is_alive(hanging_ruff)


async def test_cancelling_the_call_kills_ruff(hanging_ruff: Path) -> None:
    """No process outlives the call it was started for."""
    call = asyncio.create_task(check(fence("python", "x = 1"), Policy()))
    await until(lambda: is_alive(hanging_ruff))  # another process says so in a file
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not is_alive(hanging_ruff)


# JSON, TOML, YAML


@pytest.mark.parametrize(
    ("language", "body", "line"),
    [
        ("json", '{\n"a": 1,\n}', 3),
        ("json", "{'a': 1}", 1),
        ("json", '{"a": 1} // why', 1),
        ("json", '{"a": NaN}', 1),
        ("json", '{"a": "loading...",}', 1),
        ("toml", "[a]\nb = 1\nb = 2", 3),
        ("toml", "a = 1\nb = \n", 2),
        ("toml", "a = nope", 1),
        ("yaml", "a: 1\n b: 2", 2),
        ("yaml", "a:\n\tb: 1", 2),
        ("yaml", "a: *nowhere", 1),
        ("yaml", "---\na: 1\n---\nb: [1", 5),
        ("yaml", "a: 1\nb: x\x1by", 2),
    ],
)
async def test_data_that_no_parser_takes_fails(language: str, body: str, line: int) -> None:
    """With the line where the parser stopped."""
    found = await of(language, fence(language, body))
    assert found.status == "failed"
    assert found.findings[0].startswith(f"block 1, line {line} (line {line + 3} of the proposal): ")


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("json", '{"a": 1, "a": 2, "n": 1e999}'),
        ("json", "1" * 5000),
        ("json", '"a": 1,\n"b": {},'),
        ("toml", "a.b = 2026-01-01\n[[c]]\nd = '''x'''"),
        ("yaml", "a: 1\na: 2\n---\n- !Ref x\n- !!python/name:os.system ''\n- {<<: {b: 1}}\n- ? [x]\n  : 1"),
        ("yaml", "a: &x [*x]\nb: 2026-99-99\nc: 😀"),
        ("yaml", "a: &x 1\nb: &x 2\nc: *x"),
        ("yaml", "# only a comment"),
    ],
)
async def test_odd_but_valid_data_passes(language: str, body: str) -> None:
    """Duplicate keys, members without their object, unknown tags, merges, recursion, numbers beyond measure."""
    assert await of(language, fence(language, body)) == Check(status="passed")


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("json", '{"a": 1, ...}'),
        ("json", '{\n  "a": [1, 2, …]\n}'),
        ("json", '{"replicas": {{ .Values.replicas }}}'),
        ("toml", "[a]\n..."),
        ("yaml", "spec:\n  replicas: 3\n  ...\n"),
        ("yaml", "{{- if .Values.on }}\na: 1\n{{- end }}"),
        ("yaml", "{% for x in y %}\n- [\n{% endfor %}"),
    ],
)
async def test_sketches_and_templates_are_let_be(language: str, body: str) -> None:
    """Nobody said that they were whole."""
    assert await of(language, fence(language, body)) == NOTHING


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("json", "[" * 100_000),
        ("yaml", "[" * 100_000),
        ("yaml", "- " * 100_000),
        ("toml", "a = " + "[" * 100_000),
        ("toml", "a" + ".a" * 60_000 + " = 1"),
    ],
)
async def test_bottomless_nesting_is_not_checked(language: str, body: str) -> None:
    """Neither a crash nor minutes of work nor a verdict."""
    found = await of(language, fence(language, body))
    assert found.status == "not_applicable"
    assert "not checked" in found.findings[0]


# Kubernetes


async def kubernetes(body: str, language: str = "yaml", prose: str = "") -> Check:
    return await of("kubernetes", prose + fence(language, body))


async def test_good_objects_pass() -> None:
    """Also quantities as numbers, nulls, dates and times as strings, octal modes, and several documents."""
    service = "apiVersion: v1\nkind: Service\nspec: {ports: [{port: 80, targetPort: http}, {port: 81, targetPort: 81}]}"
    assert await kubernetes(f"{DEPLOYMENT}---\n{service}\n") == Check(status="passed")
    ports = "apiVersion: v1\nkind: ConfigMap\ndata:\n  9000: default/api:80\n"
    assert await kubernetes(ports) == Check(status="passed")


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("replicas: 3", "replicas: three", 5, "spec.replicas"),
        ("image: api:1", "imag: api:1", 12, "'imag' was unexpected"),
        ("containerPort: 8080", 'containerPort: "8080"', 13, "containers.0.ports.0.containerPort"),
        ("value: 12:30", "value: 12", 16, "env.0.value"),
        ("  selector: {matchLabels: {app: api}}\n", "", 4, '"selector" is a required'),
        ("kind: Deployment", "kind: deployment", 2, "kind"),
    ],
)
async def test_bad_objects_fail(old: str, new: str, line: int, what: str) -> None:
    """Wrong types, unknown fields, missing fields: the path, and the line where it stands."""
    found = await kubernetes(DEPLOYMENT.replace(old, new))
    assert (found.status, len(found.findings)) == ("failed", 1)
    assert found.findings[0].startswith(f"block 1, line {line} (line {line + 3} of the proposal): ")
    assert what in found.findings[0]


async def test_json_and_lists_are_looked_into() -> None:
    """Every item of a List by its own kind."""
    bad = '{"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": "80"}]}}'
    assert "spec.ports.0.port" in (await kubernetes(bad, "json")).findings[0]
    found = await kubernetes(f"apiVersion: v1\nkind: List\nitems:\n- {{kind: Other}}\n- {bad}")
    assert found.findings[0].startswith("block 1, line 5 (line 8 of the proposal): Service (v1): items.1.spec.ports.0")


@pytest.mark.parametrize(
    "body",
    [
        "apiVersion: example.com/v1\nkind: Deployment\nspec: {anything: goes}",
        "apiVersion: apps.example.com/v1\nkind: Deployment\nspec: {anything: goes}",
        "apiVersion: ../../../v1\nkind: ../x\n",
        "apiVersion: v1\nkind: Container\nname: 1",
        "apiVersion: 1\nkind: [Deployment]",
        "apiVersion: v1\nname: no kind",
        "[apiVersion, kind]",
    ],
)
async def test_what_is_no_object_of_kubernetes_is_let_be(body: str) -> None:
    """Custom resources, also of groups that begin like its own; names that are paths; other YAML."""
    assert await kubernetes(body) == NOTHING


async def test_a_custom_resource_definition_is_an_object_too() -> None:
    """With a schema of its own inside, extensions included."""
    schema = "{type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string, default: x}}}"
    version = f"{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {schema}}}}}"
    names = "names: {kind: Foo, plural: foos}"
    body = (
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: foos.example.com}\n"
        f"spec:\n  group: example.com\n  scope: Namespaced\n  {names}\n  versions: [{version}]\n"
    )
    assert await kubernetes(body) == Check(status="passed")
    assert (await kubernetes(body.replace("served: true", "served: often"))).status == "failed"


async def test_parts_and_patches_may_lack_fields_but_not_be_wrong() -> None:
    """`...` says that something is left out, Kustomize that something is added; placeholders stand for anything."""
    patch = "apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: 5"
    assert (await kubernetes(patch)).status == "failed"
    assert (await kubernetes(patch + "\n  # ...")).status == "passed"
    assert (await kubernetes(patch + "\n  template:\n    ...")).status == "passed"
    assert (await kubernetes(patch, prose="A patch for Kustomize:\n")).status == "passed"
    assert (await kubernetes(patch.replace("5", "five"), prose="A patch for Kustomize:\n")).status == "failed"
    assert (await kubernetes(DEPLOYMENT.replace("replicas: 3", "replicas: ${REPLICAS}"))).status == "passed"


async def test_alias_bombs_do_not_go_off() -> None:
    """As YAML they are small; what they would grow to is not checked."""
    bomb = "x0: &x0 [a, a, a, a, a, a, a, a, a]\n"
    for depth in range(1, 20):
        bomb += f"x{depth}: &x{depth} [{', '.join([f'*x{depth - 1}'] * 9)}]\n"
    assert await of("yaml", fence("yaml", bomb)) == Check(status="passed")
    head = "apiVersion: v1\nkind: ConfigMap\n"
    merges = bomb.replace("[a, a, a, a, a, a, a, a, a]", "{a: b}").replace("[*", "{<<: [*")
    for body in (
        head + bomb,
        head + merges.replace("]", "]}"),
        head + "data: &x {a: *x}",
        head + "a: " + "[" * 500 + "]" * 500,
    ):
        found = await kubernetes(body)
        assert found.status == "not_applicable"
        assert "not checked" in found.findings[0]


async def test_errors_without_end_are_counted() -> None:
    """Of many bad objects the first findings, and how many more."""
    found = await kubernetes("---\n".join(["apiVersion: v1\nkind: Pod\nspec: []\n"] * 600))
    assert (found.status, len(found.findings)) == ("failed", 20)


# Policy


async def test_policy_names_the_pattern_and_the_line() -> None:
    """Required ones must be found, forbidden ones must not; every line has its own beginning and end."""
    text = "# Plan\r\nUse Redis.\r\n## Risks\r\n"
    kept = Policy(required=("^## Risks$", "(?i)redis"), forbidden=("guesswork",))
    assert (await check(text, kept))["policy"] == Check(status="passed")
    found = (await check(text, Policy(required=("^## Cost",), forbidden=("Risks", "guesswork"))))["policy"]
    assert found.status == "failed"
    assert found.findings == (
        "not found: required pattern '^## Cost'",
        "found at line 3 of the proposal: forbidden pattern 'Risks'",
    )


@pytest.mark.parametrize("kind", ["required", "forbidden"])
async def test_catastrophic_patterns_time_out_and_fail(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the time for all of them no pattern is searched for."""
    monkeypatch.setattr(policy, "ALL_WITHIN_S", policy.SEARCH_WITHIN_S * 1.5)
    patterns = (r"(a|aa|b?)+c\d", r"(?R)", "never searched for")
    given = Policy(required=patterns) if kind == "required" else Policy(forbidden=patterns)
    found = (await check("a" * 100 + "c", given))["policy"]
    assert (found.status, len(found.findings)) == ("failed", 3)
    assert all("timed out" in finding for finding in found.findings)


@pytest.mark.parametrize(
    "pattern", ["(", "a**", "[b-a]", r"\1", "(?<n>", "(?V1)a", "(" * 5000 + ")" * 5000, r"\p{Foo}"]
)
async def test_bad_patterns_have_a_reason(pattern: str) -> None:
    """The control plane rejects them; the check does not blame the proposal for one."""
    assert bad_pattern(pattern)
    found = (await check("text", Policy(required=(pattern,))))["policy"]
    assert (found.status, "cannot be compiled" in found.findings[0]) == ("not_applicable", True)


@pytest.mark.parametrize("pattern", ["", "a|b", "(?i)x", r"(?<=a+)b", "[[a]", r"\bno\b", "(?P<n>x)(?P=n)"])
def test_good_patterns_have_none(pattern: str) -> None:
    """Nor do they warn."""
    assert bad_pattern(pattern) is None
