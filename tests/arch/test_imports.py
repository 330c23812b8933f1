"""Who may import whom: the table of docs/ARCHITECTURE.md, held.

Imports point down. Between slices only `service` and `records` are open; imports inside functions count
like any other, those for type checkers alone do not.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "cairn"

GROUND = {"core", "wire"}
SHELL = GROUND | {"http", "life", "db"}
FLEET = SHELL | {"fleet"}
LOWER = FLEET | {"identity", "placement"}
SLICES = ("fleet", "identity", "placement", "image", "volume", "network", "compute")

TABLE: Mapping[str, set[str]] = {
    "core": set(),
    "wire": {"core"},
    "db": GROUND,
    "life": GROUND | {"db"},
    "http": GROUND | {"db", "life"},
    "audit": SHELL,
    "fleet": SHELL,
    "identity": FLEET,
    "placement": FLEET,
    "image": LOWER,
    "volume": LOWER | {"image"},
    "network": LOWER | {"image"},
    "compute": LOWER | {"image", "volume", "network"},
    "drivers": GROUND | {"host"},
    "agent": GROUND | {"drivers", "settings"},
    "host": GROUND | {"settings"},
    "settings": {"core"},
}
"""For each part what it may see besides itself. Parts that are not here (app, slices, cli, sim, web,
health, __main__) put the others together and may see everything; nothing here may see them."""

OPEN = {"service", "records"}
"""Modules of a slice that other slices may use."""

ALSO_OPEN = {
    "cairn.fleet.hosts": "how hosts are arranged: an operator's verbs, in a file of their own",
    "cairn.fleet.loss": "what is done about lost hosts: verbs, of which recovery is the second half",
    "cairn.fleet.ask": "how to ask a host: a type that app.py hands to whoever needs it",
    "cairn.network.wishes": "what can be wished of a port: records that only verbs read",
    "cairn.placement.fit": "which hosts fit: pure, over arrays that the asker fills",
}

EXCEPTIONS = {
    (
        "cairn.image",
        "cairn.drivers.formats",
    ): "what a file really is: pure, and asked before any host sees the file",
    (
        "cairn.host.teardown",
        "cairn.agent.main",
    ): "takes apart what an agent left, with its own words",
    ("cairn.host.teardown", "cairn.drivers.hypervisor.qemu"): "the same",
    ("cairn.host.teardown", "cairn.drivers.networks.ovn"): "the same",
}
"""Importer (or the package above it) and imported, with the reason."""

INSIDE = {
    "records": {"store", "service", "control", "api", "shapes"},
    "store": {"service", "control", "api", "shapes"},
    "service": {"control", "api"},
}
"""What a slice's own modules may not import of it."""


class Imports(ast.NodeVisitor):
    """Every `cairn.*` module that a file imports when it runs."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.found: list[tuple[int, str]] = []

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(node.lineno, alias.name) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self.module}:{node.lineno}: relative import"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.found.append((node.lineno, whole if is_module(whole) else str(node.module)))


def is_module(name: str) -> bool:
    path = ROOT.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path) -> Iterator[tuple[int, str]]:
    visitor = Imports(name)
    visitor.visit(ast.parse(path.read_text(), filename=str(path)))
    for line, imported in visitor.found:
        if imported == "cairn" or imported.startswith("cairn."):
            yield line, imported


def part(module: str) -> str:
    """The part of the whole that a module belongs to: "cairn.volume.api" is in "volume"."""
    words = module.split(".")
    return words[1] if len(words) > 1 else ""


MODULES = modules()
EDGES = {name: list(imports_of(name, path)) for name, path in MODULES.items()}


def test_something_is_looked_at() -> None:
    assert len(MODULES) > 50
    assert sum(map(len, EDGES.values())) > 200


@pytest.mark.parametrize("name", sorted(TABLE))
def test_imports_point_down(name: str) -> None:
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, found in EDGES.items()
        if part(module) == name
        for line, imported in found
        if part(imported) not in TABLE[name] | {name, ""}
        if not is_exception(module, imported)
    ]
    assert not wrong, "\n".join(wrong)


def is_exception(module: str, imported: str) -> bool:
    return any(
        imported == to and (module == of or module.startswith(of + ".")) for of, to in EXCEPTIONS
    )


def test_every_exception_is_needed() -> None:
    needed = {
        (of, to)
        for of, to in EXCEPTIONS
        for module, found in EDGES.items()
        for _, imported in found
        if imported == to and (module == of or module.startswith(of + "."))
    }
    assert needed == EXCEPTIONS.keys()


def test_slices_meet_at_service_and_records_only() -> None:
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, found in EDGES.items()
        if part(module) in SLICES
        for line, imported in found
        if part(imported) in SLICES and part(imported) != part(module)
        if imported.split(".")[2:3] not in [[name] for name in OPEN]
        if imported not in ALSO_OPEN
    ]
    assert not wrong, "\n".join(wrong)


def test_within_a_slice_imports_point_down() -> None:
    wrong = [
        f"{module}:{line} imports {imported}"
        for module, found in EDGES.items()
        if part(module) in SLICES
        for line, imported in found
        if part(imported) == part(module)
        if imported.split(".")[2:3] and imported.split(".")[2] in INSIDE.get(role(module), set())
    ]
    assert not wrong, "\n".join(wrong)


def role(module: str) -> str:
    return module.split(".")[2] if module.count(".") >= 2 else ""


def test_there_are_no_circles() -> None:
    graph = {
        name: {imported for _, imported in found if imported in MODULES and imported != name}
        for name, found in EDGES.items()
    }
    while leaves := {name for name, seen in graph.items() if not seen & graph.keys()}:
        graph = {name: seen for name, seen in graph.items() if name not in leaves}
    assert not graph, f"in or above a circle of imports: {', '.join(sorted(graph))}"


LUMBER = {"utils", "util", "helpers", "common", "misc", "base", "manager", "tools"}


def test_there_are_no_lumber_rooms() -> None:
    assert not [name for name in MODULES if LUMBER & set(name.split("."))]
