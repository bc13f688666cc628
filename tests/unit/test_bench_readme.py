"""README.md shows the figures that are kept, and no others."""

import pytest

from bench.readme import README, put, read, table


def test_readme_shows_what_was_measured() -> None:
    text = README.read_text()
    assert put(text, table(read())) == text, "python -m bench readme"


def test_the_table_replaces_the_one_that_was_there() -> None:
    text = README.read_text()
    changed = put(text, "| another |")
    assert "| another |" in changed
    assert put(changed, table(read())) == text


def test_a_text_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        put("# Phalanx\n", "")
