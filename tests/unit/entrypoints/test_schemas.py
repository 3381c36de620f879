"""The gate: the schemas of this version go together with all released ones; and the commands that say so."""

import hashlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from auditgap import resources
from auditgap.adapters import avro, registry
from auditgap.entrypoints import schemas
from auditgap.entrypoints.cli import cli
from auditgap.errors import UsageError

SCHEMAS: Final = resources.path("schemas")

RELEASED: Final = {
    "activity/v1.avsc": "d123a70023f6d026de4646fd9164261ee3e03135986553dae3aee371a5645b35",
    "alert/v1.avsc": "8d7d998190365b1352484310ba15b30f2fa8c4a73adb74a8225bcc22c2c24ba2",
    "gap/v1.avsc": "4df16f59bffa984ee568537f5cf6614518c1328ff169ca68b79b02110b411400",
    "observation/v1.avsc": "7196f5c9051cdd3c048649f9ad52e15f9ef1d97e1cec9624e2f1158932cca591",
    "policy/v1.avsc": "ba1ff917e557fafdc8560755448808ca9099954df263ca731f510f685b9e98fd",
    "status/v1.avsc": "d5335dcd60d6b868638cc9c1e172d398ee6a5ae9f0d2c7a8932e134e932d7d6e",
    "topology/v1.avsc": "7cf0f96a264bf8de55ab86c540bfe2279af37b7395038c93bad041176f098565",
}
"""SHA-256 of every version that was released. A line is added for a new one; none is ever changed."""


def test_released_versions_never_change() -> None:
    """Every released version is there as it was released, and no other is."""
    released = SCHEMAS / "released"
    found = {str(path.relative_to(released)): _digest(path) for path in sorted(released.rglob("*.*"))}
    assert found == RELEASED


def test_next_versions_go_together_with_released_ones() -> None:
    """No schema breaks a reader of a released version; if this fails, `auditgap schemas check` says it as well."""
    broken = {f"{each.name} {each.earlier}": each.broken for each in schemas.against_released(SCHEMAS) if each.broken}
    assert not broken


def test_every_version_has_an_id_for_good() -> None:
    """Each released version has one id of its own; so has a next version that differs from the last released one."""
    table = json.loads((SCHEMAS / "ids.json").read_text())
    assert len(set(table.values())) == len(table)
    for path in SCHEMAS.glob("*.avsc"):
        versions = avro.released(SCHEMAS, path.stem)
        assert {f"{path.stem}/v{number}" for number in versions} <= set(table.values())
    assert set(avro.SchemaIds.bundled().ids) == {path.stem for path in SCHEMAS.glob("*.avsc")}


