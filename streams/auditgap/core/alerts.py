"""The table of alert kinds: severity, what it means, what to do, and the techniques it points at.

A kind that is not in the table cannot be raised; documentation and tests read the same rows.
"""

from dataclasses import dataclass
from typing import Final

from auditgap.core.records import Severity

ATTACK_IDS: Final = ("TA0112", "T1685.002", "TA0005", "T1562", "T1562.008")
"""MITRE ATT&CK: tactic and technique of impairing logs as of v19, then the ids they had before."""


@dataclass(frozen=True, slots=True)
class AlertKind:
    """One row: `when` it is raised, how bad it is, the steps for the responder in their order."""

    name: str
    severity: Severity
    when: str
    triage: tuple[str, ...]
    attack_ids: tuple[str, ...] = ()


_LOOK_AT_PRODUCER: Final = (
    "Look at the dead letter: its headers say where the record stood and why it was refused.",
    "Find who wrote it: only the collector may write the input topic (the broker's ACLs).",
)

KINDS: Final = {
    kind.name: kind
    for kind in (
        AlertKind(
            "logging_disabled",
            Severity.CRITICAL,
            "a settings event switches the Compliance API or its logging off, however briefly",
            (
                "Confirm that the actor is a Primary Owner or otherwise authorised to change these settings.",
                "Check for an active incident, a planned outage or a contractual reason (a change window).",
                "Look at the actor's recent activity: failed or odd sign-ins, second factor changed or bypassed, "
                "privilege escalation, new credentials.",
                "If not authorised: re-enable at once, and treat everything in the window as potentially un-audited.",
                "Once logging is back: compare the last id before with the first id after, and review the gap.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "disabled_by_watcher_key",
            Severity.CRITICAL,
            "the key that reads the feed was used to switch it off: whoever did it holds the collector's credential",
            (
                "Delete the key at once: it takes effect on the next request; give the collector a new one.",
                "Find who else can read it: the collector's host, its secret store, its logs.",
                "Treat everything in the window as potentially un-audited.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "logging_restored",
            Severity.INFORMATIONAL,
            "a window closes: the whole window and both ids of its bracket",
            (
                "Confirm who switched it on again, and that it was meant to stay on.",
                "Review what was done between the last id before and the first id after; other logs than this feed "
                "have to tell.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "feed_suspected_off",
            Severity.HIGH,
            "a suspected gap opens: the feed is refused or unseen (critical if the credential is lost), or the "
            "collector's own calls are missing in it",
            (
                "Find out whether the collector's key still works: was it deleted, disabled or limited, and by whom?",
                "Read the setting itself (organization settings, or the compliance_settings endpoint).",
                "Until the feed is caught up, treat the time since it was last seen as potentially un-audited.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "gap_refined",
            Severity.INFORMATIONAL,
            "a gap is replaced by one that knows more (SUPERSEDED); the incident goes on",
            ("Go on with the gap that took its place.",),
        ),
        AlertKind(
            "gap_withdrawn",
            Severity.INFORMATIONAL,
            "a suspected gap is taken back (RETRACTED), with the reason",
            ("Nothing to do: what was suspected did not happen.",),
        ),
        AlertKind(
            "gap_still_open",
            Severity.MEDIUM,
            "a gap is open after 15 minutes (medium), 1 hour (high), 4 hours, 24 hours, then daily (critical), or "
            "when the policy says; not while it is acknowledged",
            (
                "Re-enable the feed, or have somebody who may: the window grows until then.",
                "Who knows of it and works on it acknowledges the gap in the policy, with a reason and a time.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "evidence_conflict",
            Severity.HIGH,
            "activities were recorded inside a window that an event opened, later than the settle time",
            (
                "Fetch the settings event and one of the activities from the vendor's API: are both genuine?",
                "If logging was on: state so (`auditgap assert on`), with the reason.",
                "If it was off: find who can write records to the input topic (the broker's ACLs).",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "change_window_overrun",
            Severity.CRITICAL,
            "a gap outlives the change window that excused it",
            ("Ask the change's owner why it is not over.", "Re-enable the feed."),
            ATTACK_IDS,
        ),
        AlertKind(
            "policy_changed",
            Severity.HIGH,
            "a version of the policy is published, with what it changes (critical while a gap is open)",
            (
                "Confirm with its author that the change is theirs.",
                "While a gap is open: who excuses it afterwards may be who caused it.",
            ),
        ),
        AlertKind(
            "flapping",
            Severity.HIGH,
            "more than 50 changes of the settings in an hour of the clock",
            ("Find the program or person that changes them, and stop it.",),
            ATTACK_IDS,
        ),
        AlertKind(
            "feed_stalled",
            Severity.MEDIUM,
            "nothing was heard of the collector for ten minutes; it rises as gap_still_open does",
            (
                "Look at the collector: does it run, can it reach the API and Kafka?",
                "Until it is caught up, nobody knows whether the feed is on.",
            ),
        ),
        AlertKind(
            "feed_delayed",
            Severity.MEDIUM,
            "the collector's own calls are not visible in the feed yet, nor is anything newer",
            ("Wait, and look at the vendor's status page: the feed is behind for everybody.",),
        ),
        AlertKind(
            "actor_compromise_indicators",
            Severity.CRITICAL,
            "what the record says of who switched the feed off: FOUND; informational where it says nothing "
            "(NONE_IN_RECORD) or cannot tell (NOT_CHECKED)",
            (
                "Read the records named as evidence, oldest first: did the actor's account fall before the feed went?",
                "Where something was found: ask the actor by another way than their account; end their sessions, and "
                "replace the credentials made since.",
                "Where it could not be checked: look into the identity provider's own logs of the actor.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "post_gap_review",
            Severity.HIGH,
            "keys, exports, roles, sharing or new members within 24 hours after a window closed, by anyone",
            (
                "Ask each actor named whether the changes were theirs, and meant.",
                "Look for what they build on: a key, role or member that came in while nobody recorded.",
                "Undo what nobody stands up for.",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "settings_change_unreadable",
            Severity.CRITICAL,
            "a settings event cannot be understood: the feed may be on or off",
            (
                "Read the setting itself (organization settings, or the compliance_settings endpoint).",
                *_LOOK_AT_PRODUCER,
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "clock_anomaly",
            Severity.CRITICAL,
            "an input's time lies where no honest clock stands; if it says off, the off counts from its append time",
            ("Check the clocks of the collector and the brokers.", *_LOOK_AT_PRODUCER),
            ATTACK_IDS,
        ),
        AlertKind(
            "conflicting_record",
            Severity.CRITICAL,
            "two settings events have one id and different content: both count",
            (
                "Fetch the id from the vendor's API: what it returns is the true one.",
                "Find who wrote the other: only the collector may write the input topic (the broker's ACLs).",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "signature_invalid",
            Severity.CRITICAL,
            "a settings event or an observation has a signature that is wrong, or of a key nobody trusts",
            (
                "Fetch the record's id from the vendor's API: what it returns is the true one.",
                "If the key is a new one of the collector's: add it to the workers' trusted keys, and publish again.",
                "Else treat it as forged: find who can write the input topics (the broker's ACLs).",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "unsigned_settings_change",
            Severity.HIGH,
            'signatures are required, and a settings event or an operator says "on" without one: it is not believed',
            (
                "Read the setting itself: it may still be off.",
                "If it is on and the record is true: give its publisher a key, and publish the record again.",
                "Else find who wrote it: only the collector may write the input topic (the broker's ACLs).",
            ),
            ATTACK_IDS,
        ),
        AlertKind(
            "header_mismatch",
            Severity.CRITICAL,
            "a record's headers say something else than its body: skipping by header stops",
            ("Treat settings events since the last good sample as possibly hidden.", *_LOOK_AT_PRODUCER),
            ATTACK_IDS,
        ),
        AlertKind(
            "record_quarantined",
            Severity.CRITICAL,
            "the worker died on one record twice, and went on without it",
            (
                "Read the dead letter by hand: it may be a settings event.",
                "Report the record's shape as a bug.",
            ),
        ),
    )
}
