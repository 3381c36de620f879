"""What a policy file may say, and how it is told what is wrong."""

from pathlib import Path

import pytest

from auditgap.adapters.policy_yaml import PolicyFile, read
from auditgap.adapters.yaml_file import MOST_BYTES
from auditgap.core.policy import Actors, Rules
from auditgap.core.times import SECOND, parse

EXAMPLE = Path(__file__).parents[3] / "docs" / "policy-example.yaml"


def understood(text: str) -> PolicyFile:
    """Read a file that is right."""
    found = read("p.yaml", text.encode())
    assert isinstance(found, PolicyFile), found
    return found


def faults(text: str | bytes) -> list[str]:
    """Read a file that is wrong; each fault is one line that begins with the place."""
    found = read("p.yaml", text if isinstance(text, bytes) else text.encode())
    assert isinstance(found, list)
    assert found
    assert all(each.startswith("p.yaml:") and each.isprintable() for each in found)
    return [each.removeprefix("p.yaml:") for each in found]


def test_the_documented_example() -> None:
    """The example of the documentation means what its comments say."""
    found = read(EXAMPLE.name, EXAMPLE.read_bytes())
    assert isinstance(found, PolicyFile), found
    assert (found.author, found.valid_from) == ("jane.doe@example.com", None)
    assert found.organizations.keys() == {"org_01PRODUCTION", "org_01SANDBOX", "org_01OLD"}
    assert found.organizations["org_01SANDBOX"] == found.defaults
    assert found.organizations["org_01OLD"].decommissioned
    production = found.organizations["org_01PRODUCTION"]
    assert production.owners == Actors(emails=("jane.doe@example.com", "john.roe@example.com"))
    assert production.authorised == found.defaults.authorised
    assert (found.defaults.proof_limit_seconds, production.proof_limit_seconds) == (900, 300)
    (window,) = production.change_windows
    assert (window.id, window.end - window.start) == ("CHG-1042", 3 * 3600 * SECOND)
    assert [each.until for each in production.acknowledged] == [parse("2026-12-10T00:00:00Z")]
    # The limits of the example are those that auditgap begins with.
    silent = Rules(
        owners=found.defaults.owners, authorised=found.defaults.authorised, watcher_keys=found.defaults.watcher_keys
    )
    assert found.defaults == silent


def test_what_an_organization_says_takes_the_place_of_the_default() -> None:
    """A list takes the place of the default's whole list, an empty one too; watcher keys are added."""
    found = understood(
        """
defaults:
  owners: {emails: [a@x.com], users: [u1]}
  authorised: {users: [u2]}
  watcher_keys: [apikey_1]
organizations:
  org_1:
    owners: {users: [u3]}
    authorised: {}
    watcher_keys: [apikey_2]
"""
    )
    rules = found.organizations["org_1"]
    assert (rules.owners, rules.authorised) == (Actors(users=("u3",)), Actors())
    assert rules.watcher_keys == ("apikey_1", "apikey_2")


def test_everything_is_text() -> None:
    """A scalar is what stands there, whatever YAML takes it for: `no`, a number, a date."""
    found = understood("author: no\ndefaults:\n  owners: {users: [on, 0123, 1.50, 2026-12-01]}\n")
    assert found.author == "no"
    assert found.defaults.owners.users == ("0123", "1.50", "2026-12-01", "on")


