import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import auditgap
from auditgap.adapters import kafka
from auditgap.adapters.signing import read_trusted
from auditgap.core.inputs import SETTINGS_TYPE
from auditgap.core.policy import Rules
from auditgap.core.records import Alert, Gap, Status
from auditgap.core.times import SECOND, parse, text_of
from auditgap.entrypoints import show
from auditgap.entrypoints.cli import cli
from auditgap.errors import BrokerError, UsageError

BEGIN = parse("2026-11-23T12:00:00Z") or 0
UNTIL = "2026-11-24T00:00:00Z"
EXAMPLE = Path(__file__).parents[3] / "docs" / "policy-example.yaml"
TOPOLOGY = EXAMPLE.with_name("topology-example.yaml")


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    """Run a command; whatever goes wrong, it is never shown as a traceback."""
    result = CliRunner().invoke(cli, list(arguments), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert "Traceback" not in result.output
    return result


def activity(number: int, second: float, organization: str | None = "org_1", **fields: object) -> dict[str, Any]:
    """Make a record of the feed."""
    return {
        "id": f"activity_{number:05d}",
        "type": "claude_chat_created",
        "created_at": text_of(BEGIN + int(second * SECOND)),
        "organization_id": organization,
        **fields,
    }


def switch(number: int, second: float, organization: str | None = "org_1", **flags: object) -> dict[str, Any]:
    """Make a settings event."""
    actor = {"type": "user_actor", "email_address": "owner@example.com", "ip_address": "192.0.2.1"}
    return activity(number, second, organization, type=SETTINGS_TYPE, actor=actor, **flags)


def feed() -> list[dict[str, Any]]:
    """A window in one organization, closed after ten minutes, 2,000 activities on either side; another is clean."""
    before = [activity(number, number / 10) for number in range(2000)]
    after = [activity(3000 + number, 1000 + number / 10) for number in range(2000)]
    switches = [
        switch(9001, 300, compliance_api_enabled=False),
        switch(9002, 600, compliance_api_logging_enabled=True),
        switch(9003, 900, compliance_api_enabled=True),
    ]
    return [*before, *switches, *after, activity(9999, 1, "org_2")]


def ndjson(records: list[dict[str, Any]]) -> str:
    """Write records a line each."""
    return "".join(f"{json.dumps(record)}\n" for record in records)


def backtest(content: str | bytes, *options: str) -> tuple[int, dict[str, Any]]:
    """Run a backtest over standard input; give its exit status and its answer."""
    result = run("backtest", "-", "--json", "--until", UNTIL, *options, stdin=content)
    return result.exit_code, json.loads(result.stdout)


# --- use --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["--nosuch"],
        ["backtest"],
        ["backtest", "no-such-file"],
        ["backtest", "."],
        ["backtest", "-", "--until", "yesterday"],
        ["backtest", "-", "--until", "2026-11-23T12:00:00"],
        ["publish"],
        ["publish", "no-such-file"],
        ["publish", "-", "--feed", ""],
        ["publish", "-", "--feed", "a\nb"],
        ["worker", "--reset-input", "middle"],
        ["broker", "--port", "80"],
        ["broker", "--data-dir", __file__],
        ["topics", "nosuch"],
        ["gaps", "extra"],
        ["alerts", "--nosuch"],
        ["demo", "extra"],
        ["policy", "nosuch"],
        ["policy", "check"],
        ["policy", "check", "no-such-file"],
        ["policy", "apply", "."],
        ["topology", "check"],
        ["topology", "apply", "."],
    ],
    ids=" ".join,
)
def test_wrong_use_is_2(arguments: list[str]) -> None:
    """Wrong use ends with status 2, a word on stderr and nothing on stdout."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "broker",
        "topics apply",
        "policy check",
        "policy apply",
        "topology check",
        "topology apply",
        "publish",
        "worker",
        "gaps",
        "alerts",
        "status",
    ],
)
def test_help_is_data(command: str) -> None:
    """Every command explains itself on stdout, with status 0."""
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert not result.stderr


def test_help_lists_every_command_with_a_whole_sentence() -> None:
    """The list of commands fits a terminal of 80 columns without being cut."""
    text = run("--help").stdout
    assert "..." not in text.partition("Commands:")[2]
    names = "demo broker topics policy topology publish worker gaps alerts status backtest"
    for command in names.split():
        assert f"\n  {command} " in text


def test_version_is_that_of_the_distribution() -> None:
    """`--version` names the command and the version that is installed."""
    assert run("--version").stdout == f"auditgap {auditgap.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    """The command line can explain itself without Kafka, Avro, Faust or settings being loaded."""
    code = "import sys, auditgap.entrypoints.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"confluent_kafka", "fastavro", "faust", "pydantic", "yaml", "rich", "orjson", "aiohttp"}.isdisjoint(loaded)


def test_module_is_the_command() -> None:
    """`python -m auditgap` is the command."""
    ran = subprocess.run([sys.executable, "-m", "auditgap", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"auditgap {auditgap.__version__}\n"


# --- settings and failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["gaps"],
        ["alerts"],
        ["topics", "apply"],
        ["worker"],
        ["publish", "-"],
        ["policy", "apply", str(EXAMPLE)],
        ["topology", "apply", str(TOPOLOGY)],
    ],
)
@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("AUDITGAP_TOPICS__PARTITIONS", "many", "AUDITGAP_TOPICS__PARTITIONS"),
        ("AUDITGAP_KAFKA__SECURITY_PROTOCOL", "SASL_SSL", "sasl_username"),
        ("AUDITGAP_KAFKA__NOSUCH", "1", "AUDITGAP_KAFKA__NOSUCH"),
        ("AUDITGAP_NOSUCH", "1", "AUDITGAP_NOSUCH"),
    ],
)
def test_wrong_settings_are_one_line(
    command: list[str], variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting ends a command with status 2 and one line that names it."""
    monkeypatch.setenv(variable, value)
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("auditgap: ")
    assert named in result.stderr
    assert not result.stdout


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that stands in wrong settings is not in the message."""
    monkeypatch.setenv("AUDITGAP_KAFKA__SASL_PASSWORD", "hunter2")
    result = run("gaps")
    assert result.exit_code == 2
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize(("error", "status"), [(BrokerError("no\n  answer"), 1), (UsageError("no\nanswer"), 2)])
def test_every_error_of_ours_is_one_line(error: Exception, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AuditgapError is one line on stderr, with its own exit status."""

    def fail(*_: object) -> bool:
        raise error

    monkeypatch.setattr(kafka, "apply_topics", fail)
    result = run("topics", "apply")
    assert (result.exit_code, result.stderr) == (status, "auditgap: no answer\n")


