import ast
import sys
from pathlib import Path

import pytest

import auditgap.core

FILES = sorted(Path(auditgap.core.__path__[0]).rglob("*.py"))

IMPURE = {"asyncio", "multiprocessing", "os", "random", "secrets", "socket", "subprocess", "threading", "time"}
"""Modules of the standard library that bring in clocks, chance, threads or the outside."""

CLOCKS = {"now", "today", "utcnow"}


def imported(tree: ast.AST) -> set[str]:
    """Name the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the core imports by full names"
            names |= {f"{node.module}.{each.name}" for each in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports(path: Path) -> None:
    """A file of the core imports the standard library and the core, nothing that knows time, chance or a network."""
    for name in imported(ast.parse(path.read_text())):
        top = name.partition(".")[0]
        assert name.startswith("auditgap.core.") or (top in sys.stdlib_module_names and top not in IMPURE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_clock(path: Path) -> None:
    """A file of the core reads no clock through datetime either."""
    calls = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not calls & CLOCKS


def test_there_is_a_core() -> None:
    """The files that are looked at are those of the core."""
    assert {"fold.py", "inputs.py", "intake.py", "ledger.py", "recent.py", "records.py"} <= {p.name for p in FILES}
