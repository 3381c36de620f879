"""CloudEvents 1.0 in binary mode for Kafka: what a record is about, in headers, readable without decoding it.

Source of the header names and of `content-type`: CloudEvents Kafka protocol binding 1.0.2, section 3.2.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from confluent_kafka import Message

from auditgap.core import times
from auditgap.core.inputs import Activity
from auditgap.core.observations import Observation
from auditgap.core.policy import Policy
from auditgap.core.records import Alert, Emission, Gap, Status
from auditgap.core.topology import Topology

Headers = list[tuple[str, bytes]]
"""As confluent-kafka gives and takes them; a value may also be None there, which is treated as absent."""

ACTIVITY_TYPE_PREFIX: Final = b"com.anthropic.compliance.activity."
ALERT_TYPE_PREFIX: Final = "io.auditgap.compliance.alert."
GAP_TYPE: Final = "io.auditgap.compliance.gap"
OBSERVATION_TYPE: Final = b"io.auditgap.compliance.observation"
STATUS_TYPE: Final = "io.auditgap.compliance.status"
FINDING_TYPE: Final = "io.auditgap.compliance.finding"
POLICY_TYPE: Final = b"io.auditgap.compliance.policy"
TOPOLOGY_TYPE: Final = b"io.auditgap.compliance.topology"

_SPEC: Final = ("ce_specversion", b"1.0")
_AVRO: Final = ("content-type", b"application/avro")


@lru_cache(1024)
def source_of(feed_id: str | None) -> bytes:
    """Name a feed as a CloudEvents source (a URI reference)."""
    return b"/feeds/" + quote(feed_id or "default", safe="").encode()


@lru_cache(1024)
def _type_header(activity_type: str) -> tuple[str, bytes]:
    return "ce_type", ACTIVITY_TYPE_PREFIX + activity_type.encode("utf-8", "surrogatepass")


def of_activity(activity: Activity) -> Headers:
    """Make the headers of an activity; `ce_time` is left out where the record has no readable time."""
    headers: Headers = [
        _SPEC,
        ("ce_id", activity.id.encode("utf-8", "surrogatepass")),
        ("ce_source", source_of(activity.feed_id)),
        _type_header(activity.type),
        ("ce_subject", activity.subject.encode("utf-8", "surrogatepass")),
        _AVRO,
    ]
    if activity.created_at is not None:
        headers.append(("ce_time", times.text_of(activity.created_at).encode()))
    return headers


def of_observation(seen: Observation) -> Headers:
    """Make the headers of an observation."""
    return [
        _SPEC,
        ("ce_id", seen.id.encode()),
        ("ce_source", source_of(seen.feed_id)),
        ("ce_type", OBSERVATION_TYPE),
        ("ce_time", times.text_of(seen.observed_at).encode()),
        ("ce_subject", seen.subject.encode()),
        _AVRO,
    ]


def of_emission(record: Emission, subject: str) -> Headers:
    """Make the headers of a gap, an alert or a status; `ce_id` names the revision."""
    match record:
        case Gap():
            identifier, kind = record.gap_id, GAP_TYPE
        case Alert():
            identifier, kind = record.alert_id, ALERT_TYPE_PREFIX + record.kind
        case Status():
            identifier, kind = subject, STATUS_TYPE
    return [
        _SPEC,
        ("ce_id", f"{identifier}/{record.revision}".encode("utf-8", "surrogatepass")),
        ("ce_source", b"/auditgap"),
        ("ce_type", kind.encode()),
        ("ce_time", times.text_of(record.produced_at).encode()),
        ("ce_subject", subject.encode("utf-8", "surrogatepass")),
        _AVRO,
    ]


def of_finding(gap: Gap) -> Headers:
    """Make the headers of a gap's revision as a finding, which is JSON."""
    headers = of_emission(gap, gap.subject)
    return [
        *(each for each in headers if each[0] not in {"ce_type", "content-type"}),
        ("ce_type", FINDING_TYPE.encode()),
        ("content-type", b"application/json"),
    ]


DEFAULTS_SUBJECT: Final = "*"
"""What the defaults of the policy are about, and the key of their record: no organization has this id."""


def policy_subject(organization_id: str | None) -> str:
    """Name what a version of a policy is about; also the key of its record."""
    return DEFAULTS_SUBJECT if organization_id is None else organization_id


def of_policy(policy: Policy) -> Headers:
    """Make the headers of a version of a policy."""
    return _of_version(policy_subject(policy.organization_id), policy.version, POLICY_TYPE, policy.produced_at)


def of_topology(topology: Topology) -> Headers:
    """Make the headers of a version of the topology."""
    return _of_version(topology.subject, topology.version, TOPOLOGY_TYPE, topology.produced_at)


def _of_version(subject: str, version: int, kind: bytes, produced_at: int) -> Headers:
    return [
        _SPEC,
        ("ce_id", f"{subject}/{version}".encode()),
        ("ce_source", b"/auditgap"),
        ("ce_type", kind),
        ("ce_time", times.text_of(produced_at).encode()),
        ("ce_subject", subject.encode()),
        _AVRO,
    ]


@dataclass(frozen=True, slots=True)
class Claims:
    """What an activity's headers say about it: enough to skip its body."""

    type: str
    id: str
    created_at: int | None
    subject: str


def headers_of(message: Message) -> Headers | None:
    """Give a record's headers, None where it has none."""
    return message.headers()  # type: ignore[return-value]  # its stub allows more forms than it returns


def claims(headers: Headers | None) -> Claims | None:
    """Read the claims of a record's headers; None where they are not whole, or say a thing twice."""
    named = dict(headers or [])
    if headers is None or len(named) != len(headers):
        return None
    kind, identifier, subject = (named.get(name) for name in ("ce_type", "ce_id", "ce_subject"))
    if not (kind and identifier and subject and kind.startswith(ACTIVITY_TYPE_PREFIX)):
        return None
    time = named.get("ce_time")
    try:
        return Claims(
            kind.removeprefix(ACTIVITY_TYPE_PREFIX).decode("utf-8", "surrogatepass"),
            identifier.decode("utf-8", "surrogatepass"),
            None if time is None else times.parse(time.decode()),
            subject.decode("utf-8", "surrogatepass"),
        )
    except UnicodeDecodeError:
        return None


def subject_in(headers: Headers | None) -> str | None:
    """Read which organization or feed a record's headers say that it is about; None where they do not."""
    subject = dict(headers or []).get("ce_subject")
    try:
        text = subject.decode("utf-8", "surrogatepass") if subject else None
    except UnicodeDecodeError:
        return None
    return None if text == DEFAULTS_SUBJECT else text


Layout = tuple[int, int, int, int]
"""Where `ce_type`, `ce_id`, `ce_time` and `ce_subject` stand in a record's headers."""


def layout_of(headers: Headers) -> Layout:
    """Find the four headers that `claims` reads; raises ValueError where one is missing."""
    names = [name for name, _ in headers]
    kind, identifier, time, subject = (names.index(name) for name in ("ce_type", "ce_id", "ce_time", "ce_subject"))
    return kind, identifier, time, subject