@pytest.fixture
def own_process() -> dict[str, Any]:
    """How a command is run as a process of its own, with unbuffered pipes."""
    return {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}


def test_interrupt_is_130_and_quiet(own_process: dict[str, Any]) -> None:
    """Ctrl-C ends a command with status 130, without a word."""
    command = [sys.executable, "-m", "auditgap", "backtest", "-", "--history", "--json"]
    now = text_of(time.time_ns() // 1000)
    record = {**switch(1, 0, compliance_api_enabled=False), "created_at": now}
    with subprocess.Popen(command, **own_process) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(ndjson([record]).encode())
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert process.returncode == 130
        assert process.stderr
        assert process.stderr.read().strip() == b""


def test_a_closed_pipe_is_quiet(own_process: dict[str, Any], tmp_path: Path) -> None:
    """A reader that has had enough, as `head` has, ends a command without a word, and not with status 0."""
    file = tmp_path / "feed.ndjson"
    now = text_of(time.time_ns() // 1000)
    offs = [{**switch(number, 0, f"org_{number}", compliance_api_enabled=False)} for number in range(2000)]
    file.write_text(ndjson([{**record, "created_at": now} for record in offs]))
    with subprocess.Popen([sys.executable, "-m", "auditgap", "backtest", str(file)], **own_process) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(10)
        process.stdout.close()
        process.wait(30)
        assert process.stderr.read() == b""
        assert process.returncode == 1


# --- backtest ---------------------------------------------------------------------------------------------------------


def test_backtest_json_is_one_object_under_the_schemas_field_names() -> None:
    """The answer holds the counts, and gaps and alerts with every field of their schemas, times as ISO 8601 UTC."""
    status, answer = backtest(ndjson(feed()))
    assert status == 1
    counts = {name: answer[name] for name in ("records", "duplicates", "rejected", "organizations")}
    assert counts == {"records": 4004, "duplicates": 0, "rejected": 0, "organizations": 2}
    assert list(answer) == ["records", "duplicates", "rejected", "organizations", "gaps", "alerts", "status"]
    (gap,) = answer["gaps"]
    assert gap.keys() == set(Gap.__dataclass_fields__)
    assert {name: gap[name] for name in ("state", "cause", "opened_at", "closed_at", "duration_seconds")} == {
        "state": "CLOSED",
        "cause": "API_DISABLED",
        "opened_at": "2026-11-23T12:05:00.000000Z",
        "closed_at": "2026-11-23T12:15:00.000000Z",
        "duration_seconds": 600.0,
    }
    assert [(alert["kind"], alert["severity"], alert["status"]) for alert in answer["alerts"]] == [
        ("logging_disabled", "CRITICAL", "RESOLVED"),
        ("logging_restored", "INFORMATIONAL", "RESOLVED"),
    ]
    assert all(alert.keys() == set(Alert.__dataclass_fields__) for alert in answer["alerts"])
    assert all(each.keys() == set(Status.__dataclass_fields__) for each in answer["status"])
    assert {(each["audited"], each["reason"]) for each in answer["status"]} == {("UNKNOWN", "PROOF_TOO_OLD")}


def pages(records: list[dict[str, Any]]) -> str:
    """Write records as the API gives them: newest first, a thousand a page."""
    newest = sorted(records, key=lambda record: str(record["created_at"]), reverse=True)
    return "".join(
        json.dumps({"data": newest[at : at + 1000], "has_more": True}) + "\n" for at in range(0, len(newest), 1000)
    )


@pytest.mark.parametrize("order", ["as it happened", "newest first", "shuffled", "pages of the API", "gzip"])
def test_backtest_does_not_depend_on_the_order(order: str) -> None:
    """In whatever order and form a feed comes, the window has both ids of its bracket, however far apart they lie."""
    records = feed()
    content: str | bytes
    match order:
        case "newest first":
            content = ndjson(records[::-1])
        case "shuffled":
            random.Random(3).shuffle(records)
            content = ndjson(records)
        case "pages of the API":
            content = pages(records)
        case "gzip":
            content = gzip.compress(ndjson(records).encode())
        case _:
            content = ndjson(records)
    _, answer = backtest(content)
    (gap,) = answer["gaps"]
    assert (gap["last_activity_id"], gap["first_activity_id"]) == ("activity_01999", "activity_03000")
    assert gap["bracket_exact"]
    assert gap["activity_inside_count"] == 0


def test_backtest_counts_repeats_exactly() -> None:
    """A record counts as duplicate when its id and content were there before, however far and however written."""
    records = feed()
    respaced = "".join(json.dumps(dict(reversed(record.items())), indent=None) + "\n" for record in records)
    inside = [activity(5000, 400), activity(5001, 401)]
    content = ndjson(records) + respaced + ndjson([{**records[0], "new": 1}, *inside, *records[:5], *inside])
    _, answer = backtest(content)
    assert answer["records"] == 2 * 4004 + 1 + 2 + 5 + 2
    assert answer["duplicates"] == 4004 + 5 + 2
    assert answer["gaps"][0]["activity_inside_count"] == 2


def test_backtest_reports_what_it_refuses_by_line() -> None:
    """What cannot be read is named by line with its reason and counted; the rest is folded."""
    records = feed()
    unreadable = switch(7, 10, compliance_api_enabled="false")
    bad = ["{broken", "[]", "null", json.dumps({"type": "t"}), json.dumps({**records[0], "created_at": "noon"})]
    content = "\n".join([*bad, json.dumps(unreadable)]) + "\n" + ndjson(records)
    result = run("backtest", "-", "--json", "--until", UNTIL, stdin=content)
    answer = json.loads(result.stdout)
    # An empty array holds no record, and so none that is refused.
    assert (answer["rejected"], answer["records"]) == (5, 5 + 4004)
    assert [line.partition(": ")[2][:7] for line in result.stderr.splitlines()] == [
        f"line {number}:" for number in (1, 3, 4, 5, 6)
    ]
    assert "settings_change_unreadable" in {alert["kind"] for alert in answer["alerts"]}
    assert len(answer["gaps"]) == 1


def test_backtest_takes_observations(tmp_path: Path) -> None:
    """What a collector saw opens a window that no event tells of, as narrow as what was recorded allows."""
    seen = [
        {"kind": "settings_poll", "organization_id": "org_1", "observed_at": f"2026-11-23T12:{minute}:00Z", **result}
        for minute, result in (("05", {"result": "enabled"}), ("10", {"result": "disabled"}), ("20", {"result": "no"}))
    ]
    (tmp_path / "seen.ndjson").write_text(ndjson(seen))
    around = [{**activity(1, 0), "created_at": f"2026-11-23T12:{minute}:00Z"} for minute in ("07", "30")]
    content = ndjson([{**each, "id": f"act_{number}"} for number, each in enumerate(around)])
    result = run("backtest", "-", "--json", "--observations", str(tmp_path / "seen.ndjson"), stdin=content)
    (gap,) = json.loads(result.stdout)["gaps"]
    assert (gap["opened_by_kind"], gap["closed_by_kind"], gap["closed_by_id"]) == ("settings_poll", "activity", "act_1")
    assert [gap[name][11:19] for name in ("opened_at", "opened_at_latest", "closed_at")] == [
        "12:06:00",  # the last record, and a settle time before it
        "12:10:00",
        "12:30:00",
    ]
    assert (gap["last_activity_id"], gap["first_activity_id"]) == ("act_0", "act_1")
    assert "line 3: result of a settings_poll is none of enabled, disabled" in result.stderr


@pytest.mark.parametrize(
    ("owner", "verdict"), [("owner@example.com", "LISTED"), ("someone.else@example.com", "NOT_LISTED")]
)
def test_backtest_takes_a_policy(tmp_path: Path, owner: str, verdict: str) -> None:
    """The policy says whether who switched it off was listed."""
    path = tmp_path / "policy.yaml"
    path.write_text(f"author: {owner}\ndefaults:\n  owners:\n    emails: [{owner}]\n")
    _, answer = backtest(ndjson(feed()), "--policy", str(path))
    assert {(gap["authorised_at_open"], gap["authorised_now"]) for gap in answer["gaps"]} == {(verdict, verdict)}
    path.write_text("owner: nobody\n")
    refused = run("backtest", "-", "--policy", str(path), stdin=ndjson(feed()))
    assert refused.exit_code == 2
    assert "policy.yaml:1:" in refused.stderr


FAMILY = """
organizations:
  org_1: {}
  org_2: {parents: [org_1], uuid: u-2}
  org_3: {parents: [org_1]}
"""


def test_backtest_takes_a_topology(tmp_path: Path) -> None:
    """Members inherit the window of their parent, each with its own bracket; what names a uuid only is its member's."""
    path = tmp_path / "topology.yaml"
    path.write_text(FAMILY)
    own = [activity(10_000, 295, "org_2"), activity(10_001, 950, None, organization_uuid="u-2")]
    content = ndjson([*own, *feed()])
    _, answer = backtest(content, "--topology", str(path))
    parent, *heirs = sorted(answer["gaps"], key=lambda gap: str(gap["organization_id"]))
    assert [gap["organization_id"] for gap in heirs] == ["org_2", "org_3"]
    for gap in heirs:
        assert (gap["inherited_from"], gap["incident_id"]) == (parent["gap_id"], parent["incident_id"])
        assert (gap["opened_at"], gap["closed_at"]) == (parent["opened_at"], parent["closed_at"])
    brackets = [(gap["last_activity_id"], gap["first_activity_id"]) for gap in heirs]
    assert brackets == [("activity_10000", "activity_10001"), (None, None)]
    assert {alert["organization_id"] for alert in answer["alerts"]} == {"org_1"}
    assert len(backtest(content)[1]["gaps"]) == 1

    shown = run("backtest", "-", "--until", UNTIL, "--topology", str(path), stdin=content).stdout
    assert shown.count(f"inherited from   gap {parent['gap_id']}") == 2

    options = ("--history", "--json", "--until", UNTIL, "--topology", str(path))
    told = [json.loads(line) for line in run("backtest", "-", *options, stdin=content).stdout.splitlines()]
    latest = {each["gap_id"]: each for each in told if "gap_id" in each and "closed_by_id" in each}
    names = ("gap_id", "state", "opened_at", "closed_at", "inherited_from")
    assert [[gap[name] for name in names] for gap in answer["gaps"]] == [
        [latest[gap["gap_id"]][name] for name in names] for gap in answer["gaps"]
    ]


@pytest.mark.parametrize(
    ("name", "leader", "text"),
    [
        pytest.param("feed_id", "f", "feeds: [f]\norganizations:\n  org_1: {feeds: [f]}\n", id="feed"),
        pytest.param(
            "organization_id", "org_0", "organizations:\n  org_0: {}\n  org_1: {parents: [org_0]}\n", id="parent"
        ),
    ],
)
def test_a_member_inherits_what_a_collector_saw(name: str, leader: str, text: str, tmp_path: Path) -> None:
    """Parents and feeds go before their members, so that all brackets are as exact as the window allows."""
    (tmp_path / "topology.yaml").write_text(text)
    seen = [
        {"kind": "settings_poll", "result": result, name: leader, "observed_at": text_of(BEGIN + at * SECOND)}
        for result, at in (("enabled", 0), ("disabled", 1000), ("enabled", 2000))
    ]
    (tmp_path / "seen.ndjson").write_text(ndjson(seen))
    options = ("--topology", str(tmp_path / "topology.yaml"), "--observations", str(tmp_path / "seen.ndjson"))
    # More come after the window than are remembered: who hears of it late does not know the last id before it.
    seconds = [*range(6), *range(1900, 2600)]
    records = [activity(second, second) for second in seconds]
    records += [activity(10_000 + second, second, "org_0") for second in seconds]
    _, answer = backtest(ndjson(records), *options)
    own, heir = sorted(answer["gaps"], key=lambda gap: str(gap["inherited_from"]) if gap["inherited_from"] else "")
    assert (own[name], heir["organization_id"], heir["inherited_from"]) == (leader, "org_1", own["gap_id"])
    assert (heir["last_activity_id"], heir["bracket_exact"]) == ("activity_00005", True)
    if name == "organization_id":
        assert (own["last_activity_id"], own["bracket_exact"]) == ("activity_10005", True)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("owner: nobody\n", "topology.yaml:1:", id="wrong"),
        pytest.param(
            "organizations:\n  a: {}\n  b: {parents: [{id: a, valid_from: 2099-01-01T00:00:00Z}]}\n",
            "topology.yaml:3:",
            id="ahead",
        ),
        pytest.param(None, "cannot be read", id="missing"),
    ],
)
def test_backtest_refuses_a_wrong_topology(tmp_path: Path, text: str | None, word: str) -> None:
    """What is wrong with the file is told by line, with status 2, before anything is read."""
    path = tmp_path / "topology.yaml"
    if text is not None:
        path.write_text(text)
    refused = run("backtest", "-", "--topology", str(path), stdin=ndjson(feed()))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert word in refused.stderr


