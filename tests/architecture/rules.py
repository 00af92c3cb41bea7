"""Rules of the architecture that neither import-linter nor ruff can express. Each returns the places that break it.

`python -m tests.architecture.rules [ROOT]` prints them and exits with 1 if there are any; `make check` runs that.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.source import ROOT, Module, Source, levels

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70
MAX_ROOMS, MAX_LEVELS, MAX_ARROWS = 20, 9, 70
_PURE = ("relay.policy", "relay.event")
_IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}
_CLOCK = "relay.runtime.clock"
_TASKS = "relay.runtime.tasks"
_IMPORT_BY_NAME = {"relay.cli", "relay.http.content_coding"}
"""The first imports a command when it is called, the second a codec that older versions of Python lack."""


def clock_reads(source: Source) -> Iterator[str]:
    """Only the clock reads time and draws random bytes: not through an event loop or the system either."""
    for module in source.modules:
        calls = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
        for node in ast.walk(module.tree) if module.name != _CLOCK else ():
            if not isinstance(node, ast.Attribute):
                continue
            if node.attr == "time" and (node in calls or "loop" in ast.unparse(node.value)):
                yield _place(module, node, f"reads a clock: only {_CLOCK} does")
            elif node.attr in ("urandom", "getrandom"):
                yield _place(module, node, f"draws random bytes: only {_CLOCK} does")


def tasks(source: Source) -> Iterator[str]:
    """Only `Tasks` starts tasks: an event loop or a group starts none that has no name and no watch."""
    for module in source.modules:
        for node in ast.walk(module.tree) if module.name != _TASKS else ():
            if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future"):
                yield _place(module, node, f"starts a task: only {_TASKS} does")


def imports_by_name(source: Source) -> Iterator[str]:
    """An import by a name made at run time escapes the contracts of the imports."""
    for module in source.modules:
        for node in ast.walk(module.tree) if module.name not in _IMPORT_BY_NAME else ():
            if isinstance(node, ast.Name | ast.Attribute):
                name = node.id if isinstance(node, ast.Name) else node.attr
                if name in ("import_module", "__import__"):
                    yield _place(module, node, "imports by name: write an import statement")


def impure_calls(source: Source) -> Iterator[str]:
    """Policy and event do no I/O, also without an import."""
    for module in source.modules:
        for node in ast.walk(module.tree) if module.name.startswith(_PURE) else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _IMPURE_CALLS:
                yield _place(module, node, f"calls {node.func.id}: policy and event are pure")
            elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
                yield _place(module, node, "waits: policy and event are pure")


def client_uses(source: Source) -> Iterator[str]:
    """Only forward is an HTTP client, so that no other package can send the key."""
    for module in source.modules:
        for node in ast.walk(module.tree) if not module.name.startswith("relay.forward") else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiohttp":
                names = [node.module or "", *(alias.name for alias in node.names)]
                if any(word in name for name in names for word in ("Client", "client", "onnector")):
                    yield _place(module, node, "uses aiohttp's client: only relay.forward does")
            elif isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "aiohttp" for alias in node.names):
                yield _place(module, node, "imports all of aiohttp, its client included: import names from it")


def numbered_parameters(source: Source) -> Iterator[str]:
    """No statement numbers its parameters: Python 3.12.0 to 3.12.3 warns if their values are a sequence."""
    for module in source.modules:
        for node in ast.walk(module.tree) if module.name.startswith("relay.outbox.sqlite") else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\?\d", node.value):
                yield _place(module, node, "numbers a parameter: name it, and pass a mapping")


def loose_modules(source: Source) -> Iterator[str]:
    """`relay` itself contains nothing but packages."""
    for module in source.modules:
        if module.path.parent.name == "relay" and module.path.name not in ("__init__.py", "__main__.py"):
            yield f"{module.path.relative_to(source.root)}: stands directly in relay/: move it into a package"


def long_code(source: Source) -> Iterator[str]:
    """A module fits a head, a function fits a screen."""
    for module in source.modules:
        lines = module.text.count("\n")
        if lines > MAX_MODULE_LINES:
            yield f"{module.path.relative_to(source.root)}: has {lines} lines; {MAX_MODULE_LINES} are allowed"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    yield _place(module, node, f"{node.name} has {length} lines; {MAX_FUNCTION_LINES} are allowed")


def structure(source: Source) -> Iterator[str]:
    """Packages ("rooms"), their levels and their imports are few, and no packages or modules form a cycle."""
    found, cycles = levels(source.arrows)
    for value, limit, what in (
        (len(source.rooms), MAX_ROOMS, "packages"),
        (max(found.values(), default=-1) + 1, MAX_LEVELS, "levels"),
        (len(source.arrows), MAX_ARROWS, "imports between packages"),
    ):
        if value > limit:
            yield f"relay: has {value} {what}; {limit} are allowed"
    for importer, imported in (*cycles, *levels(source.module_arrows)[1]):
        yield f"{importer}: imports {imported}, which imports it again: break the cycle"


def test_places(source: Source) -> Iterator[str]:
    """`tests/unit` mirrors the package: test_<module>.py or test_<module>_<aspect>.py in the folder of the module."""
    unit = source.root / "tests" / "unit"
    for path in sorted(unit.rglob("test_*.py")):
        folder = source.root / "relay" / path.parent.relative_to(unit)
        subject = path.stem.removeprefix("test_") + "_"
        modules = [folder.name, *(each.stem for each in folder.glob("*.py"))]
        if not any(subject.startswith(f"{module}_") for module in modules):
            yield f"{path.relative_to(source.root)}: tests no module of {folder.relative_to(source.root)}/"


def repeated_types(source: Source) -> dict[str, list[str]]:
    """Return the public type names that are defined more than once, and where."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in source.modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module.name)
    return {name: places for name, places in sorted(found.items()) if len(places) > 1}


def unique_types(source: Source) -> Iterator[str]:
    """A public type name is defined once in the package."""
    for name, places in repeated_types(source).items():
        yield f"{places[0]}: defines {name}, and so does {places[1]}: give each its own name"


RULES = (
    clock_reads,
    tasks,
    imports_by_name,
    impure_calls,
    client_uses,
    numbered_parameters,
    loose_modules,
    long_code,
    structure,
    test_places,
    unique_types,
)


def _place(module: Module, node: ast.AST, problem: str) -> str:
    return f"{module.name}:{getattr(node, 'lineno', 0)}: {problem}"


def main(root: Path) -> int:
    problems = [problem for rule in RULES for problem in rule(Source(root))]
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
