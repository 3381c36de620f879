"""CloudEvents 1.0 in binary mode for Kafka: what a record is about, in headers, readable without decoding it.

Source of the header names and of `content-type`: CloudEvents Kafka protocol binding 1.0.2, section 3.2.
"""

from typing import Final
from urllib.parse import quote

from auditgap.core import times
from auditgap.core.inputs import Activity
from auditgap.core.records import Emission, Gap

Headers = list[tuple[str, bytes]]

ACTIVITY_TYPE_PREFIX: Final = b"com.anthropic.compliance.activity."
ALERT_TYPE_PREFIX: Final = "io.auditgap.compliance.alert."
GAP_TYPE: Final = "io.auditgap.compliance.gap"

_SPEC: Final = ("ce_specversion", b"1.0")
_AVRO: Final = ("content-type", b"application/avro")


def source_of(feed_id: str | None) -> bytes:
    """Name a feed as a CloudEvents source (a URI reference)."""
    return b"/feeds/" + quote(feed_id or "default", safe="").encode()


def of_activity(activity: Activity) -> Headers:
    """Make the headers of an activity; `ce_time` is left out where the record has no readable time."""
    headers: Headers = [
        _SPEC,
        ("ce_id", activity.id.encode("utf-8", "surrogatepass")),
        ("ce_source", source_of(activity.feed_id)),
        ("ce_type", ACTIVITY_TYPE_PREFIX + activity.type.encode("utf-8", "surrogatepass")),
        ("ce_subject", activity.subject.encode("utf-8", "surrogatepass")),
        _AVRO,
    ]
    if activity.created_at is not None:
        headers.append(("ce_time", times.text_of(activity.created_at).encode()))
    return headers


def of_emission(record: Emission, subject: str) -> Headers:
    """Make the headers of a gap or an alert; `ce_id` names the revision."""
    if isinstance(record, Gap):
        identifier, kind = record.gap_id, GAP_TYPE
    else:
        identifier, kind = record.alert_id, ALERT_TYPE_PREFIX + record.kind
    return [
        _SPEC,
        ("ce_id", f"{identifier}/{record.revision}".encode()),
        ("ce_source", b"/auditgap"),
        ("ce_type", kind.encode()),
        ("ce_time", times.text_of(record.produced_at).encode()),
        ("ce_subject", subject.encode("utf-8", "surrogatepass")),
        _AVRO,
    ]
