"""Who may import whom: the directions that keep the core pure and the planes apart."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "fleet").rglob("*.py"), *(ROOT / "workers").rglob("*.py")])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules imported anywhere in the file, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def reaches(path: Path, *prefixes: str) -> set[str]:
    return {name for name in imports(path) for prefix in prefixes if name == prefix or name.startswith(prefix + ".")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_pool_imports_ray(path: Path) -> None:
    """Everything else runs, and is tested, without Ray."""
    if name_of(path) != "workers.pool":
        assert not reaches(path, "ray")


@pytest.mark.parametrize("path", [path for path in MODULES if "deliberation" in path.parts], ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """No I/O, no clock, no unseeded chance; of the fleet only messages, requests, times and errors."""
    assert not reaches(path, "asyncio", "time", "nats", "faststream", "aiohttp", "structlog", "os", "workers")
    allowed = {"fleet.deliberation", "fleet.messages", "fleet.requests", "fleet.times", "fleet.errors"}
    used = {".".join(name.split(".")[:2]) for name in reaches(path, "fleet")} - {"fleet"}
    assert used <= allowed
    assert not reaches(path, "fleet.times.now_ms")
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "open" not in calls


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith("workers")], ids=name_of)
def test_workers_know_nothing_of_the_control_plane(path: Path) -> None:
    """They use messages, subjects, settings and the connection; never the core, the store or the runner."""
    control = ("deliberation", "runner", "store", "dispatcher", "collector", "service", "process", "outbox", "cli")
    assert not reaches(path, *(f"fleet.{name}" for name in control))


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith("fleet")], ids=name_of)
def test_only_the_command_line_benchmarks_and_chaos_meet_the_workers(path: Path) -> None:
    """The control plane knows workers as messages and as a `Launcher`."""
    if not name_of(path).startswith(("fleet.cli", "fleet.bench", "fleet.chaos")):
        assert not reaches(path, "workers")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_runs_benchmarks_and_chaos(path: Path) -> None:
    """Nothing that serves depends on what measures, or breaks, it."""
    for measuring in ("fleet.bench", "fleet.chaos"):
        if not name_of(path).startswith(("fleet.cli", measuring)):
            assert not reaches(path, measuring)


@pytest.mark.parametrize("path", [path for path in MODULES if "simulat" in path.name], ids=name_of)
def test_the_simulator_stands_alone(path: Path) -> None:
    """It plays a foreign server: it must not share code with those it is used to test."""
    assert not reaches(path, "fleet")