def test_backtest_until_stands_for_now() -> None:
    """Records later than `--until` by more than the allowed skew are refused; those before are folded."""
    result = run("backtest", "-", "--json", "--until", "2026-11-23T12:08:00Z", stdin=ndjson(feed()))
    answer = json.loads(result.stdout)
    assert answer["gaps"][0]["state"] == "OPEN"
    assert answer["rejected"] > 1000
    assert "after the broker's append time" in result.stderr


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(ndjson([activity(1, 1)]), 0, id="clean"),
        pytest.param("", 0, id="empty"),
        pytest.param(ndjson([switch(1, 1, compliance_api_enabled=True)]), 0, id="on"),
        pytest.param(ndjson([activity(1, 1)]) + "{broken\n", 0, id="clean, and a bad line"),
        pytest.param(ndjson([switch(1, 1, compliance_api_enabled=False)]), 1, id="off"),
        pytest.param(gzip.compress(ndjson(feed()[:2000]).encode())[:-100], 1, id="clean, but cut off"),
        pytest.param("no feed at all\n", 2, id="no feed"),
        pytest.param(b"\x7fELF\0\0", 2, id="binary"),
    ],
)
def test_backtest_exit_status(content: str | bytes, status: int) -> None:
    """1: a gap was found, or not all could be read; 0: there is none; 2: there was nothing to read in it."""
    assert run("backtest", "-", "--until", UNTIL, stdin=content).exit_code == status


