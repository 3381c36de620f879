"""What a user installs is the package alone, with its schemas."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    subprocess.run(build, cwd=ROOT, check=True, timeout=120)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_one_package_and_the_schemas(wheel: Path) -> None:
    """The wheel's only package is `auditgap`, and every schema of the checkout is inside."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"auditgap"}
    inside = "auditgap/_data/schemas/"
    packed = {name.removeprefix(inside) for name in names if name.startswith(inside)}
    assert packed == {str(path.relative_to(ROOT / "schemas")) for path in (ROOT / "schemas").rglob("*.*")}
    assert "auditgap/adapters/embedded_kafka_lock.json" in names


def test_installed_package_finds_its_schemas(wheel: Path, tmp_path: Path) -> None:
    """A clean environment with the wheel alone loads every schema from the package, not from a checkout."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "from auditgap import resources; import json\n"
        "for name in ('activity', 'alert', 'gap', 'policy', 'topology'):\n"
        "    path = resources.path('schemas', f'{name}.avsc'); json.loads(path.read_text()); print(path)\n"
    )
    shown = subprocess.run([python, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    assert all(str(site) in line for line in shown.stdout.splitlines()), shown.stdout
