"""What the file of routes may say, how its faults are told, and how secrets are found."""

import hashlib
import hmac
from pathlib import Path

import pytest

from auditgap.adapters.notify_send import NotDelivered, ping, sender, signature
from auditgap.adapters.notify_yaml import Heartbeat, NotifyFile, Secret, Target, read
from auditgap.core.notify import Rule
from auditgap.core.records import Severity
from auditgap.errors import UsageError

EXAMPLE = Path(__file__).parents[3] / "docs" / "notify-example.yaml"

RIGHT = """\
routes:
  - name: hook
    webhook: https://hooks.example.com/a
    secret_env: HOOK
fallback:
  apprise_env: MAIL
"""


def understood(text: str) -> NotifyFile:
    """Read a file that is right."""
    found = read("n.yaml", text.encode())
    assert isinstance(found, NotifyFile), found
    return found


def test_least() -> None:
    """The least that a file can say, and what is meant by what it does not say."""
    found = understood(RIGHT)
    (route,) = found.routes
    assert route.target == Target("hook", "https://hooks.example.com/a", Secret(None, "HOOK"))
    assert route.rule == Rule(Severity.HIGH)
    assert found.fallback == Target("fallback", None, Secret(None, "MAIL"))
    assert (found.retry_seconds, found.heartbeat) == (60, None)


def test_the_documented_example() -> None:
    """The example of the documentation is right, and uses everything."""
    found = understood(EXAMPLE.read_text())
    assert [route.target.name for route in found.routes] == ["on-call", "siem", "team-one"]
    assert [route.rule.severity for route in found.routes] == [Severity.HIGH, Severity.INFORMATIONAL, Severity.MEDIUM]
    assert found.routes[2].rule.subjects == frozenset({"org_1", "feed/feed_1"})
    assert found.heartbeat == Heartbeat("https://hc.example.com/ping/your-check", 60, "auditgap-canary")


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("HOOK", "HOOK\n    severty: low", "5: routes.severty: is not known here: did you mean severity?"),
        ("HOOK", "HOOK\n    severity: bad", "5: routes.severity: 'bad' is no severity: there are informational"),
        ("HOOK", "HOOK\n    organizations: []", "5: routes.organizations: names none: leave it out for all"),
        ("HOOK", "HOOK\n    organizations: [feed/]", "5: routes.organizations: 'feed/' is no id of an organization"),
        ("HOOK", "HOOK\n    secret_file: /x", "2: routes: a webhook needs one of secret_file and secret_env"),
        ("HOOK", "HOOK\n    apprise_env: A", "5: routes.apprise_env: does not go with this"),
        ("HOOK", "AUDITGAP_X", "4: routes.secret_env: 'AUDITGAP_X' is no name of a variable"),
        ("    secret_env: HOOK\n", "", "2: routes: a webhook needs one of"),
        ("https:", "ftp:", "3: routes.webhook: has to be a URL"),
        ("https://", "https://me:pw@", "3: routes.webhook: has a password in it"),
        ("name: hook", "name: a b", "2: routes.name: 'a b' is no name"),
        ("name: hook", "name: fallback", "2: routes.name: fallback is taken"),
        ("fallback:\n  apprise_env: MAIL\n", "", "1: fallback: is missing"),
        ("apprise_env: MAIL", "{}", "5: fallback: needs a webhook, or one of apprise_file and apprise_env"),
        ("apprise_env: MAIL", "secret_env: MAIL", "6: fallback.secret_env: does not go with this"),
        ("fallback", "retry_seconds: 500\nfallback", "5: retry_seconds: '500' is no number of seconds from 0 to 120"),
        ("fallback", "heartbeat: {}\nfallback", "5: heartbeat.url: is missing"),
        (
            "fallback",
            "heartbeat:\n  url: https://a.example.com\n  organization: org_1\nfallback",
            "7: heartbeat.organization: has to begin with auditgap-canary",
        ),
        (
            "fallback",
            "heartbeat:\n  url: https://a.example.com\n  period_seconds: nan\nfallback",
            "7: heartbeat.period_seconds: 'nan' is no number of seconds from 1 to 86400",
        ),
        (RIGHT, "", "1: there is no notification routing in it: it needs routes and fallback"),
        (RIGHT, "routes: []\nfallback: {apprise_env: A}", "1: routes: names none: nobody would be told"),
        ("routes:\n", "routes:\n  - x\n", "2: routes: has to hold `key: value` lines"),
    ],
)
def test_faults(before: str, after: str, fault: str) -> None:
    """Every fault has its line, and says what would be right."""
    found = read("n.yaml", RIGHT.replace(before, after, 1).encode())
    assert isinstance(found, list), "it is right"
    assert any(each.startswith(f"n.yaml:{fault}") for each in found), found


def target(name: str, webhook: str | None = "https://hooks.example.com/a") -> Target:
    """Make a target with a secret in a file."""
    return Target("hook", webhook, Secret(Path(name), None))


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is not there, or none, is told in a line that does not hold it."""
    file = tmp_path / "secret"
    with pytest.raises(UsageError, match=r"hook: the file .*secret cannot be read"):
        sender(target(str(file)), lambda: 0)
    file.write_text(" \n")
    with pytest.raises(UsageError, match="is empty or not there"):
        sender(target(str(file)), lambda: 0)
    file.write_text("short-one\n")
    with pytest.raises(UsageError, match="shorter than 16 characters") as caught:
        sender(target(str(file)), lambda: 0)
    assert "short-one" not in str(caught.value)
    file.write_text("# only this\n")
    with pytest.raises(UsageError, match="has no URL for Apprise"):
        sender(target(str(file), None), lambda: 0)
    file.write_text("json://127.0.0.1:1/\nnonsense://x y\n")
    with pytest.raises(UsageError, match="does not understand URL 2 of hook"):
        sender(target(str(file), None), lambda: 0)
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(UsageError, match="the variable NOT_THERE is empty or not there"):
        sender(Target("hook", None, Secret(None, "NOT_THERE")), lambda: 0)


def test_without_apprise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise that is not installed is one line that says how to."""
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    file = tmp_path / "urls"
    file.write_text("json://127.0.0.1/")
    with pytest.raises(UsageError, match=r"hook needs Apprise: install auditgap\[notify\]"):
        sender(target(str(file), None), lambda: 0)


def test_nobody_answers() -> None:
    """Why it was not delivered names the host, not the path: that may be a secret."""
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1:1 does not answer: ") as caught:
        ping("http://127.0.0.1:1/a-secret")
    assert "a-secret" not in str(caught.value)


def test_signature() -> None:
    """It covers the timestamp and the body."""
    right = hmac.new(b"key", b"17.body", hashlib.sha256).hexdigest()
    assert signature("key", "17", b"body") == f"v1={right}"
    assert len({signature("key", "17", b"body"), signature("key", "18", b"body"), signature("key", "17", b"bodx")}) == 3