def test_backtest_takes_several_files(tmp_path: Path) -> None:
    """Files are folded together; one that holds no feed is a failure, but keeps none from being read."""
    records = feed()
    (tmp_path / "a.ndjson").write_text(ndjson(records[1000:]))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(records[:1000]).encode()))
    (tmp_path / "c").write_bytes(os.urandom(64) + b"\0")
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    result = run("backtest", "--json", "--until", UNTIL, *paths)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["gaps"][0]["last_activity_id"] == "activity_01999"
    assert str(tmp_path / "c") in result.stderr


def test_backtest_history_gives_every_revision_as_it_arrives() -> None:
    """`--history` gives what a worker would have published, a JSON object a line, revisions counting up from 1."""
    result = run("backtest", "-", "--json", "--history", "--until", UNTIL, stdin=ndjson(feed()))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    revisions: dict[str, list[int]] = {}
    for line in lines:
        name = line.get("alert_id") or line.get("gap_id") or line["organization_id"]
        revisions.setdefault(name, []).append(line["revision"])
    assert len(revisions) == 5
    assert all(found == list(range(1, len(found) + 1)) for found in revisions.values())
    gaps = [line for line in lines if "cause" in line]
    assert gaps[0]["state"] == "OPEN"
    assert gaps[-1]["first_activity_id"] == "activity_03000"
    assert result.exit_code == 1


