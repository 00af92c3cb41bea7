"""Print the measurements of the code's structure: `make measure`.

A reviewer compares two outputs. The figures are counts of the syntax tree, but for the files and functions that one
event enters, which a profile of a running relay counts (see `path_of_an_event`).
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType

from tests.architecture.path_of_an_event import count_path
from tests.architecture.rules import MAX_ARROWS, MAX_LEVELS, MAX_ROOMS, repeated_types
from tests.architecture.source import Source, levels
from tests.architecture.violations import VIOLATIONS

STATEFUL = {
    "Connection": "connection",
    "DeviceQueue": "queue",
    "StoredQueue": "queue",
    "Endpoint": "endpoint",
    "OutboxState": "state",
    "Owner": "owner",
    "UdpIngest": "udp",
}
"""Classes with measured state, and the name of a variable that holds one."""
_LIBRARIES = ("aiohttp", "aiosqlite")


def state_fields(source: Source) -> dict[str, int]:
    """Return the number of fields of each stateful class: those assigned to self, and those of a dataclass."""
    return {
        f"{module.name}.{node.name}": len(fields_of(node))
        for module in source.modules
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and node.name in STATEFUL
    }


def fields_of(node: ast.ClassDef) -> set[str]:
    assigned = {
        target.attr
        for each in ast.walk(node)
        for target in _targets(each)
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    return assigned | {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def foreign_writes(source: Source) -> dict[str, int]:
    """Return by class the number of fields that code outside of the class assigns, matched by the field's name."""
    fields = {
        name: fields_of(node)
        for module in source.modules
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and node.name in STATEFUL
        for name in [node.name]
    }
    written: dict[str, set[str]] = defaultdict(set)
    for module in source.modules:
        if not module.name.startswith(("relay.policy", "relay.outbox")):
            continue
        for each in ast.walk(module.tree):
            for target in _targets(each):
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name | ast.Attribute):
                    owner = target.value.id if isinstance(target.value, ast.Name) else target.value.attr
                    for name in fields if owner != "self" else ():
                        if owner.strip("_") == STATEFUL[name] and target.attr in fields[name]:
                            written[name].add(target.attr)
    return {name: len(written[name]) for name in fields}


def private_names(source: Source) -> dict[str, set[str]]:
    """Return the names with a leading underscore of aiohttp and aiosqlite that the package uses."""
    used: dict[str, set[str]] = {library: set() for library in _LIBRARIES}
    for module in source.modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and (library := (node.module or "").split(".")[0]) in used:
                used[library] |= {alias.name for alias in node.names if alias.name.startswith("_")}
        for name, inherited in _inherited_private(importlib.import_module(module.name)):
            library = inherited.__module__.split(".")[0]
            if library in used and f"self.{name}" in module.text:
                used[library].add(name)
    return used


def _inherited_private(module: ModuleType) -> Iterator[tuple[str, type]]:
    """Yield private names that a class of the module has from another package's class, and that class."""
    for _, own in inspect.getmembers(module, inspect.isclass):
        if own.__module__ != module.__name__:
            continue
        for base in own.__mro__[1:]:
            names = {*vars(base), *getattr(base, "__slots__", ())}
            yield from ((name, base) for name in names if name.startswith("_") and not name.startswith("__"))


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        flat = [each.elts if isinstance(each, ast.Tuple) else [each] for each in node.targets]
        return [target for targets in flat for target in targets]
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def _assertions(source: Source) -> int:
    return sum(
        isinstance(node, ast.Assert)
        for module in source.modules
        if module.name.startswith("relay.policy")
        for node in ast.walk(module.tree)
    )


def _entry_points(source: Source) -> list[str]:
    """Return the public methods of `Reader`."""
    return [
        method.name
        for node in source.names["relay.event.reader"].tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Reader"
        for method in node.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
    ]


def _lines(source: Source, prefix: str) -> int:
    return sum(module.text.count("\n") for module in source.modules if module.name.startswith(prefix))


def measurements(source: Source) -> Iterator[tuple[str, object, str]]:
    """Yield (what, value, target) of each measurement."""
    loose = [each for each in source.modules if each.path.parent.name == "relay" and each.path.name != "__init__.py"]
    found, cycles = levels(source.arrows)
    files, functions, without_name = asyncio.run(count_path())
    yield "modules directly in relay/", len(loose), "1"
    yield "packages and modules on import levels", len(source.rooms), f"at most {MAX_ROOMS}"
    yield "import levels", max(found.values(), default=-1) + 1, f"at most {MAX_LEVELS}"
    yield "import arrows between them", len(source.arrows), f"at most {MAX_ARROWS}"
    yield "imports that are part of a cycle", len(cycles) + len(levels(source.module_arrows)[1]), "0"
    yield "files one event enters", files, "at most 30"
    yield "functions one event enters", functions, "at most 150"
    yield "lambdas and comprehensions beside them", without_name, "counted as functions: the sum at most 150"
    yield "entry points of the event reader", len(_entry_points(source)), "3"
    for name, fields in state_fields(source).items():
        yield f"state fields of {name}", fields, "at most 12"
    for name, fields in foreign_writes(source).items():
        yield f"fields of {name} written from outside", fields, "0"
    yield "assertions in policy/", _assertions(source), "on entry and exit of every transition"
    for library, names in private_names(source).items():
        yield f"private names of {library}", len(names), "0"
    yield "type names defined more than once", len(repeated_types(source)), "0"
    yield "deliberate violations of the architecture", len(VIOLATIONS), "each is reported (test_violations.py)"
    yield "lines in outbox/sqlite/", _lines(source, "relay.outbox.sqlite"), "at most 2,500"
    yield "lines of the package", _lines(source, "relay"), "fewer than 19,629"


def main() -> None:
    for what, value, target in measurements(Source()):
        sys.stdout.write(f"{what:55} {value!s:>8}   target: {target}\n")


if __name__ == "__main__":
    main()
