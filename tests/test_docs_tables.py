"""The tables of the leaderboard in README and docs are those of the committed records."""

import pytest

from benchmarks.update_tables import BLOCK, PAGES, RESULT, updated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_and_results_of_a_page_follow_from_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert BLOCK.search(text) or RESULT.search(text), "the page has no table and no result"
    assert updated(text) == text, "run: python benchmarks/update_tables.py"
