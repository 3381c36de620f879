"""Several shards in one process, and the post between them: what a group of workers does, without Kafka."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.unit.core.making import SECOND, at

from auditgap.core.inputs import Activity, key_of
from auditgap.core.intake import Mail, Outcome
from auditgap.core.observations import Observation
from auditgap.core.records import Alert, Emission, Gap
from auditgap.core.shard import Shard

PRODUCED: Final = at(10**8)
"""When everything is produced."""

Input = Activity | Observation | Mail


@dataclass
class Part:
    """One shard: its store, what was published and committed, and what was taken in or came out since the commit."""

    shard: Shard = field(default_factory=Shard)
    store: dict[str, bytes] = field(default_factory=dict)
    committed: list[Emission] = field(default_factory=list)
    since: list[Input] = field(default_factory=list)
    pending: list[Emission] = field(default_factory=list)
    mail: list[Mail] = field(default_factory=list)

    def take(self, each: Input) -> None:
        """Take an input in, an activity or observation a second after it happened."""
        self.since.append(each)
        outcome = self._taken(each)
        self.pending += outcome.emissions
        self.mail += outcome.mail

    def _taken(self, each: Input) -> Outcome:
        if isinstance(each, Mail):
            return self.shard.post(each, PRODUCED, PRODUCED)
        if isinstance(each, Observation):
            return self.shard.observation(each, each.observed_at + SECOND, PRODUCED)
        return self.shard.activity(each, (each.created_at or 0) + SECOND, PRODUCED)

    def commit(self) -> list[Mail]:
        """Keep state and outputs together; give the mail that leaves with them."""
        self.pending += self.shard.settle(PRODUCED)
        for key, value in self.shard.changes():
            if value is None:
                self.store.pop(key, None)
            else:
                self.store[key] = value
        self.committed += self.pending
        left, self.mail, self.pending, self.since = self.mail, [], [], []
        return left

    def crash(self) -> None:
        """Lose all since the last commit, and take it in again."""
        again, self.mail, self.pending, self.since = self.since, [], [], []
        self.shard = Shard.restore(dict(self.store))
        for each in again:
            self.take(each)


class Shards:
    """Inputs go to the shard of their key; what one sends waits in `post` until it is delivered."""

    def __init__(self, count: int = 1) -> None:
        self.parts = [Part() for _ in range(count)]
        self.post: list[Mail] = []
        self.delivered: list[Mail] = []

    def part(self, key: str) -> Part:
        """Find the part a key belongs to."""
        return self.parts[zlib.crc32(key.encode()) % len(self.parts)]

    def take(self, *inputs: Activity | Observation) -> "Shards":
        """Take inputs in."""
        for each in inputs:
            self.part(key_of(each.subject)).take(each)
        return self

    def commit(self, part: Part) -> None:
        """Commit one shard: its mail is on the way."""
        self.post += part.commit()

    def deliver(self, place: int) -> None:
        """Deliver the letter at a place of the post."""
        letter = self.post.pop(place % len(self.post))
        self.delivered.append(letter)
        self.part(letter.key).take(letter)

    def repeat(self, place: int) -> None:
        """Deliver once more what was delivered before."""
        letter = self.delivered[place % len(self.delivered)]
        self.part(letter.key).take(letter)

    def finish(self) -> "Shards":
        """Commit and deliver until nothing is on the way."""
        while True:
            for part in self.parts:
                self.commit(part)
            if not self.post:
                return self
            while self.post:
                self.deliver(0)

    @property
    def out(self) -> list[Emission]:
        """All that was committed, each shard's in order."""
        return [each for part in self.parts for each in part.committed]

    def alerts(self, *kinds: str) -> list[Alert]:
        """The latest revision of each alert that stands, of these kinds."""
        latest = {each.alert_id: each for each in self.out if isinstance(each, Alert)}
        standing = [each for each in latest.values() if each.status != "WITHDRAWN"]
        return sorted((each for each in standing if not kinds or each.kind in kinds), key=lambda each: each.alert_id)

    def alert(self, kind: str) -> Alert:
        """The only alert of a kind that stands."""
        (alert,) = self.alerts(kind)
        return alert

    @property
    def gaps(self) -> Iterable[Gap]:
        """The gaps that stand."""
        latest = {each.gap_id: each for each in self.out if isinstance(each, Gap)}
        return [gap for gap in latest.values() if gap.state not in {"SUPERSEDED", "RETRACTED"}]
