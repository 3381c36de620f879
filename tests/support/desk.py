"""The second keyed path without Kafka: records go to the trails of their keys, queries and answers between."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from auditgap.core.inputs import Activity
from auditgap.core.triage import Answer, Finding, Inquiry, Part, Query, Trail, parts_of


@dataclass
class Desk:
    """Trails by key, and inquiries by id; `told` are the findings that were news. The record is there `known_from`."""

    known_from: int | None = None
    trails: dict[str, Trail] = field(default_factory=dict)
    inquiries: dict[str, Inquiry] = field(default_factory=dict)
    told: list[Finding] = field(default_factory=list)

    def take(self, *activities: Activity) -> "Desk":
        """Take activities in, one after the other."""
        for activity in activities:
            for key, part in parts_of(activity).items():
                self._answered(self.trail(key).take(Part.from_dict(json.loads(json.dumps(part.to_dict())))))
        return self

    def open(self, inquiry: Inquiry) -> "Desk":
        """Begin an inquiry; one that was begun before is not begun again."""
        if inquiry.id not in self.inquiries:
            self.inquiries[inquiry.id] = inquiry
            self._asked(inquiry.begin())
            self._news(inquiry)
        return self

    def trail(self, key: str) -> Trail:
        """Find a trail, or begin it."""
        return self.trails.setdefault(key, Trail(key))

    def restart(self) -> "Desk":
        """Write all state as JSON, forget it, and read it."""
        self.trails = {
            key: Trail.from_dict(json.loads(json.dumps(each.to_dict()))) for key, each in self.trails.items()
        }
        self.inquiries = {
            name: Inquiry.from_dict(json.loads(json.dumps(each.to_dict()))) for name, each in self.inquiries.items()
        }
        return self

    def finding(self) -> Finding:
        """What the only inquiry says."""
        (inquiry,) = self.inquiries.values()
        return inquiry.finding(self.known_from)

    def _asked(self, queries: Iterable[Query]) -> None:
        for query in queries:
            sent = Query.from_dict(json.loads(json.dumps(query.to_dict())))
            self._answered([self.trail(sent.key).ask(sent)])

    def _answered(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            inquiry = self.inquiries[answer.query.inquiry_id]
            self._asked(inquiry.take(Answer.from_dict(json.loads(json.dumps(answer.to_dict())))))
            self._news(inquiry)

    def _news(self, inquiry: Inquiry) -> None:
        finding = inquiry.finding(self.known_from)
        if [finding] != self.told[-1:]:
            self.told.append(finding)