def test_changed_schema_needs_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed schema without a new id stops everything; with one, old records are read by the old version."""
    folder = _copy(tmp_path)
    monkeypatch.setattr(resources, "path", tmp_path.joinpath)
    _add_field(folder / "status.avsc", {"name": "more", "type": ["null", "string"], "default": None})
    for cached in (avro.schema, avro.schema_text):
        cached.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"give status/v2 an id in schemas/ids\.json"):
            avro.SchemaIds.bundled()
        table = json.loads((folder / "ids.json").read_text())
        number = max(map(int, table)) + 1
        (folder / "ids.json").write_text(json.dumps(table | {str(number): "status/v2"}))
        ids = avro.SchemaIds.bundled()
        assert ids.ids["status"] == number
        old, new = ids.writer(7), ids.writer(number)
        assert old is not None
        assert new is not None
        assert [each["name"] for each in new["fields"]] == [*(each["name"] for each in old["fields"]), "more"]
    finally:
        for cached in (avro.schema, avro.schema_text):
            cached.cache_clear()


# --- the command ------------------------------------------------------------------------------------------------------


def test_check_says_what_breaks(tmp_path: Path) -> None:
    """An incompatible schema is told with the field, and makes the exit status 1; the others are told as well."""
    folder = _copy(tmp_path)
    _add_field(folder / "gap.avsc", {"name": "more", "type": "string"})
    status, out, _ = _run("check", "--dir", str(folder))
    assert status == 1
    assert "alert: compatible with v1\n" in out
    assert (
        "gap: incompatible with v1\n"
        "  more: is missing on the other side and has no default, so the new version cannot read old records\n"
    ) in out


def test_check_looks_at_every_released_version(tmp_path: Path) -> None:
    """A change that goes together with the last version but not with the first is refused: it is transitive."""
    folder = _copy(tmp_path)
    # A later version took the field away, as it may: it has a default. A new one of another type breaks the first.
    shape = json.loads((folder / "status.avsc").read_text())
    shape["fields"] = [each for each in shape["fields"] if each["name"] != "since"]
    (folder / "released" / "status" / "v2.avsc").write_text(json.dumps(shape))
    shape["fields"].append({"name": "since", "type": ["null", "string"], "default": None})
    (folder / "status.avsc").write_text(json.dumps(shape))
    status, out, _ = _run("check", "--dir", str(folder))
    assert status == 1
    assert "status: incompatible with v1\n  since: " in out
    assert "status: compatible with v2\n" in out


def test_check_of_this_version_passes() -> None:
    """What ships is compatible, and each schema is named."""
    status, out, _ = _run("check")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == sorted(path.stem for path in SCHEMAS.glob("*.avsc"))


def test_check_of_a_schema_without_an_earlier_version(tmp_path: Path) -> None:
    """A first version breaks nobody; it has to be a schema all the same."""
    (tmp_path / "new.avsc").write_text('"string"')
    assert _run("check", "--dir", str(tmp_path))[:2] == (0, "new: no earlier version\n")
    (tmp_path / "new.avsc").write_text('"strin"')
    assert _run("check", "--dir", str(tmp_path))[0] == 2


def test_check_says_that_a_schema_is_gone(tmp_path: Path) -> None:
    """A released schema without a next version would leave its readers alone."""
    folder = _copy(tmp_path)
    (folder / "policy.avsc").unlink()
    status, out, _ = _run("check", "--dir", str(folder))
    assert status == 1
    assert "policy: incompatible with v1\n  policy.avsc is gone\n" in out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gap.avsc", b"{", "gap.avsc is no Avro schema"),
        ("gap.avsc", b"\xff", "gap.avsc cannot be read"),
        ("released/gap/v1.avsc", b"{", "gap v1 is no Avro schema"),
        ("released/gap/v1.avsc", b"\xff", "cannot be read"),
        ("released/gap/v3.avsc", b'"string"', "does not have every version"),
        ("released/gap/vx.avsc", b'"string"', ""),
    ],
)
def test_check_of_unreadable_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """What cannot be read is wrong use: one line, exit status 2."""
    folder = _copy(tmp_path)
    (folder / name).write_bytes(content)
    status, _, error = _run("check", "--dir", str(folder))
    if words:
        assert status == 2
        assert words in error
        assert error.count("\n") == 1
    else:
        assert status == 0


def test_check_of_an_empty_folder(tmp_path: Path) -> None:
    """A folder without schemas is a wrong folder, not a good one."""
    with pytest.raises(UsageError, match="has no schemas"):
        list(schemas.against_released(tmp_path))


def test_register_needs_a_registry() -> None:
    """Where none is set it is said which setting does it."""
    status, _, error = _run("register")
    assert status == 2
    assert "AUDITGAP_REGISTRY__URL" in error


@pytest.mark.parametrize("command", ["check", "register"])
def test_registry_that_does_not_answer(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is not there is a failure in one line."""
    monkeypatch.setenv("AUDITGAP_REGISTRY__URL", "http://127.0.0.1:9/")
    status, _, error = _run(command)
    assert status == 1
    assert "the registry at http://127.0.0.1:9/ does not answer" in error
    assert error.count("\n") == 1


def test_registry_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that takes the question and never answers is not waited for."""
    monkeypatch.setattr(registry, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AUDITGAP_REGISTRY__URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        status, _, error = _run("register")
    assert status == 1
    assert "does not answer" in error
    assert error.count("\n") == 1


def _run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["schemas", *arguments])
    return done.exit_code, done.stdout, done.stderr


def _copy(directory: Path) -> Path:
    return Path(shutil.copytree(SCHEMAS, directory / "schemas"))


def _add_field(path: Path, new: dict[str, Any]) -> None:
    shape = json.loads(path.read_text())
    shape["fields"].append(new)
    path.write_text(json.dumps(shape))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
