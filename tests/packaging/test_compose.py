"""The compose file is what users of a container engine start; here it is validated, not run."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


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


def test_compose_images_are_pinned_and_unprivileged() -> None:
    """Every image names its version, no container is privileged, and ports are published on loopback only."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"kafka", "topics", "worker"}
    for name, service in services.items():
        version = service["image"].rpartition(":")[2]
        assert version[0].isdigit(), name
        assert not service.get("privileged"), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
