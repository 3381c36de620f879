"""`make mutants`: mutation testing of the core, by mutmut on a seeded sample, and the report docs/mutation.md.

mutmut wants the package below `src` and test ids without brackets, so it works on a copy, in .cache/mutants.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
COPY: Final = ROOT / ".cache" / "mutants"
MUTMUT: Final = Path(sys.executable).with_name("mutmut")

TARGET: Final = 90.0
"""Percent of the mutants tried that the tests have to notice."""

HISTORIES: Final = 60
"""How many simulated histories the invariants are held against: some seconds, for each mutant."""

SETTINGS: Final = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/auditgap/core/*.py"]
pytest_add_cli_args_test_selection = ["tests/unit/core", "tests/property/test_invariants.py"]
also_copy = ["schemas", "connectors", "docs"]

[tool.pytest.ini_options]
pythonpath = ["src", "."]
addopts = ["--import-mode=importlib", "--deselect=tests/unit/core/test_imports.py"]
"""

CONFTEST: Final = '''

# mutmut 3.7 asks for what pytest 9 calls otherwise, and cannot name tests whose ids hold texts of all kinds.
pytest.Item._nodeid = property(lambda self: self.nodeid)


def pytest_make_parametrize_id(config, val, argname):
    """Number the examples."""
    return argname
'''

SURVIVED: Final = {0, 33}
"""Exit statuses of mutants that no test noticed, or that no test runs."""


def prepare() -> None:
    """Make the copy."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT / "streams" / "auditgap", COPY / "src" / "auditgap")
    for name in ("tests", "schemas", "connectors", "docs"):
        shutil.copytree(ROOT / name, COPY / name)
    (COPY / "pyproject.toml").write_text(SETTINGS)
    with (COPY / "tests" / "conftest.py").open("a") as file:
        file.write(CONFTEST)


def run(*names: str) -> None:
    """Let mutmut make all mutants, and try these."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["AUDITGAP_TEST_HISTORIES"] = str(HISTORIES)
    command = [str(MUTMUT), "run", "--max-children", str(os.cpu_count() or 1), *names]
    subprocess.run(command, cwd=COPY, env=environment, check=True, stdout=subprocess.DEVNULL)


def results() -> dict[str, dict[str, int | None]]:
    """Give exit statuses by mutant, by module; None for one that was not tried."""
    found = sorted((COPY / "mutants" / "src" / "auditgap" / "core").glob("*.meta"))
    return {path.name.split(".")[0]: json.loads(path.read_text())["exit_code_by_key"] for path in found}


def change(name: str) -> str:
    """Show what a mutant changes, in one line."""
    done = subprocess.run([str(MUTMUT), "show", name], cwd=COPY, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return "; ".join(f"{line[0]} {line[1:].strip()[:90]}" for line in lines).replace("|", "¦").replace("`", "'")


def rate(killed: int, tried: int) -> str:
    """Write a share in percent, rounded down."""
    return f"{killed * 1000 // tried / 10:.1f} %" if tried else ""


def report(sample: int) -> tuple[str, float]:
    """Write the report. Give its text, and the rate in percent."""
    rows, survivors = [], []
    total: Counter[str] = Counter()
    for module, statuses in results().items():
        done = {name: status for name, status in statuses.items() if status is not None}
        left = sorted(name for name, status in done.items() if status in SURVIVED)
        counts = Counter(mutants=len(statuses), tried=len(done), killed=len(done) - len(left))
        total.update(counts)
        shown = rate(counts["killed"], counts["tried"])
        rows.append(f"| {module} | {counts['mutants']:,} | {counts['tried']} | {counts['killed']} | {shown} |")
        survivors += [f"| {name.removeprefix('auditgap.core.')} | `{change(name)}` |" for name in left]
    killed, tried = total["killed"], total["tried"]
    text = f"""# Mutation testing of the core

`make mutants` writes this. mutmut {version("mutmut")} changes the core in {total["mutants"]:,} places, one at a time; a
seeded sample of {sample:,} of these mutants is tried against `tests/unit/core`, and the invariants over {HISTORIES}
simulated histories. A mutant is killed if a test fails. The other property tests, and all that runs on a real Kafka,
are left out here, and would kill more.

**{killed:,} of {tried:,} killed: {rate(killed, tried)}.** The target is {TARGET:.0f} %.

| module | mutants | tried | killed | |
|---|---|---|---|---|
{chr(10).join(rows)}

## What no test noticed

| mutant | change |
|---|---|
{chr(10).join(survivors)}
"""
    return text, 100 * killed / tried


def main() -> int:
    """Run it all. Exit status: 1 below the target."""
    parser = argparse.ArgumentParser(description="Mutation testing of the core.")
    parser.add_argument("--sample", type=int, default=1000, help="how many mutants are tried (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: %(default)s)")
    options = parser.parse_args()
    prepare()
    run("auditgap.core.times.x_text_of__mutmut_1")  # makes them all
    names = [name for statuses in results().values() for name in statuses]
    run(*random.Random(options.seed).sample(names, min(options.sample, len(names))))
    text, percent = report(options.sample)
    (ROOT / "docs" / "mutation.md").write_text(text)
    print(f"{percent:.1f} % of the sample killed: docs/mutation.md")
    return int(percent < TARGET)


if __name__ == "__main__":
    sys.exit(main())