WINDOW = """
organizations:
  org_1:
    change_windows:
      - id: CHG-1
        reason: r
        actors: {users: [u1]}
        registered_at: 2026-12-01T00:00:00Z
        start: 2026-12-02T00:00:00Z
        end: 2026-12-03T00:00:00Z
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ownrs: {}", "1: ownrs: is not known here: there are author, valid_from, def", id="unknown key"),
        pytest.param("defaults:\n  ownrs: {}", "2: defaults.ownrs: is not known here: did you mean owners?", id="near"),
        pytest.param(
            "defaults:\n  owners:\n    user: [a]",
            "3: defaults.owners.user: is not known here: did you mean users?",
            id="near, deep",
        ),
        pytest.param(
            WINDOW.replace("reason: r", "reason: r\n        reasn: r"),
            "7: organizations.org_1.change_windows.reasn: is not known here: did you mean reason?",
            id="near, in a list",
        ),
        pytest.param("author: a\nauthor: b", "2: author is there twice, first in line 1", id="duplicate key"),
        pytest.param("author:", "1: author: is empty: give it a value", id="nothing"),
        pytest.param("defaults: []", "1: defaults: has to hold `key: value` lines", id="list for a mapping"),
        pytest.param("organizations: [a]", "1: organizations: has to hold `key: value` lines", id="organizations"),
        pytest.param("defaults:\n  watcher_keys: apikey_1", "2: defaults.watcher_keys: has to be a list", id="no list"),
        pytest.param("author: [a]", "1: author: has to be text", id="no text"),
        pytest.param(
            "valid_from: 2026-12-01T00:00:00", "1: valid_from: '2026-12-01T00:00:00' is no time", id="no zone"
        ),
        pytest.param("defaults:\n  settle: 60", "2: defaults.settle: '60' is no length of time", id="no unit"),
        pytest.param("defaults:\n  settle: 0s", "2: defaults.settle: '0s' is no length of time", id="no length"),
        pytest.param("defaults:\n  gap_still_open: [1h, 15m]", "2: defaults.gap_still_open: has to be", id="falling"),
        pytest.param("defaults:\n  gap_still_open: []", "2: defaults.gap_still_open: has to be", id="no steps"),
        pytest.param(
            "defaults:\n  owners:\n    emails:\n      - a@x.com\n      - '*@x.com'",
            "5: defaults.owners.emails: '*@x.com' is no e-mail address of one person",
            id="everybody",
        ),
        pytest.param(
            "defaults:\n  owners: {keys: [key_1]}", "2: defaults.owners.keys: 'key_1' is no full id", id="key"
        ),
        pytest.param(
            "defaults:\n  owners: {users: ['a b']}", "2: defaults.owners.users: 'a b' is no whole id", id="id"
        ),
        pytest.param(
            "defaults:\n  owners: {users: [user_01..]}", "2: defaults.owners.users: 'user_01..' is no", id="cut"
        ),
        pytest.param("organizations:\n  'a b': {}", "2: organizations.a b: is no id of an organization", id="org"),
        pytest.param("organizations:\n  '*': {}", "2: organizations.*: is no id of an organization", id="all"),
        pytest.param(
            "organizations:\n  o: {decommissioned: yes}",
            "2: organizations.o.decommissioned: 'yes' is neither true nor false",
            id="yes",
        ),
        pytest.param(
            "organizations:\n  o:\n    acknowledged:\n      - {gap: gap_1, until: 2026-12-01T00:00:00Z, reason: r}",
            "4: organizations.o.acknowledged.gap: 'gap_1' is no id of a gap",
            id="gap",
        ),
        pytest.param(
            WINDOW.replace("end: 2026-12-03T00:00:00Z", "end: 2026-12-03T00:00:01Z"),
            "5: organizations.org_1.change_windows: change window CHG-1: it is longer than 24 hours",
            id="window too long",
        ),
        pytest.param(
            WINDOW.replace("registered_at: 2026-12-01", "registered_at: 2026-12-02"),
            "5: organizations.org_1.change_windows: change window CHG-1: it is not registered before its start",
            id="window registered late",
        ),
        pytest.param(
            WINDOW.replace("        reason: r\n", ""),
            "5: organizations.org_1.change_windows.reason: is missing",
            id="missing",
        ),
        pytest.param(
            WINDOW + WINDOW.partition("change_windows:\n")[2],
            "11: organizations.org_1.change_windows: 'CHG-1' is there twice: keep one of them",
            id="window twice",
        ),
        pytest.param(
            "defaults:\n  watcher_keys: [apikey_1]\n  owners: {keys: [admin_api_key_1]}",
            "3: defaults.owners.keys: admin_api_key_1 is a watcher key",
            id="owner and watcher",
        ),
        pytest.param(
            "defaults:\n  owners: {keys: [admin_api_key_1]}\norganizations:\n  o:\n    watcher_keys: [apikey_1]",
            "5: organizations.o.watcher_keys: apikey_1 is a watcher key",
            id="owner by default",
        ),
        pytest.param("a: &x 1\nb: *x", "2: *x is an alias", id="alias"),
        pytest.param("author: !!binary aGk=", "1: author: the tag tag:yaml.org,2002:binary is not used", id="tag"),
        pytest.param("? [a]\n: b", "1: the file: a key has to be plain text", id="odd key"),
        pytest.param("author: 'a", "1: this is not YAML: found unexpected end of stream", id="not YAML"),
        pytest.param("author: a\n---\nauthor: b", "2: this is not YAML: but found another document", id="two"),
        pytest.param("", "1: there is no policy in it", id="empty"),
        pytest.param("- a", "1: there is no policy in it", id="list"),
        pytest.param("a\x00", "1: a character that YAML does not allow", id="control character"),
        pytest.param(b"author: a\nx: \xff", "2: this is not UTF-8", id="not UTF-8"),
        pytest.param("[" * 5000 + "]" * 5000, "1: it is nested too deep", id="deep"),
        pytest.param("#" * (MOST_BYTES + 1), "1: the file is larger", id="large"),
        pytest.param('author: "\\ud800"', "1: author: '\\ud800' has to be", id="half a character"),
    ],
)
def test_a_fault_is_told_with_its_line(text: str | bytes, expected: str) -> None:
    """What is wrong is one line: where it is, what is wrong, and what would be right."""
    found = faults(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_all_faults_are_told_at_once() -> None:
    """One fault hides no other, in whatever part of the file it is; they come by line."""
    text = """author: [a]
defaults:
  settle: soon
  ownr: {}
organizations:
  org_1:
    owners: {emails: [nobody, a@x.com, b], userz: []}
  org_2:
    watcher_keys: [apikey_1]
    authorised: {keys: [apikey_1]}
  org_2: {}
"""
    assert [each.partition(":")[0] for each in faults(text)] == ["1", "3", "4", "7", "7", "7", "10", "11"]


def test_a_secret_is_not_repeated() -> None:
    """Who writes a key's secret in place of its id is told so, without the secret."""
    for text in (
        "owners: {keys: [sk-ant-s3cret]}",
        "owners: {users: [sk-ant-s3cret]}",
        "watcher_keys: [sk-ant-s3cret]",
    ):
        (fault,) = faults(f"defaults:\n  {text}")
        assert "s3cret" not in fault
        assert "revoke" in fault
