"""The glossary of metrics: that the page in docs and the package say the same."""

import re
from pathlib import Path

import fastrl
from fastrl.runs.glossary import DECOUPLED, ENTRIES, GROUPS, OWN, RETURNS, entry_of

PAGE = Path(fastrl.__file__).parents[1] / "docs" / "metrics.md"


def rows_of_the_page() -> dict[str, tuple[str, str]]:
    """Returns group and text of each name in the page's tables; the first one counts."""
    rows: dict[str, tuple[str, str]] = {}
    group = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 4:
            text = re.sub(r"\[(\w+)\]\([\w./#]+\)", r"\1", cells[2].strip()).replace("\\|", "|")
            for name in re.findall(r"`(\w+/\w+)`", cells[1]):
                rows.setdefault(name, (group, text))
    return rows


def test_the_package_says_what_the_page_says():
    assert {name: tuple(entry) for name, entry in ENTRIES.items()} == rows_of_the_page()


def test_no_two_metrics_share_a_text():
    texts = [entry.text for entry in ENTRIES.values()]
    assert len(set(texts)) == len(texts)


def test_groups_of_the_page_are_shown_in_its_order():
    groups = list(dict.fromkeys(group for group, _ in rows_of_the_page().values()))
    assert [*groups, OWN] == list(GROUPS)


def test_every_column_has_a_group_and_a_text():
    assert entry_of("Episode/is_success").group == entry_of("Test/is_success").group == RETURNS
    assert entry_of("Info/policy_lag").group == DECOUPLED
    assert entry_of("Mine/<b>").group == entry_of("").group == OWN
