"""What a topology file may say, and how it is told what is wrong."""

from pathlib import Path

import pytest

from auditgap.adapters.topology_yaml import TopologyFile, read
from auditgap.core.times import parse
from auditgap.core.topology import Alias, Link, Says

EXAMPLE = Path(__file__).parents[3] / "docs" / "topology-example.yaml"
NOW = parse("2026-11-01T12:00:00Z") or 0
MARCH = parse("2026-03-01T00:00:00Z")
PARENT = "parent/3f6c1f0e-7a51-4a8e-9c3a-2b1d5e6f7a80"


def understood(text: str) -> TopologyFile:
    """Read a file that is right."""
    found = read("t.yaml", text.encode(), NOW)
    assert isinstance(found, TopologyFile), found
    return found


def faults(text: str) -> list[str]:
    """Read a file that is wrong; each fault is one line that begins with the place."""
    found = read("t.yaml", text.encode(), NOW)
    assert isinstance(found, list)
    assert found
    assert all(each.startswith("t.yaml:") and each.isprintable() for each in found)
    return [each.removeprefix("t.yaml:") for each in found]


def link(subject: str, since: int | None = None, until: int | None = None) -> Link:
    """Link to somebody."""
    return Link(subject=subject, valid_from=since, valid_until=until)


def test_the_documented_example() -> None:
    """The example of the documentation means what its comments say, told with both ends of each link."""
    found = read(EXAMPLE.name, EXAMPLE.read_bytes(), NOW)
    assert isinstance(found, TopologyFile), found
    assert found.author == "jane.doe@example.com"
    alias = Alias(organization_uuid="8f7e6a5b-1234-4cde-9abc-0123456789ab", organization_id="org_01PRODUCTION")
    assert found.subjects == {
        "feed/feed_main": Says((alias,), (link("org_01PRODUCTION"), link("org_01RESEARCH", MARCH))),
        "feed/feed_sandbox": Says((), (link("org_01HOLDING"), link("org_01SANDBOX"))),
        PARENT: Says((), (link("org_01PRODUCTION"), link("org_01RESEARCH", MARCH))),
        "org_01PRODUCTION": Says((alias,), (), (link("feed/feed_main"), link(PARENT))),
        "org_01RESEARCH": Says((), (), (link("feed/feed_main", MARCH), link(PARENT, MARCH))),
        "org_01HOLDING": Says((), (link("org_01SANDBOX"),), (link("feed/feed_sandbox"),)),
        "org_01SANDBOX": Says((), (), (link("feed/feed_sandbox"), link("org_01HOLDING"))),
    }


def test_a_feed_of_a_parent_sees_while_both_hold() -> None:
    """What a parent's feed sees is what the two links have in common."""
    found = understood(
        """
feeds: [f]
parents:
  p: {feeds: [{id: f, valid_from: 2026-02-01T00:00:00Z}]}
organizations:
  org_1: {parents: [{id: p, valid_until: 2026-03-01T00:00:00Z}]}
  org_2: {parents: [{id: p, valid_until: 2026-01-01T00:00:00Z}]}
"""
    )
    february = parse("2026-02-01T00:00:00Z")
    assert found.subjects["feed/f"].members == (link("org_1", february, MARCH),)
    assert [each.subject for each in found.subjects["parent/p"].members] == ["org_1", "org_2"]


def test_somebody_can_come_back() -> None:
    """The same link twice, at times that do not overlap, is two."""
    found = understood(
        """
feeds: [f]
organizations:
  org_1:
    feeds:
      - {id: f, valid_until: 2026-02-01T00:00:00Z}
      - {id: f, valid_from: 2026-03-01T00:00:00Z}
"""
    )
    assert len(found.subjects["feed/f"].members) == 2


