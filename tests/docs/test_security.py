"""The page of what each part may do is the table that the tests give it."""

from tests.docs import security


def test_page_is_current() -> None:
    """docs/security.md is what the table gives now (`make docs`)."""
    assert security.PAGE.read_text() == security.page()