def test_backtest_for_a_person() -> None:
    """Without `--json` a gap is a block that names both ids, and totals stand at the end; nothing is over 100 wide."""
    text = run("backtest", "-", "--until", UNTIL, stdin=ndjson(feed())).stdout
    assert "last id before   activity_01999 at 2026-11-23 12:03:19.900000 UTC" in text
    assert "first id after   activity_03000 at 2026-11-23 12:16:40 UTC" in text
    assert "not audited      10 min" in text
    assert text.endswith("4,004 records · 0 duplicates · 0 rejected · 2 organizations · 1 gap · 2 alerts\n")
    assert max(map(len, text.splitlines())) <= 100


def test_control_characters_are_not_sent_to_a_terminal() -> None:
    """What others wrote into a record cannot move the cursor or turn the text; JSON keeps it, escaped."""
    record = switch(1, 1, "org_\x1b[2J\u202e", compliance_api_enabled=False)
    text = run("backtest", "-", "--until", UNTIL, stdin=ndjson([record])).stdout
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "org_\\x1b[2J" in text
    _, answer = backtest(ndjson([record]))
    assert answer["gaps"][0]["organization_id"] == "org_\x1b[2J\u202e"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (7325, "2 h 2 min"),
        (86_400, "1 d"),
        (100_000_000, "1,157 d 9 h"),
    ],
)
def test_lengths_are_readable(seconds: float, text: str) -> None:
    """A duration is shown in its two largest units."""
    assert show.length(seconds) == text


