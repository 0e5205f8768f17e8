"""Who may import whom: one table of ranks. A module imports from its own room and from rooms of a lower rank, only."""

import ast
import functools
import re
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]

RANKS: tuple[frozenset[str], ...] = (
    frozenset({"fleet", "fleet.subjects", "fleet.times", "fleet.clock", "fleet.exits", "fleet.logger"}),
    frozenset({"fleet.tenants"}),
    frozenset({"fleet.messages", "fleet.model_servers"}),
    frozenset({"fleet.errors", "fleet.undecodable"}),
    frozenset({"fleet.secret_files", "fleet.setting_values", "fleet.limits"}),
    frozenset({"fleet.crashpoints", "fleet.event_loop", "fleet.config"}),
    frozenset({"fleet.own_secrets"}),
    frozenset({"fleet.jetstream", "fleet.observability", "fleet.killable"}),
    frozenset({"fleet.requests"}),
    frozenset({"fleet.deliberation", "workers.llm"}),
    frozenset({"workers.checks"}),
    frozenset({"workers.calls", "fleet.control", "fleet.client", "fleet.page"}),
    frozenset({"workers.ray_pool", "workers.simulator", "workers.local_model"}),
    frozenset({"fleet.asyncapi", "fleet.local"}),
    frozenset({"fleet.bench", "fleet.chaos"}),
    frozenset({"fleet.cli"}),
)
"""Rooms, lowest first. Rooms of one rank do not know each other."""

ALONE = frozenset({"workers.simulator", "workers.local_model"})
"""They play foreign servers: they share no code with those that they are used to test."""

IMPURE = frozenset(
    {"asyncio", "time", "os", "io", "socket", "subprocess", "threading", "secrets", "uuid", "logging"}
    | {"nats", "faststream", "aiohttp", "structlog", "ray", "regex", "jsonschema_rs", "prometheus_client", "workers"}
)
"""What the core reaches by no path: I/O, a clock, chance that no seed fixes."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for top in ("fleet", "workers") for path in sorted((ROOT / top).rglob("*.py"))}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Modules imported anywhere in the file, inside functions too; a foreign one by its top-level name.

    None are known of a foreign one.
    """
    if module not in MODULES:
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in full}
    return frozenset(name if name in MODULES else name.partition(".")[0] for name in names)


def room_of(module: str) -> str:
    """The longest name of the table that the module stands under."""
    rooms = [room for rank in RANKS for room in rank if module == room or module.startswith(room + ".")]
    return max(rooms, key=len)


def rank_of(module: str) -> int:
    room = room_of(module)
    return next(index for index, rank in enumerate(RANKS) if room in rank)


def reached(module: str) -> set[str]:
    """Everything that importing the module imports, near or far. Packages on the way count: Python runs them."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(waiting.pop()):
            parts = name.split(".")
            parents = {".".join(parts[:end]) for end in range(1, len(parts))} & set(MODULES)
            for new in ({name} | parents) - seen:
                seen.add(new)
                waiting.append(new)
    return seen


def test_every_module_stands_in_a_room_of_the_table() -> None:
    """`fleet` is its version; `workers` is a name only."""
    assert {module for module in MODULES if module != "workers" and room_of(module) == "fleet"} == {"fleet"}
    assert not imports("fleet") & set(MODULES)
    assert not imports("workers") & set(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "workers"])
def test_imports_go_down(module: str) -> None:
    """To the same room or to a lower rank: so no path, however long, climbs."""
    climbing = {
        name
        for name in imports(module) & set(MODULES) - {"workers"}
        if room_of(name) != room_of(module) and rank_of(name) >= rank_of(module)
    }
    assert not climbing


def test_no_module_imports_itself_by_any_path() -> None:
    """Within a room, too."""
    graph = {module: imports(module) & set(MODULES) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("fleet.deliberation")])
def test_the_core_is_pure(module: str) -> None:
    """By no path of imports does it reach I/O, a clock or unseeded chance."""
    assert not {name.partition(".")[0] for name in reached(module)} & IMPURE
    tree = ast.parse(MODULES[module].read_text())
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert "open" not in {call.id for call in calls if isinstance(call, ast.Name)}
    chance = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "random"
        for alias in node.names
    }
    assert chance <= {"Random"}  # which takes a seed
    assert not any(isinstance(node, ast.Import) and node.names[0].name == "random" for node in ast.walk(tree))


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("workers.")])
def test_workers_share_only_the_wire_with_the_control_plane(module: str) -> None:
    """Of `fleet`, what ranks below the core. Those that play foreign servers share nothing at all."""
    used = {name for name in reached(module) if name.startswith("fleet.")}
    core = rank_of("fleet.deliberation.machine")
    assert not used if room_of(module) in ALONE else all(rank_of(name) < core for name in used)


def test_only_the_pool_imports_ray() -> None:
    """Everything else runs, and is tested, without Ray."""
    assert {room_of(module) for module in MODULES if "ray" in imports(module)} == {"workers.ray_pool"}


def test_one_module_knows_the_private_parts_of_ray() -> None:
    """Each with its reason, for the day when Ray changes."""
    private = re.compile(r"^\s*(from|import) ray\S*\._", re.MULTILINE)
    assert [module for module, path in MODULES.items() if private.search(path.read_text())] == [
        "workers.ray_pool.quirks"
    ]


def test_one_module_knows_the_private_parts_of_opentelemetry() -> None:
    """So nobody else has its exporter, which needs them."""
    private = re.compile(r"^\s*(from|import) opentelemetry(\S*\._|.*\bOTLPSpanExporter\b)", re.MULTILINE)
    assert [module for module, path in MODULES.items() if private.search(path.read_text())] == [
        "fleet.observability.quirks"
    ]


def test_modules_and_rooms_are_small_enough_to_read() -> None:
    """No module is over 300 lines, half of them are at most 120, and no folder has more than 16."""
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > 300} == {}
    assert median(count for module, count in lines.items() if MODULES[module].name != "__init__.py") <= 120
    paths = [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]
    folders = Counter(path.parent for path in paths if path.name != "__init__.py")
    assert {folder: count for folder, count in folders.items() if count > 16} == {}


def test_the_table_names_what_is_there() -> None:
    """A room that was renamed or removed does not stay in it."""
    assert {room for rank in RANKS for room in rank} <= set(MODULES)