ORGANIZATIONS = "organizations:\n  org_1: {}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "1: there is no topology in it: it needs organizations", id="empty"),
        pytest.param("author: a", "1: organizations: is missing", id="no organizations"),
        pytest.param("organizations: []", "1: organizations: has to hold `key: value` lines", id="a list"),
        pytest.param(
            "organizations:\n  'org 1': {}", "2: organizations.org 1: is no id of an organization", id="no id"
        ),
        pytest.param("organizations:\n  parent/x: {}", "2: organizations.parent/x: is no id of an", id="a subject"),
        pytest.param("organizations:\n  org_1:", "2: organizations.org_1: is empty", id="empty organization"),
        pytest.param(
            "organizations:\n  org_1:\n    feed: [a]",
            "3: organizations.org_1.feed: is not known here",
            id="unknown key",
        ),
        pytest.param(
            "organizations:\n  org_1:\n    feeds: a", "3: organizations.org_1.feeds: has to be a list", id="no list"
        ),
        pytest.param(
            "organizations:\n  org_1:\n    feeds:\n      - a",
            "4: organizations.org_1.feeds.id: a is not listed under feeds",
            id="unknown feed",
        ),
        pytest.param(
            "organizations:\n  org_1:\n    parents:\n      - {id: p}",
            "4: organizations.org_1.parents.id: p is not listed under parents or organizations",
            id="unknown parent",
        ),
        pytest.param(
            "parents:\n  p:\n    feeds: [a]\n" + ORGANIZATIONS, "3: parents.p.feeds.id: a is not", id="parent's feed"
        ),
        pytest.param("parents:\n  org_9: {}\n" + ORGANIZATIONS, "2: parents.org_9: is no id of a parent", id="org_"),
        pytest.param(
            "parents:\n  x: {}\norganizations:\n  x: {}", "4: organizations.x: is under parents too", id="both"
        ),
        pytest.param("parents: 3\n" + ORGANIZATIONS, "1: parents: has to hold", id="parents are no list"),
        pytest.param(
            "organizations:\n  org_1: {uuid: u}\n  org_2:\n    uuid: u",
            "4: organizations.org_2.uuid: u is the uuid of org_1 as well",
            id="uuid twice",
        ),
        pytest.param(
            "organizations:\n  org_1:\n    parents: [org_2]\n  org_2:\n    parents: [org_3]\n  org_3: {}",
            "5: organizations.org_2.parents: org_2 is a parent itself, so that it cannot have one",
            id="parent of a parent",
        ),
        pytest.param(
            "organizations:\n  org_1:\n    parents: [org_1]", "3: organizations.org_1.parents: org_1 is", id="its own"
        ),
        pytest.param(
            "feeds: [f]\norganizations:\n  org_1:\n    feeds:\n      - f\n      - id: f\n"
            "        valid_from: 2026-01-01T00:00:00Z",
            "6: organizations.org_1.feeds: f is there twice at the same time",
            id="twice",
        ),
        pytest.param(
            "feeds: [f]\norganizations:\n  org_1:\n    feeds:\n      - id: f\n        valid_from: 2026-11-01T12:05:01Z",
            "6: organizations.org_1.feeds.valid_from: lies ahead",
            id="ahead",
        ),
        pytest.param(
            "feeds: [f]\norganizations:\n  org_1:\n    feeds:\n      - id: f\n        valid_from: yesterday",
            "6: organizations.org_1.feeds.valid_from: 'yesterday' is no time with a zone",
            id="no time",
        ),
        pytest.param(
            "feeds: [f]\norganizations:\n  org_1:\n    feeds:\n      - id: f\n"
            "        valid_from: 2026-02-01T00:00:00Z\n        valid_until: 2026-02-01T00:00:00Z",
            "5: organizations.org_1.feeds: valid_until is not after valid_from",
            id="ends before it begins",
        ),
        pytest.param("feeds: [a b]\n" + ORGANIZATIONS, "1: feeds: 'a b' is no id", id="feed's id"),
    ],
)
def test_faults_are_told_by_line(text: str, fault: str) -> None:
    """Each fault is told with its line and what would be right, and it alone."""
    (found,) = faults(text)
    assert found.startswith(fault)


def test_one_fault_hides_no_other() -> None:
    """All that is wrong is told at once, in the order of the lines."""
    found = faults(
        "feeds: [a, 'b c']\norganizations:\n  org_1:\n    uuid: u\n    feeds: [x]\n  org_2: {uuid: u, y: 1}\n"
    )
    assert [each.partition(":")[0] for each in found] == ["1", "5", "6"]
