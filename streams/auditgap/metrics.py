"""Every metric, one row each. A name outside the table is an AttributeError and a type error."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The worker's metrics, in a registry of their own. Base units; no ids as labels."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.records = Counter(
            "auditgap_records",
            "Records of the input topics by outcome: applied, repeat, dead_letter, forwarded; mail by the last two.",
            ["outcome"],
            registry=self.registry,
        )
        self.mail = Counter(
            "auditgap_mail", "Messages between partitions, and ticks, by kind.", ["kind"], registry=self.registry
        )
        self.dead_letters = Counter(
            "auditgap_dead_letters", "Records sent to the dead letters, by reason.", ["reason"], registry=self.registry
        )
        self.alerts = Counter(
            "auditgap_alerts", "Alert revisions published, by kind.", ["kind"], registry=self.registry
        )
        self.gap_revisions = Counter("auditgap_gap_revisions", "Gap revisions published.", registry=self.registry)
        self.decoded = Counter(
            "auditgap_decoded_records",
            "Records whose body was decoded; the others were read by header.",
            registry=self.registry,
        )
        self.commits = Histogram(
            "auditgap_commit_seconds",
            "Time one transaction took to commit.",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        self.commit_age = Gauge(
            "auditgap_commit_age_seconds",
            "Age of the oldest processed record that is not committed; 0 if none.",
            registry=self.registry,
        )
        self.lag = Gauge(
            "auditgap_lag_records", "Records not processed yet, by partition.", ["partition"], registry=self.registry
        )
        self.clock = Gauge(
            "auditgap_clock_timestamp_seconds",
            "Time that the ticks of a partition have reached, in seconds since the epoch; 0 before the first.",
            ["partition"],
            registry=self.registry,
        )
        self.partitions = Gauge("auditgap_partitions", "Input partitions this worker owns.", registry=self.registry)
        self.subjects = Gauge(
            "auditgap_state_subjects", "Organizations and feeds whose state is held.", registry=self.registry
        )
        self.state_records = Gauge(
            "auditgap_state_records",
            "What the state holds of all that was ever said, by kind: assertions, gaps, alerts.",
            ["kind"],
            registry=self.registry,
        )
        self.state_bytes = Counter(
            "auditgap_state_written_bytes", "Bytes of changed state written to the changelog.", registry=self.registry
        )
        self.skipping = Gauge(
            "auditgap_header_skipping",
            "1 while ordinary records are read by header, 0 if all are decoded.",
            registry=self.registry,
        )
