"""Whether versions of an Avro schema go together: FULL_TRANSITIVE, by Apache Avro's own checker.

Each version must read what the other wrote, for every pair of the next version and one that was released. Three changes
pass that checker and break readers all the same, so they are refused here:

- another logical type: the number is the same, and means another time;
- another namespace: Avro compares the last part of a name only, a reader's generated classes all of it;
- a default of an enum that is taken away: the next new symbol would break every reader.
"""

from typing import Final

import avro.errors
import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import ArraySchema, EnumSchema, MapSchema, NamedSchema, RecordSchema, Schema, UnionSchema

LEVEL: Final = "FULL_TRANSITIVE"
"""The name of this rule in a registry."""


def parse(text: str) -> Schema:
    """Parse a schema. Raises ValueError with the reason."""
    try:
        return avro.schema.parse(text)
    except (avro.errors.AvroException, ValueError, KeyError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def differences(new: Schema, old: Schema) -> list[str]:
    """Say what breaks between two versions: `path: reason`, each once; nothing where they go together."""
    found = [
        *(f"{path}: {reason}, so the new version cannot read old records" for path, reason in _unread(new, old)),
        *(
            f"{path}: {reason}, so readers of the old version cannot read new ones"
            for path, reason in _unread(old, new)
        ),
        *(f"{path or 'the schema'}: {reason}" for path, reason in _meaning(new, old)),
    ]
    return list(dict.fromkeys(found))


def _reads(reader: Schema, writer: Schema) -> bool:
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # its constructor has no types
    result = checker.get_compatibility(reader, writer)
    return result.compatibility is SchemaCompatibilityType.compatible


def _unread(reader: Schema, writer: Schema, path: str = "") -> list[tuple[str, str]]:
    """Find where a reader fails. The verdict is the library's; it names places by number, so they are found here."""
    if _reads(reader, writer):
        return []
    found: list[tuple[str, str]] = []
    match reader, writer:
        case RecordSchema(), RecordSchema():
            written = {field.name: field for field in writer.fields}
            for field in reader.fields:
                names = [field.name, *(field.get_prop("aliases") or [])]
                there = next((written[name] for name in names if name in written), None)
                where = f"{path}.{field.name}".lstrip(".")
                if there is not None:
                    found += _unread(field.type, there.type, where)
                elif not field.has_default:
                    found.append((where, "is missing on the other side and has no default"))
        case (ArraySchema(), ArraySchema()):
            found = _unread(reader.items, writer.items, f"{path}[]")
        case (MapSchema(), MapSchema()):
            found = _unread(reader.values, writer.values, f"{path}{{}}")
        case (EnumSchema(), EnumSchema()) if extra := sorted(set(writer.symbols) - set(reader.symbols)):
            found = [(path, f"the enum knows no {', '.join(extra)} and has no default")]
        case (_, UnionSchema()):
            for branch in writer.schemas:
                found += _unread(_branch(reader, branch), branch, path)
    if found:
        return found
    if isinstance(reader, NamedSchema) and isinstance(writer, NamedSchema) and reader.name != writer.name:
        return [(path or reader.fullname, f"it is called {reader.name} here and {writer.name} there")]
    return [(path or "the schema", f"{_named(reader)} does not take {_named(writer)}")]


def _branch(reader: Schema, written: Schema) -> Schema:
    """Take the branch of a reader's union that is meant for a type, for a closer look; else the reader."""
    if isinstance(reader, UnionSchema):
        return next((each for each in reader.schemas if _key(each) == _key(written)), reader)
    return reader


def _key(schema: Schema) -> str:
    return schema.name if isinstance(schema, NamedSchema) else str(schema.type)


def _named(schema: Schema) -> str:
    if isinstance(schema, UnionSchema):
        return f"a union of {', '.join(map(_named, schema.schemas))}"
    return schema.name if isinstance(schema, NamedSchema) else str(schema.type)


def _meaning(new: Schema, old: Schema, path: str = "") -> list[tuple[str, str]]:
    """Find what Avro's own rules let pass."""
    found: list[tuple[str, str]] = []
    if isinstance(new, UnionSchema) or isinstance(old, UnionSchema):
        before = {_key(each): each for each in _branches(old)}
        for each in _branches(new):
            if _key(each) in before:
                found += _meaning(each, before[_key(each)], path)
        return found
    if _logical(new) != _logical(old):
        found.append((path, f"its logical type changes from {_logical(old)} to {_logical(new)}"))
    if isinstance(new, NamedSchema) and isinstance(old, NamedSchema) and _space(new) != _space(old):
        found.append((path, f"{old.name} moves from the namespace {_space(old)} to {_space(new)}"))
    match new, old:
        case (ArraySchema(), ArraySchema()):
            found += _meaning(new.items, old.items, f"{path}[]")
        case (MapSchema(), MapSchema()):
            found += _meaning(new.values, old.values, f"{path}{{}}")
        case (EnumSchema(), EnumSchema()) if old.get_prop("default") and not new.get_prop("default"):
            found.append((path, "the default of the enum is taken away"))
        case (RecordSchema(), RecordSchema()):
            fields = {field.name: field for field in old.fields}
            for field in new.fields:
                if field.name in fields:
                    found += _meaning(field.type, fields[field.name].type, f"{path}.{field.name}".lstrip("."))
    return found


def _branches(schema: Schema) -> list[Schema]:
    return list(schema.schemas) if isinstance(schema, UnionSchema) else [schema]


def _logical(schema: Schema) -> object:
    return schema.get_prop("logicalType") or "none"


def _space(schema: NamedSchema) -> str:
    return str(schema.fullname).rpartition(".")[0]
