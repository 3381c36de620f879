"""The generated page says what the code does."""

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent


def test_reference_is_current() -> None:
    """docs/reference.md is what the tables in the code give now (`make docs` writes it)."""
    spec = importlib.util.spec_from_file_location("reference", HERE / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert reference.PAGE.read_text() == reference.page()
