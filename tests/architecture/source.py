"""The source of the package as data: modules, the package ("room") of each, and what imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_NESTED = ("relay.outbox.", "relay.ingest.udp")
"""Rooms below a package that count apart from it."""


class Module(NamedTuple):
    """One file of the package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """Return the package that the module belongs to: a loose module of `relay` or `relay.outbox` is a room."""
        parts = self.name.split(".")
        return ".".join(parts[:3] if self.name.startswith(_NESTED) else parts[:2])


class Source:
    """The modules below `root`/relay."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.modules = [self._read(path) for path in sorted((root / "relay").rglob("*.py"))]

    @cached_property
    def names(self) -> dict[str, Module]:
        return {module.name: module for module in self.modules}

    def imports(self, module: Module) -> Iterator[str]:
        """Yield the names of the package's modules that a module imports."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "relay":
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield name if name in self.names else node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.names)

    @cached_property
    def rooms(self) -> set[str]:
        return {module.room for module in self.modules} - {"relay"}

    @cached_property
    def module_arrows(self) -> set[tuple[str, str]]:
        """Which module imports which other one."""
        return {
            (module.name, name)
            for module in self.modules
            for name in self.imports(module)
            if name in self.names and name != module.name
        }

    @cached_property
    def arrows(self) -> set[tuple[str, str]]:
        """Which room imports which other one."""
        return {
            (self.names[importer].room, self.names[name].room)
            for importer, name in self.module_arrows
            if self.names[name].room != self.names[importer].room and name != "relay"
        }

    def _read(self, path: Path) -> Module:
        name = ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        return Module(name, path, text, ast.parse(text))


def levels(arrows: set[tuple[str, str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the level of each room, 0 at the bottom, and the arrows that are part of a cycle."""
    below: dict[str, set[str]] = {room: set() for arrow in arrows for room in arrow}
    for upper, lower in arrows:
        below[upper].add(lower)
    found: dict[str, int] = {}
    while ready := [room for room in below if room not in found and below[room] <= found.keys()]:
        found |= {room: 1 + max((found[lower] for lower in below[room]), default=-1) for room in ready}
    return found, sorted((upper, lower) for upper, lower in arrows if not {upper, lower} <= found.keys())
