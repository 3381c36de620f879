"""`auditgap assert`: a named person states since when a feed was off, or on."""

from collections.abc import Callable, Collection, Mapping

from confluent_kafka import KafkaException

from auditgap import clock
from auditgap.adapters import kafka
from auditgap.config import Settings
from auditgap.core import times
from auditgap.core.inputs import OPERATOR, Rejection
from auditgap.core.intake import refused_time
from auditgap.core.observations import Observation, read_observation
from auditgap.entrypoints import show
from auditgap.entrypoints.publish import Publisher
from auditgap.errors import BrokerError, UsageError

Tell = Callable[[str], None]


def statement(
    result: str, about: Mapping[str, str | None], since: str, author: str, reason: str, flags: Collection[str]
) -> Observation:
    """Make a statement of now. Raises UsageError where it would be refused.

    `result` is "on" or "off"; `about` has organization_id or feed_id; `flags` are those of "api" and "logging" that it
    speaks of, none for both.
    """
    now = clock.now()
    if (about["organization_id"] is None) == (about["feed_id"] is None):
        raise UsageError("assert takes either --organization or --feed")
    if times.parse(since) is None:
        raise UsageError(f"--at takes a time with a zone, such as 2026-11-23T17:00:00Z, not {since!r}")
    said = {"--author": (author, 500), "--reason": (reason, 2000), "--feed": (about["feed_id"] or "default", 200)}
    for option, (value, most) in said.items():
        if not (0 < len(value) <= most and value.isprintable()):
            raise UsageError(f"{option} takes 1 to {most:,} printable characters")
    seen = read_observation(
        {
            **about,
            **dict.fromkeys(flags or ("api", "logging"), result == "on"),
            "kind": OPERATOR,
            "result": result,
            "observed_at": times.text_of(now),
            "effective_at": since,
            "author": author,
            "message": reason,
        }
    )
    refusal = seen if isinstance(seen, Rejection) else refused_time(seen, now)
    if isinstance(seen, Rejection) or refusal is not None:
        raise UsageError(f"that cannot be stated: {refusal.detail if refusal else ''}")
    return seen


def publish(settings: Settings, seen: Observation, tell: Tell) -> int:
    """Publish a statement; gives the exit status. Raises BrokerError."""
    with Publisher(settings, tell, activities=False, observations=True) as publisher:
        try:
            publisher.observe(seen)
        except KafkaException as exception:
            raise BrokerError(f"cannot publish: {kafka.explain(exception.args[0])}") from None
    if publisher.counts.exit_status == 0:
        since = show.moment(seen.effective_at or 0)
        signed = "signed" if settings.signing.key_file else "not signed: AUDITGAP_SIGNING__KEY_FILE is not set"
        tell(f"published {seen.id}: {seen.subject} {seen.result} since {since}, by {seen.author} ({signed})")
    return publisher.counts.exit_status
