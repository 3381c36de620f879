"""Whole outputs, kept as files in tests/golden: what people and programs read. A change of one is to be looked at.

`AUDITGAP_TEST_GOLDEN=write` writes the files anew.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from auditgap.core.records import Emission, as_dict, as_json

FOLDER: Final = Path(__file__).parents[1] / "golden"


def assert_golden(name: str, outputs: Mapping[str, object]) -> None:
    """Hold outputs, by what they are of, against the file of that name: a line each."""
    path = FOLDER / f"{name}.json"
    lines = [f"{json.dumps(each)}: {json.dumps(outputs[each], ensure_ascii=False)}" for each in sorted(outputs)]
    if os.environ.get("AUDITGAP_TEST_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    kept = json.loads(path.read_text())
    found = json.loads("{" + ",".join(lines) + "}")
    assert found.keys() == kept.keys()
    for each in kept:
        assert found[each] == kept[each], each


def shown(emissions: Iterable[Emission]) -> dict[str, object]:
    """Give records for people and JSON, without what they leave open, by kind, number and revision."""
    return {
        f"{number:03d} {type(record).__name__}": {
            name: value for name, value in as_json(as_dict(record)).items() if value is not None
        }
        for number, record in enumerate(emissions)
    }