# --- policy -----------------------------------------------------------------------------------------------------------


def test_policy_check_shows_what_the_example_means() -> None:
    """`policy check` shows the defaults and each organization with its owners, limits and windows."""
    result = run("policy", "check", str(EXAMPLE))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("3 organizations, valid from when it is applied, by jane.doe@example.com\n")
    blocks = {block.split("\n")[0]: block for block in result.stdout.split("\n\n")[1:]}
    production = blocks["organization org_01PRODUCTION"]
    assert "owners           e-mail jane.doe@example.com, e-mail john.roe@example.com\n" in production
    assert "change window    CHG-1042 (move to the new parent organization), 2026-12-05 20:00:00 UTC to " in production
    assert "gap still open   15m, 1h, 4h, 1d, then daily\n" in production
    assert "organization org_01OLD (decommissioned)" in blocks


def test_policy_check_json_is_canonical() -> None:
    """`policy check --json` gives the defaults and each organization on a line, every rule filled in."""
    found = [json.loads(line) for line in run("policy", "check", str(EXAMPLE), "--json").stdout.splitlines()]
    assert [each["organization_id"] for each in found] == [None, "org_01OLD", "org_01PRODUCTION", "org_01SANDBOX"]
    assert all(each.keys() == {"organization_id", *Rules.__dataclass_fields__} for each in found)
    assert found[2]["change_windows"][0]["end"] == "2026-12-05T23:00:00.000000Z"
    assert found[3] == {**found[0], "organization_id": "org_01SANDBOX"}


