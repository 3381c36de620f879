"""Results: a table and the targets on stdout, and the same as JSON and Markdown beside the benchmarks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import machine
from contest import CONTESTANTS, Run

RESULTS: Final = Path(__file__).parent / "results"

_QUIET: Final = 0.2
"""Cores that other programs may use before it is worth a remark."""


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and what was measured; `met` is None where it was not measured."""

    what: str
    measured: str
    met: bool | None

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "----"}[self.met]
        return f"{verdict}  {self.what}: {self.measured}"


def rates(runs: Sequence[Run], name: str) -> list[float]:
    """Give a contestant's records/s, a number per round."""
    return _each(runs, name, lambda timing: timing.records / timing.seconds)


def cpu(runs: Sequence[Run], name: str) -> list[float]:
    """Give a contestant's processor seconds per 100,000 records, a number per round."""
    return _each(runs, name, lambda timing: timing.cpu_seconds / timing.records * 100_000)


def _each(runs: Sequence[Run], name: str, figure: Callable[[Any], float]) -> list[float]:
    return [figure(run.timing) for run in runs if run.contestant == name and run.timing is not None]


def table(runs: Sequence[Run]) -> list[str]:
    """Draw the table, median and (least to most) of the rounds."""
    own = rates(runs, "auditgap")
    lines = [
        "| | records/s | auditgap is | CPU s per 100,000 records | peak MB | records | outputs |",
        "|---|---|---|---|---|---|---|",
    ]
    for contestant in CONTESTANTS:
        found = [run for run in runs if run.contestant == contestant.name]
        speed = rates(runs, contestant.name)
        if not found:
            continue
        right = sum(not run.faults for run in found)
        outputs = f"exact in {right} of {len(found)}"
        if not speed:
            lines.append(f"| {contestant.title} | no result | | | | | {outputs} |")
            continue
        ratio = f"{median(own) / median(speed):.2f} times as fast" if own and contestant.name != "auditgap" else ""
        memory = _each(runs, contestant.name, lambda timing: timing.peak_mb)
        records = next(run.timing.records for run in found if run.timing is not None)
        lines.append(
            f"| {contestant.title} | {_spread(speed, ',.0f')} | {ratio} | {_spread(cpu(runs, contestant.name), '.2f')} "
            f"| {_spread(memory, '.0f')} | {records:,} | {outputs} |"
        )
    return lines


def company(runs: Sequence[Run]) -> str:
    """Say how much of the machine went to programs that have nothing to do with the benchmark."""
    others = [run.others for run in runs if run.others is not None]
    if not others:
        return "How busy other programs were is not known on this system."
    verdict = (
        "" if max(others) < _QUIET else ": the machine was not quiet, and the figures are lower than they could be"
    )
    return f"Other programs used {median(others):.2f} cores meanwhile, {max(others):.2f} at the most{verdict}."


def _spread(figures: Sequence[float], form: str) -> str:
    return f"{median(figures):{form}} ({min(figures):{form}} to {max(figures):{form}})"


def targets(runs: Sequence[Run], published: float | None) -> list[Target]:
    """Hold the medians (of memory: the worst) against what is promised."""
    own, faust, everything = rates(runs, "auditgap"), rates(runs, "faust"), rates(runs, "everything")
    memory = _each(runs, "auditgap", lambda timing: timing.peak_mb)
    burned, plain = cpu(runs, "auditgap"), cpu(runs, "loop")
    return [
        _target("at least 150,000 activities/s", own, lambda: median(own), ",.0f", lambda value: value >= 150_000),
        _target("under 300 MB", memory, lambda: max(memory), ".0f MB", lambda value: value < 300),
        _target(
            "at least 12 times as fast as idiomatic Faust",
            own and faust,
            lambda: median(own) / median(faust),
            ".1f times",
            lambda value: value >= 12,
        ),
        _target(
            "at most 2.5 times the CPU per record of the hand-written loop",
            burned and plain,
            lambda: median(burned) / median(plain),
            ".2f times",
            lambda value: value <= 2.5,
        ),
        _target(
            "with everything on at least 120,000 activities/s",
            everything,
            lambda: median(everything),
            ",.0f",
            lambda value: value >= 120_000,
        ),
        _target(
            "publish at least 40,000/s",
            [] if published is None else [published],
            lambda: published or 0,
            ",.0f/s",
            lambda value: value >= 40_000,
        ),
    ]


def _target(
    what: str, figures: Sequence[float], value: Callable[[], float], form: str, met: Callable[[float], bool]
) -> Target:
    if not figures:
        return Target(what, "not measured", None)
    number, _, unit = form.partition("f")
    return Target(what, f"{value():{number}f}{unit}", met(value()))


def save(name: str, heading: str, lines: Sequence[str], data: dict[str, Any]) -> None:
    """Write `name`.json and `name`.md."""
    RESULTS.mkdir(exist_ok=True)
    on = machine.describe()
    today = datetime.now(UTC).date()
    shape = {"date": str(today), "machine": on, **data}
    (RESULTS / f"{name}.json").write_text(json.dumps(shape, indent=1) + "\n")
    described = ", ".join(f"{what} {value}" for what, value in on.items())
    text = "\n".join([f"# {heading}", "", f"{today:%-d %B %Y}. {described}.", "", *lines, ""])
    (RESULTS / f"{name}.md").write_text(text)


def plain(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Give the runs as JSON can hold them."""
    return [asdict(run) for run in runs]
