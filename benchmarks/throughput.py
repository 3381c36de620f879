"""`make bench`: the worker beside its baselines, in the same run and by the same clock.

An embedded Kafka is started, a generated feed is published by `auditgap publish`, and every contestant works through
it in turn, in as many interleaved rounds as wanted, each time into fresh topics. What each committed is compared with
what the feed demands. Exit status: 1 if any output was wrong; a figure below its target is only said.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import contest
import report
import workload
from auditgap.adapters import kafka
from auditgap.adapters.embedded_kafka import EmbeddedKafka
from auditgap.config import Settings
from contest import CONTESTANTS

INDICATORS: Final = 0.01
"""How many activities of the feed with everything are such that triage looks at."""

SHARE: Final = 50_000
"""How much of the feed slow contestants get: the rate is what is compared."""


def command(settings: Settings, *words: str) -> None:
    """Run one of the product's own commands."""
    subprocess.run(
        [str(Path(sys.executable).with_name("auditgap")), *words],
        env={**os.environ, **contest.environment_of(settings)},
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=600,
    )


def publish_everything(settings: Settings, tmp: Path, shape: workload.Shape) -> workload.Expectation:
    """Publish policies, then activities and observations in turn, a minute of the feed at a time."""
    rules, activities, seen = tmp / "policy.yaml", tmp / "activities.ndjson", tmp / "observations.ndjson"
    rules.write_text(workload.policy(shape))
    command(settings, "policy", "apply", str(rules))
    expectation = workload.Expectation()
    for lines, polls in workload.minutes(shape, expectation):
        activities.write_text("".join(lines))
        seen.write_text("".join(polls))
        command(settings, "publish", str(activities))
        command(settings, "publish", "--observations", str(seen))
    _say(f"published {shape.records:,} activities, with policies, and an observation per organization and minute")
    return expectation


def main() -> int:
    """Run it all."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended and removed on the way out
    for name in [name for name in os.environ if name.startswith("AUDITGAP_")]:
        del os.environ[name]  # the benchmark decides
    span = timedelta(milliseconds=options.records, minutes=1)
    whole = workload.Shape(options.records, (datetime.now(UTC) - span).replace(microsecond=0))
    shapes = {
        "whole": whole,
        "everything": dataclasses.replace(whole, indicators=INDICATORS),
        "share": workload.Shape(min(options.records, SHARE), whole.begin),
    }
    wanted = [each for each in CONTESTANTS if each.name in options.contestants]
    runs: list[contest.Run] = []
    with tempfile.TemporaryDirectory(prefix="auditgap-bench-") as directory:
        tmp = Path(directory)
        with EmbeddedKafka(tmp / "kafka", on_message=_say) as broker:
            servers = broker.bootstrap_servers
            feeds: dict[str, workload.Expectation] = {}
            rates: dict[str, float] = {}
            for name in sorted({each.feed for each in wanted}):
                settings = contest.settings_for(servers, name, "publish", name)
                kafka.apply_topics(settings, lambda _: None)
                if name == "everything":
                    feeds[name] = publish_everything(settings, tmp, shapes[name])
                    continue
                path = tmp / f"{name}.ndjson"
                feeds[name] = workload.write(path, shapes[name])
                began = time.monotonic()
                command(settings, "publish", str(path))
                rates[name] = shapes[name].records / (time.monotonic() - began)
                path.unlink()
                _say(f"published {shapes[name].records:,} activities at {rates[name]:,.0f}/s")
            for number in range(1, options.rounds + 1):
                for each in wanted:
                    aside = each.feed if each.feed == "everything" else None
                    settings = contest.settings_for(servers, each.feed, f"{each.name}-{number}", aside)
                    runs.append(contest.run(each, number, settings, feeds[each.feed], broker.pid, tmp))
                    _say(_line(runs[-1]))
    lines = _conclude(options, feeds, runs, rates.get("whole"))
    print("\n".join(lines))
    return int(any(run.faults for run in runs))


def _conclude(
    options: argparse.Namespace,
    feeds: dict[str, workload.Expectation],
    runs: list[contest.Run],
    published: float | None,
) -> list[str]:
    expected = next(iter(feeds[name] for name in ("whole", "everything", "share") if name in feeds))
    targets = report.targets(runs, published)
    lines = [
        f"{expected.records:,} activities of 2,000 organizations on {contest.PARTITIONS} partitions, "
        f"{expected.settings_events:,} of them settings events, from which follow {expected.alerts:,} alerts and "
        f"{len(expected.windows):,} gaps; {options.rounds} interleaved rounds; median (least to most). The clock of "
        "all runs from the first fetch until outputs, state and offsets of the last record are committed. "
        "With everything on there are also a policy for "
        f"each organization, {INDICATORS:.0%} indicator activities (half of them sign-ins, which name no organization) "
        "and an observation per organization and minute of the feed; what is counted are activities.",
        "",
        *report.table(runs),
        "",
        report.company(runs),
        "",
        *(f"- {target}" for target in targets),
    ]
    data = {
        "records": expected.records,
        "settings_events": expected.settings_events,
        "alerts": expected.alerts,
        "gaps": len(expected.windows),
        "published_per_second": published,
        "runs": report.plain(runs),
    }
    report.save("throughput", "Throughput", lines, data)
    return lines


def _line(run: contest.Run) -> str:
    if run.timing is None:
        return f"round {run.round}  {run.contestant:9}  no result: {'; '.join(run.faults)}"
    timing = run.timing
    others = "" if run.others is None else f", other programs used {run.others:.2f} cores"
    verdict = "outputs exact" if not run.faults else "WRONG: " + "; ".join(run.faults)
    return (
        f"round {run.round}  {run.contestant:9} {timing.records / timing.seconds:9,.0f}/s  "
        f"{timing.cpu_seconds / timing.records * 1e5:6.2f} CPU s/100,000  {timing.peak_mb:4.0f} MB  "
        f"{timing.commits} commits, {timing.head_start:.2f} s before the first record{others}; {verdict}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The worker beside its baselines.")
    parser.add_argument("--records", type=int, default=1_000_000, help="activities of the feed (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    names = [each.name for each in CONTESTANTS]
    parser.add_argument(
        "--contestants", nargs="+", choices=names, default=names, help="who takes part (default: all)", metavar="NAME"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