@pytest.mark.parametrize("command", ["check", "apply"])
def test_a_wrong_policy_is_2(command: str, tmp_path: Path) -> None:
    """All that is wrong with a policy file is told by line, with status 2, before Kafka is asked anything."""
    file = tmp_path / "policy.yaml"
    file.write_text("author: a\ndefaults:\n  ownrs: {}\n  settle: 60\n")
    result = run("policy", command, str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        [f"{file}:3", "defaults.ownrs"],
        [f"{file}:4", "defaults.settle"],
    ]


def test_a_policy_needs_an_author(tmp_path: Path) -> None:
    """Nobody applies a policy without a name."""
    file = tmp_path / "policy.yaml"
    file.write_text("defaults: {}\n")
    result = run("policy", "apply", str(file))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--author" in result.stderr
    assert run("policy", "apply", str(file), "--author", "a\nb").exit_code == 2


# --- topology ---------------------------------------------------------------------------------------------------------


def test_topology_check_shows_what_the_example_means() -> None:
    """`topology check` shows parents and feeds with their members, then organizations with what they belong to."""
    result = run("topology", "check", str(TOPOLOGY))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("4 organizations, by jane.doe@example.com\n")
    blocks = {block.split("\n")[0]: block.split("\n")[1:] for block in result.stdout.rstrip().split("\n\n")[1:]}
    assert blocks["feed feed_main"] == [
        "  sees        org_01PRODUCTION",
        "  sees        org_01RESEARCH from 2026-03-01 00:00:00 UTC",
    ]
    assert blocks["organization org_01HOLDING"] == [
        "  belongs to  feed feed_sandbox",
        "  switches    org_01SANDBOX",
    ]
    assert "  uuid        8f7e6a5b-1234-4cde-9abc-0123456789ab" in blocks["organization org_01PRODUCTION"]


def test_topology_check_json() -> None:
    """`topology check --json` gives each parent, feed and organization on a line, times as ISO 8601."""
    found = [json.loads(line) for line in run("topology", "check", str(TOPOLOGY), "--json").stdout.splitlines()]
    assert len(found) == 7
    (research,) = (each for each in found if each["subject"] == "org_01RESEARCH")
    assert research["belongs_to"][0] == {
        "subject": "feed/feed_main",
        "valid_from": "2026-03-01T00:00:00.000000Z",
        "valid_until": None,
    }


