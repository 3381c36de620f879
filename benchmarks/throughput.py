"""`make bench`: the worker beside its baselines, in the same run and by the same clock.

An embedded Kafka is started, a generated feed is published by `auditgap publish`, and every contestant works through
it in turn, in as many interleaved rounds as wanted, each time into fresh topics. What each committed is compared with
what the feed demands. Exit status: 1 if any output was wrong; a figure below its target is only said.
"""

import argparse
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

SHARE: Final = 50_000
"""How much of the feed slow contestants get: the rate is what is compared."""


def publish(settings: Settings, path: Path, records: int) -> float:
    """Publish a feed with the product's own command; gives records/s, its start included."""
    kafka.apply_topics(settings, lambda _: None)
    began = time.monotonic()
    subprocess.run(
        [str(Path(sys.executable).with_name("auditgap")), "publish", str(path)],
        env={**os.environ, **contest.environment_of(settings)},
        check=True,
        timeout=60 + records / 5000,
    )
    return records / (time.monotonic() - began)


def main() -> int:
    """Run it all."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended and removed on the way out
    for name in [name for name in os.environ if name.startswith("AUDITGAP_")]:
        del os.environ[name]  # the benchmark decides
    span = timedelta(milliseconds=options.records, minutes=1)
    whole = workload.Shape(options.records, (datetime.now(UTC) - span).replace(microsecond=0))
    share = workload.Shape(min(options.records, SHARE), whole.begin)
    wanted = [each for each in CONTESTANTS if each.name in options.contestants]
    runs: list[contest.Run] = []
    with tempfile.TemporaryDirectory(prefix="auditgap-bench-") as directory:
        tmp = Path(directory)
        with EmbeddedKafka(tmp / "kafka", on_message=_say) as broker:
            servers = broker.bootstrap_servers
            feeds: dict[bool, tuple[str, workload.Expectation]] = {}
            published = 0.0
            for is_whole, shape in ((True, whole), (False, share)):
                if is_whole or any(not each.whole_feed for each in wanted):
                    topic = "feed" if is_whole else "feed-share"
                    path = tmp / f"{topic}.ndjson"
                    feeds[is_whole] = topic, workload.write(path, shape)
                    rate = publish(contest.settings_for(servers, topic, "publish"), path, shape.records)
                    published = published or rate
                    path.unlink()
            _say(f"published {whole.records:,} activities at {published:,.0f}/s")
            for number in range(1, options.rounds + 1):
                for each in wanted:
                    topic, expected = feeds[each.whole_feed]
                    settings = contest.settings_for(servers, topic, f"{each.name}-{number}")
                    runs.append(contest.run(each, number, settings, expected, broker.pid, tmp))
                    _say(_line(runs[-1]))
    expected = feeds[True][1]
    lines = _conclude(options, expected, runs, published)
    print("\n".join(lines))
    return int(any(run.faults for run in runs))


def _conclude(
    options: argparse.Namespace, expected: workload.Expectation, runs: list[contest.Run], published: float
) -> list[str]:
    targets = report.targets(runs, published)
    lines = [
        f"{expected.records:,} activities of 2,000 organizations on {contest.PARTITIONS} partitions, "
        f"{expected.settings_events:,} of them settings events, from which follow {expected.alerts:,} alerts and "
        f"{len(expected.windows):,} gaps; {options.rounds} interleaved rounds; median (least to most). The clock of "
        "all runs from the first fetch until outputs, state and offsets of the last record are committed.",
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
