import pytest

from auditgap.core.indicators import (
    CATEGORIES,
    DAY,
    HOUR,
    INDICATORS,
    LINK_TYPES,
    LONGEST_BEFORE,
    Indicator,
)
from auditgap.core.inputs import SETTINGS_TYPE


def test_categories() -> None:
    """Each category has the look-back that the rules give it, and counts in a review or does not."""
    table = {category.name: (category.before, category.after, category.review) for category in CATEGORIES.values()}
    assert table == {
        "sign_in": (DAY, HOUR, False),
        "second_factor": (DAY, HOUR, False),
        "role": (30 * DAY, 0, True),
        "owner": (30 * DAY, 0, True),
        "credential": (30 * DAY, 0, True),
        "export": (DAY, DAY, True),
        "sharing": (None, None, True),
        "member": (None, None, True),
        "watch": (None, None, True),
    }
    assert LONGEST_BEFORE == 30 * DAY


def test_every_category_is_used() -> None:
    """There is no category without a type, and no type whose category is not in the table."""
    assert {indicator.category for indicator in INDICATORS.values()} == CATEGORIES.keys()
    with pytest.raises(ValueError, match="no category"):
        Indicator("x", "mood", "because")


@pytest.mark.parametrize("indicator", INDICATORS.values(), ids=INDICATORS)
def test_rows(indicator: Indicator) -> None:
    """A row says in one sentence why it matters, without a full stop, and names identities of known kinds."""
    assert 10 < len(indicator.why) < 110
    assert not indicator.why.endswith(".")
    assert {kind for _, kind in indicator.subjects} <= {"user", "email", "key", "service", "principal"}
    assert indicator.category == "credential" or not indicator.makes


@pytest.mark.parametrize(
    ("activity_type", "category"),
    [
        ("sso_login_failed", "sign_in"),
        ("step_up_authentication_failed", "sign_in"),
        ("sso_second_factor_magic_link", "second_factor"),
        ("org_magic_link_second_factor_toggled", "second_factor"),
        ("claude_user_role_updated", "role"),
        ("primary_owner_transferred", "owner"),
        ("admin_api_key_created", "credential"),
        ("org_data_export_started", "export"),
        ("claude_project_sharing_updated", "sharing"),
        ("org_user_invite_accepted", "member"),
        ("org_parent_join_proposal_created", "watch"),
        ("org_join_proposal_decided", "watch"),
        ("org_deletion_requested", "watch"),
    ],
)
def test_the_types_that_the_rules_name(activity_type: str, category: str) -> None:
    """What the rules name is in the table, under its category."""
    assert INDICATORS[activity_type].category == category


def test_what_is_no_indicator() -> None:
    """The switch itself, reading, chatting and signing in are no indicators."""
    for activity_type in (SETTINGS_TYPE, "compliance_api_accessed", "claude_chat_created", "sso_login_succeeded"):
        assert activity_type not in INDICATORS
    assert LINK_TYPES & INDICATORS.keys() == {"platform_federated_authentication"}


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [("success", False), ("Succeeded", False), ("denied", True), ("a word of the future", True), (None, True)],
)
def test_ordinary(outcome: str | None, counts: bool) -> None:
    """An authentication that succeeded is ordinary; one that says anything else is an indicator."""
    assert INDICATORS["platform_federated_authentication"].counts({"outcome": outcome}) is counts
    assert INDICATORS["sso_login_failed"].counts({"outcome": outcome})