@pytest.mark.parametrize("command", ["check", "apply"])
def test_a_wrong_topology_is_2(command: str, tmp_path: Path) -> None:
    """All that is wrong with a topology file is told by line, with status 2, before Kafka is asked anything."""
    file = tmp_path / "topology.yaml"
    file.write_text("organizations:\n  org_1:\n    feeds: [f]\n    uid: x\n")
    result = run("topology", command, str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        [f"{file}:4", "organizations.org_1.uid"],
    ]
    file.write_text("organizations: {}\n")
    assert "--author" in run("topology", "apply", str(file)).stderr


def test_backtest_takes_an_operators_word(tmp_path: Path) -> None:
    """What an operator states is exact, and its bracket is too, however much was recorded since."""
    said = {"kind": "operator", "organization_id": "org_1", "observed_at": "2026-11-23T20:00:00Z"}
    said |= {"author": "jane@example.com", "message": "read in the console"}
    lines: list[dict[str, Any]] = [
        {**said, "result": "off", "effective_at": "2026-11-23T12:01:40.05Z"},
        {**said, "result": "on", "effective_at": "2026-11-23T12:01:41.05Z"},
        {**said, "result": "on", "effective_at": "2026-11-23T12:01:41Z", "author": None},
    ]
    (tmp_path / "seen.ndjson").write_text(ndjson(lines))
    content = ndjson([activity(number, number / 10) for number in range(2000)])
    result = run("backtest", "-", "--json", "--observations", str(tmp_path / "seen.ndjson"), stdin=content)
    answer = json.loads(result.stdout)
    (gap,) = answer["gaps"]
    assert (gap["opened_by_kind"], gap["opened_actor_id"], gap["state"]) == ("operator", "jane@example.com", "CLOSED")
    assert (gap["last_activity_id"], gap["first_activity_id"]) == ("activity_01000", "activity_01011")
    assert (gap["bracket_exact"], gap["activity_inside_count"]) == (True, 10)
    assert {each["kind"] for each in answer["alerts"]} == {"logging_disabled", "logging_restored"}
    assert "line 3: a statement of an operator needs author" in result.stderr


# --- keys and statements ----------------------------------------------------------------------------------------------


def test_keys_generate(tmp_path: Path) -> None:
    """A new key's line is the output, ready for the file of trusted keys; a second one does not overwrite it."""
    path = tmp_path / "key.pem"
    result = run("keys", "generate", str(path))
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    (tmp_path / "trusted").write_text(result.stdout)
    assert list(read_trusted(tmp_path / "trusted")) == [line.split()[0]]
    assert f"private key {line.split()[0]} is in {path}" in result.stderr
    again = run("keys", "generate", str(path))
    assert (again.exit_code, again.stdout) == (2, "")
    assert "never overwritten" in again.stderr


STATED = {"--organization": "org_1", "--at": "2026-11-01T12:00:00Z", "--author": "jane@example.com", "--reason": "seen"}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"--organization": None}, "takes either --organization or --feed"),
        ({"--feed": "feed_1"}, "takes either --organization or --feed"),
        ({"--at": "yesterday"}, "--at takes a time with a zone"),
        ({"--at": "2026-11-01T12:00:00"}, "--at takes a time with a zone"),
        ({"--at": "9998-01-01T00:00:00Z"}, "that cannot be stated"),
        ({"--at": "1999-01-01T00:00:00Z"}, "before any feed existed"),
        ({"--author": ""}, "--author takes 1 to 500 printable characters"),
        ({"--reason": "a\nb"}, "--reason takes 1 to 2,000 printable characters"),
        ({"--organization": "feed/x"}, "organization_id is not an id"),
        ({"--author": None}, "Missing option '--author'"),
        ({"--reason": None}, "Missing option '--reason'"),
    ],
    ids=str,
)
def test_statements_that_cannot_be_made(options: dict[str, str | None], fault: str) -> None:
    """What a worker would refuse is wrong use already here, before any broker is asked."""
    given = {name: value for name, value in {**STATED, **options}.items() if value is not None}
    result = run("assert", "off", *(word for pair in given.items() for word in pair))
    assert result.exit_code == 2
    assert fault in result.stderr
