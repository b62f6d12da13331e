"""What code reaches a result: a hash over the syntax trees of a stage and of all it imports from this package.

Comments, docstrings and layout do not count; a change of behaviour does. Reads text only, so that a login node needs
no torch.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


@cache
def fingerprint(module: str) -> str:
    """Return the hash for a module of this package, such as ``cytomend.stages.mend_shard``.

    Raises
    ------
    FileNotFoundError
        If there is no such module.
    """
    digest = hashlib.sha256()
    for name in sorted(_reached(module)):
        digest.update(name.encode())
        digest.update(_behaviour(name))
    return digest.hexdigest()


def _reached(module: str) -> set[str]:
    """Return the module and all that it imports from this package, directly or not."""
    reached, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(_imports(name))
    return reached


@cache
def _imports(module: str) -> set[str]:
    """Return the modules of this package that a module names in its import statements, anywhere in it."""
    named = set[str]()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            named.add(base)
            named.update(f"{base}.{alias.name}" for alias in node.names)
    # The package itself holds only its version, which is no behaviour: a release redoes nothing that did not change.
    for name in [*named, module]:
        parts = name.split(".")
        named.update(
            ".".join(parts[:depth]) for depth in range(2, len(parts))
        )  # Python runs a package before its parts
    return {name for name in named if name.startswith(f"{PACKAGE.name}.") and _file(name) is not None}


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of what a possibly relative import starts from."""
    if node.level == 0:
        return node.module or ""
    file = _file(module)
    parents = module.split(".") if file is not None and file.name == "__init__.py" else module.split(".")[:-1]
    base = parents[: len(parents) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _file(module: str) -> Path | None:
    place = PACKAGE.parent.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    if file is None:
        raise FileNotFoundError(f"no module {module} below {PACKAGE.parent}")
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _behaviour(module: str) -> bytes:
    """Return a module's syntax tree as text, without docstrings and other bare strings."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
    return ast.dump(tree).encode()


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
