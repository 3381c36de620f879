"""The compose file and the images are what users of a container engine start; here they are validated, not run."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from auditgap.config import load

ROOT = Path(__file__).parents[2]

ONE_SHOT = {"topics", "schemas", "tables", "bucket", "sinks"}
"""They do their work and end; all others go on, and say whether they are well."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file, read."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_compose_file_is_valid() -> None:
    """The compose file follows the Compose Specification's own schema."""
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_images_are_pinned_and_unprivileged(compose: dict[str, Any]) -> None:
    """Every image names its version, no container is privileged, and ports are published on loopback only."""
    services = compose["services"]
    long_running = {"kafka", "registry", "worker", "postgresql", "s3", "connect", "browser"}
    assert set(services) == ONE_SHOT | long_running
    for name, service in services.items():
        assert re.match(r"v?\d+\.\d+", service["image"].rpartition(":")[2]), name
        assert not service.get("privileged"), name
        assert "cap_add" not in service, name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_our_own_containers_have_a_read_only_root(compose: dict[str, Any]) -> None:
    """What is built here, and psql, cannot write to their images, have no capabilities and get no new ones."""
    for name in ONE_SHOT - {"bucket"} | {"worker", "connect"}:
        service = compose["services"][name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_starts_in_an_order_that_can_end(compose: dict[str, Any]) -> None:
    """Each service waits for the health of what runs and for the end of what ends, in no circle."""
    services = compose["services"]
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert wanted["condition"] == expected, (name, other)
            assert other in ONE_SHOT or "healthcheck" in services[other], (name, other)
    started: set[str] = set()
    while ready := {
        name
        for name, service in services.items()
        if name not in started and {*service.get("depends_on", {})} <= started
    }:
        started |= ready
    assert started == set(services)


def test_compose_takes_secrets_from_files(compose: dict[str, Any]) -> None:
    """No password stands in the compose file, and every secret that a service reads is one of its own."""
    for name, service in compose["services"].items():
        for variable in service.get("environment", {}):
            assert not re.search(r"(PASSWORD|SECRET|ACCESS_KEY|TOKEN)$", variable), (name, variable)
        text = str(service)
        assert set(re.findall(r"/run/secrets/(\w+)", text)) <= set(service.get("secrets", [])), name
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())


def test_compose_knows_our_settings_and_the_connectors_variables(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our services' variables are settings that exist; Connect has every variable that a shipped file names."""
    services = compose["services"]
    for name in ("topics", "schemas", "worker", "sinks"):
        with monkeypatch.context() as patch:
            for variable, value in services[name]["environment"].items():
                patch.setenv(variable, value)
            load()
    files = [ROOT / "connectors/worker.properties", *(ROOT / "connectors").glob("*/*.json")]
    named = {variable for file in files for variable in re.findall(r"\$\{env:(\w+)\}", file.read_text())}
    connect = services["connect"]
    defaults = set(re.findall(r"^export (\w+)=", (ROOT / "connectors/entrypoint.sh").read_text(), re.MULTILINE))
    assert defaults <= named
    assert named - defaults == {*connect["environment"], *(secret.upper() for secret in connect["secrets"])}


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "connectors/Dockerfile"])
def test_images_are_slim_pinned_and_not_root(dockerfile: str) -> None:
    """Every base image names its version, Python packages come by their sums, and the last user is not root."""
    text = (ROOT / dockerfile).read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases), bases
    assert all("slim" in base for base in bases if base.startswith("python:"))
    assert all("--require-hashes" in line or "--no-deps" in line for line in text.splitlines() if "pip install" in line)
    users = re.findall(r"^USER (\S+)", text.rpartition("FROM ")[2], re.MULTILINE)
    assert users
    assert users[-1] not in {"root", "0"}
    copied = {each for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for each in line.split()}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for each in copied:
        assert (ROOT / each).exists(), each
        assert any(each == one or each.startswith(f"{one}/") for one in allowed), each


def test_secrets_in_files_become_the_connectors_variables(tmp_path: Path) -> None:
    """The Connect image's entry point turns each file sink_* into a variable, nothing else, and runs the command."""
    (tmp_path / "sink_postgresql_password").write_text("a 'b' \"$c\"\n")
    (tmp_path / "other").write_text("not for Connect")
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "connectors/entrypoint.sh"), "/usr/bin/env"],
        env={"SECRETS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "SINK_POSTGRESQL_PASSWORD=a 'b' \"$c\"\n" in done.stdout
    assert "not for Connect" not in done.stdout
