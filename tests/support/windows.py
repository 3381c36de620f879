"""One whole window, and what has to come of it; and that nothing is published twice."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.support.feed import Wire, ago, record, settings, wire
from tests.support.site import Site

from auditgap.core.records import Alert, Gap


def one_window(organization: str, inside: int = 1) -> list[Wire]:
    """A whole window, some ten minutes ago, and that many activities inside it."""
    return [
        wire(record(f"{organization}/last", organization, ago(600))),
        wire(settings(f"{organization}/off", organization, ago(590), logging=False)),
        *(wire(record(f"{organization}/inside{number}", organization, ago(580))) for number in range(inside)),
        wire(settings(f"{organization}/on", organization, ago(570), logging=True)),
        wire(record(f"{organization}/first", organization, ago(560))),
    ]


def assert_windows(site: Site, organizations: Iterable[str], inside: int = 1) -> None:
    """Each organization has its window, whole, and each revision of an alert or gap is there once."""
    organizations = sorted(organizations)
    gaps = {gap.organization_id: gap for gap in site.gaps().values()}
    assert sorted(filter(None, gaps)) == organizations
    for name, gap in gaps.items():
        bracket = (gap.last_activity_id, gap.opened_by_id, gap.closed_by_id, gap.first_activity_id)
        assert bracket == tuple(f"{name}/{part}" for part in ("last", "off", "on", "first"))
        assert gap.activity_inside_count == inside
    alerts = site.alerts()
    assert_once(alerts, site.history())
    kinds = Counter((each.organization_id, each.kind) for each in alerts if each.revision == 1)
    for name in organizations:
        assert kinds[name, "logging_disabled"] == kinds[name, "logging_restored"] == 1


def assert_once(alerts: Sequence[Alert], history: Sequence[Gap]) -> None:
    """Each alert and each gap has the revisions 1, 2, 3 … once each."""
    for ids in (
        [(each.alert_id, each.revision) for each in alerts],
        [(each.gap_id, each.revision) for each in history],
    ):
        last: dict[str, int] = {}
        for name, revision in ids:
            last[name] = max(revision, last.get(name, 0))
        assert Counter(ids) == Counter((name, number) for name, top in last.items() for number in range(1, top + 1))
