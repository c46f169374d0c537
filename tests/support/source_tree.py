"""What the source of framefold looks like: its folders, who imports whom, and which names are defined where.

Everything is read from the text of the files, so imports inside functions and under ``TYPE_CHECKING`` count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("adapters", "configs", "data", "evaluation", "training")


@cache
def modules() -> dict[str, Path]:
    """Dotted name of every module of framefold, and its file."""
    ground = [file for file in (ROOT / "framefold").glob("*.py")] + list((ROOT / "framefold" / "cli").rglob("*.py"))
    files = [*ground, *(file for folder in PACKAGES for file in (ROOT / folder).rglob("*.py"))]
    return {_dotted(file): file for file in sorted(files)}


def _dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "framefold" else ("framefold", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def folder_of(module: str) -> str:
    """Folder of a module below framefold, such as ``adapters.base``; "" for the files of framefold itself."""
    file = modules()[module]
    parts = file.relative_to(ROOT).parent.parts
    return ".".join(parts[1:] if parts[0] == "framefold" else parts)


def is_face(module: str) -> bool:
    return modules()[module].name == "__init__.py"


@cache
def imports(module: str) -> tuple[tuple[str, str], ...]:
    """Every import of framefold's own modules: (module that is imported, name taken from it or "")."""
    return tuple(dict.fromkeys(_imports(module)))


def _imports(module: str) -> Iterator[tuple[str, str]]:
    package = module if is_face(module) else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "framefold")
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, (base, node.module or "")))
            if stem.partition(".")[0] != "framefold":
                continue
            for alias in node.names:
                submodule = f"{stem}.{alias.name}"
                yield (submodule, "") if submodule in modules() else (stem, alias.name)


def bare_imports(module: str) -> list[str]:
    """Imports that name a top-level folder without ``framefold.``: they would make a second copy of its modules."""
    found = []
    for node in ast.walk(tree(module)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [name for name in names if name.partition(".")[0] in PACKAGES]
    return found


def outside_imports(module: str) -> set[str]:
    """Top-level names of the other packages that a module imports, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names - {"framefold"}


def definitions(module: str) -> dict[str, ast.stmt]:
    """Classes, functions and constants that a module defines at its top level."""
    found: dict[str, ast.stmt] = {}
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {leaf.id: node for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return found


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected components of more than one node)."""
    reach = {node: _reachable(node, edges) for node in edges}
    groups = {frozenset({node, *(other for other in reach[node] if node in reach.get(other, ()))}) for node in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for node in edges.get(todo.pop(), ()):
            if node not in seen:
                seen.add(node)
                todo.append(node)
    return seen
