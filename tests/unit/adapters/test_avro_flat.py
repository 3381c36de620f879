"""Gaps and alerts are written by `avro_flat`, for speed: fastavro says what is right."""

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditgap.adapters import avro
from auditgap.adapters.avro_flat import record_writer
from auditgap.core.records import alert_from_dict, as_dict, gap_from_dict

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
longs = st.integers(-(2**62), 2**62)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Draw values of a field's type."""
    match kind:
        case [_, other]:
            return st.none() | values(other)
        case "string":
            return texts
        case "boolean":
            return st.booleans()
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "double":
            return st.floats(allow_nan=False)
        case {"type": "enum", "symbols": symbols}:
            return st.sampled_from(symbols)
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=4)
        case "io.auditgap.compliance.Authorisation":
            return st.sampled_from(["LISTED", "NOT_LISTED", "UNKNOWN"])
        case _:
            return longs


def shapes(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw records of a schema."""
    return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in avro.schema(name)["fields"]})


@pytest.mark.parametrize("name", ["gap", "alert"])
@given(data=st.data())
def test_bytes_are_those_of_fastavro(name: str, data: st.DataObject) -> None:
    """Every gap and alert is written byte for byte as fastavro writes it."""
    shape = data.draw(shapes(name))
    record = gap_from_dict(shape) if name == "gap" else alert_from_dict(shape)
    ids = avro.SchemaIds.bundled()
    out = io.BytesIO()
    fastavro.schemaless_writer(out, avro.schema(name), as_dict(record), strict=True)
    assert avro.Encoder(ids).emission(record) == ids.prefix(name) + out.getvalue()


def test_a_type_it_does_not_know_is_refused() -> None:
    """A schema with a type that flat records do not have is refused when it is compiled, not when it is written."""
    with pytest.raises(ValueError, match="flat records"):
        record_writer({"fields": [{"name": "map", "type": {"type": "map", "values": "string"}}]})


@pytest.mark.parametrize("wrong", [("text", 5), ("text", 1, 2)])
def test_a_wrong_number_of_values_is_refused(wrong: tuple[object, ...]) -> None:
    """A record with a value too few or too many is an error, never a shifted record."""
    write = record_writer({"fields": [{"name": "only", "type": "string"}]})
    with pytest.raises(ValueError, match="zip"):
        write(wrong)
