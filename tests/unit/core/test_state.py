"""State that is kept: what is read back is what was kept, all of it, at any moment of any history."""

import json
from typing import Any

import pytest
from tests.support.truth import history
from tests.unit.core.making import T0, at, keep_changes

from auditgap.core.inputs import Activity, Actor
from auditgap.core.intake import observe, take
from auditgap.core.ledger import Ledger
from auditgap.core.recent import CHUNK, Recent, entry_of, time_of
from auditgap.core.shard import split_key, split_policy_key, split_topology_key
from auditgap.core.times import SECOND
from auditgap.core.track import Track
from auditgap.core.triage import Answer, Entry, Inquiry, Query, Trail, key_of

CUTS = 12
"""At how many moments of a history its state is read back."""


def of_track(track: Track) -> dict[str, Any]:
    """All that a track holds."""
    timeline = track.timeline
    return {
        "assertions": list(timeline.assertions),
        "windows": list(timeline.windows),
        "vague": timeline.vague,
        "around": dict(track.around),
    }


def of_ledger(ledger: Ledger) -> dict[str, Any]:
    """All that a ledger holds, but for what only waits to be published or written."""
    same = ("gaps", "alerts", "brackets", "windows", "open", "heirs", "inherited", "watched", "status", "accesses")
    recent = ledger.recent
    return {
        **{name: getattr(ledger, name) for name in (*same, "sequence", "previous_digest", "watermark", "saved_chunk")},
        "known": of_track(ledger.known),
        "suspected": of_track(ledger.suspected),
        "recent": (recent.chunk, recent.full, recent.number, recent.floor, recent.runs.runs),
    }


@pytest.mark.parametrize("seed", range(40))
def test_what_is_read_back(seed: int) -> None:
    """Whatever a history has come to, its ledgers come back whole, with their status."""
    inputs = history(seed).inputs
    ledgers: dict[str, Ledger] = {}
    stores: dict[str, dict[str, bytes]] = {}
    every = max(1, len(inputs) // CUTS)
    for number, (record, append_time) in enumerate(inputs):
        if isinstance(record, Activity):
            take(ledgers, record, append_time, append_time)
        else:
            observe(ledgers, record, append_time, append_time)
        if number % every:
            continue
        for subject, ledger in ledgers.items():
            ledger.settle(append_time)
            ledger.tick(append_time, append_time)
            store = stores.setdefault(subject, {})
            keep_changes(store, ledger)
            assert of_ledger(Ledger.restore(subject, dict(store))) == of_ledger(ledger)


# --- activities -------------------------------------------------------------------------------------------------------


def test_full_chunks_count() -> None:
    """What is in a full chunk is known as well as what is in the filling one."""
    index = Recent()
    for number in range(CHUNK):
        index.add(entry_of(at(number), f"id{number}"))
    assert not index.chunk
    assert time_of(index.latest() or b"") == at(CHUNK - 1)
    assert index.proofs().runs == [(at(0), at(CHUNK - 1))]
    index.add(entry_of(at(-5), "late"))
    assert time_of(index.latest() or b"") == at(CHUNK - 1)
    assert index.proofs().runs == [(at(-5), at(CHUNK - 1))]


def test_any_id_is_found() -> None:
    """An id is found whatever it is made of, and only as a whole."""
    index = Recent()
    index.add(entry_of(at(0), "\ud800 half"))
    assert index.has_id("\ud800 half")
    assert not index.has_id("half")


# --- keys of a partition's state --------------------------------------------------------------------------------------


def test_keys_come_apart() -> None:
    """Each kind of key says what it is of, and nothing of another kind is taken for it."""
    assert split_key("5:org_1g7") == ("org_1", "g7")
    assert split_policy_key('@policy["org_1", 3]') == ("org_1", 3)
    assert split_policy_key("@policy[null, 1]") == (None, 1)
    assert split_topology_key('@topology["feed/feed_1", 2]') == ("feed/feed_1", 2)
    for other in ("@clock", "5:org_1g7"):
        assert (split_policy_key(other), split_topology_key(other)) == (None, None)
    with pytest.raises(ValueError, match="newer version"):
        split_key("@clock")


# --- triage -----------------------------------------------------------------------------------------------------------


def test_an_inquiry_comes_back() -> None:
    """An inquiry that heard answers says the same after it was kept, and asks nothing again."""
    inquiry = Inquiry("inq", "org_1", "feed_1", Actor("user_actor", "user_1", "owner@example.com", None), T0)
    (first, *_) = inquiry.begin()
    entry = Entry(T0 - SECOND, "failed", "sso_login_failed", "", "")
    inquiry.take(
        Answer(Query(T0, "inq", first.key, "org_1"), (entry,), (("key:k", "made it"),), ("sign_in",), ("key",), True)
    )
    again = Inquiry.from_dict(json.loads(json.dumps(inquiry.to_dict())))
    assert again.to_dict() == inquiry.to_dict()
    assert (again.id, again.subject, again.feed_id, again.at) == ("inq", "org_1", "feed_1", T0)
    assert again.actor == inquiry.actor
    assert again.heard == inquiry.heard
    assert any(heard.links_lost for heard in again.heard.values())
    assert again.begin() == []


def test_a_trail_begins_with_nothing_forgotten() -> None:
    """A new trail has forgotten nothing; its key names feed and identity in few words."""
    assert Trail(key_of(None, "user:1")).forgotten == 0
    assert key_of(None, "user:1") == '["default","user:1"]'
    assert key_of("feed_1", "user:1") == '["feed_1","user:1"]'
