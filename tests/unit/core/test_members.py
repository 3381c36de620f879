"""What is said of a member whose feed is suspected to be unseen."""

from dataclasses import replace

from tests.unit.core.making import at, caught_up, saw
from tests.unit.core.test_attempts import Watch

from auditgap.core import status, topology
from auditgap.core.records import Status
from auditgap.core.topology import Link, Says


def test_a_member_of_a_feed_that_is_not_seen() -> None:
    """It is UNKNOWN from the first refusal on, by the feed's suspicion, and YES when all is on the topic."""
    members = Says(members=(Link(subject="org_1"),))
    version = topology.successor(None, "feed/feed_1", members, "jane@example.com", at(-3600))
    watch = Watch().govern(version).live(-600, 0)
    watch.take(saw("ok", "feed_answer", "ok", 1, organization_id=None))
    assert watch.said[-1][1] == status.YES
    watch.take(saw("denied", "feed_answer", "unauthorized", 10, organization_id=None)).tick(12)
    (gap,) = watch.gaps()
    assert (gap.confidence, gap.state) == ("SUSPECTED", "OPEN")
    assert gap.inherited_from is not None
    last = [each for each in watch.out if isinstance(each, Status) and each.organization_id == "org_1"][-1]
    assert (last.audited, last.reason, last.open_gap_id) == (status.UNKNOWN, "FEED_BLOCKED", gap.gap_id)
    # One page, that of the feed, which names its members.
    (alert,) = watch.alerts("feed_suspected_off")
    assert alert.organization_id is None
    assert "so for 1 organization: org_1" in alert.summary
    watch.take(saw("again", "feed_answer", "ok", 70, organization_id=None)).live(60, 300)
    assert watch.said[-1][1] == status.UNKNOWN, "not all is on the topic yet"
    watch.take(replace(caught_up("done", 311, 311), organization_id=None)).live(360, 420)
    asked = {audited for seconds, audited in watch.said if 10 < seconds < 311}
    assert asked == {status.UNKNOWN}
    assert watch.said[-1][1] == status.YES
    # Nothing was recorded under the feed itself: what was not seen stays unverified, up to the first good answer.
    (gap,) = watch.gaps()
    assert (gap.confidence, gap.state, gap.closed_at) == ("SUSPECTED", "CLOSED", at(70))
    watch.assert_seen(10, 70, "feed_suspected_off", until=420)
