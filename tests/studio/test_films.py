"""What stands beside a film is numbers and short texts, whoever wrote the file."""

import json

import pytest

from fastrl.runs.metrics_table import MetricsTable
from fastrl.runs.reading import read_run
from fastrl.studio.films import Film, films_of, read_actions

FACTS = {
    "frames_per_second": 50,
    "dimensions": [{"name": "action", "first": 0, "choices": ["left", "right"]}],
    "actions": [[0], [1]],
    "probabilities": [[0.6, 0.4], [0.3, 0.7]],
    "rewards": [1.0, 1.0],
}


def film_with(folder, facts) -> Film:
    text = facts if isinstance(facts, str) else json.dumps(facts)
    (folder / "a.json").write_text(text)
    return Film("a", folder / "a.mp4", 0.0, False)


def test_a_whole_file_is_read(tmp_path):
    facts = read_actions(film_with(tmp_path, FACTS))
    assert facts is not None and facts["rate"] == 50 and facts["actions"] == [[0], [1]]


@pytest.mark.parametrize(
    "change",
    [
        {"actions": [[0]]},
        {"actions": [[0], ["<b>"]]},
        {"actions": [[0], [1, 2]]},
        {"probabilities": [[0.5, 0.5]]},
        {"probabilities": [[0.5], [0.5]]},
        {"frames_per_second": 0},
        {"frames_per_second": True},
        {"rewards": [1.0, None]},
        {"dimensions": [{"name": "x"}]},
        {"dimensions": 3},
    ],
)
def test_a_file_that_does_not_fit_is_as_none(tmp_path, change):
    assert read_actions(film_with(tmp_path, {**FACTS, **change})) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"actions": NaN}'])
def test_damaged_files_are_as_none(tmp_path, text):
    assert read_actions(film_with(tmp_path, text)) is None


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text(json.dumps(FACTS))
    (tmp_path / "a.json").symlink_to(tmp_path / "secret")
    assert read_actions(Film("a", tmp_path / "a.mp4", 0.0, False)) is None


def test_newest_film_comes_first(tmp_path):
    import os

    (tmp_path / "videos").mkdir()
    names = ("step_000000000100.mp4", "evaluate_best.mp4", "evaluate_best.gif", "notes.txt")
    for age, name in enumerate(names):
        (tmp_path / "videos" / name).touch()
        os.utime(tmp_path / "videos" / name, (1000 - age, 1000 - age))
    films = films_of(read_run(tmp_path, MetricsTable(tmp_path / "metrics.csv")))
    assert [film.title for film in films] == ["step 100", "best (evaluation)"]
    assert [film.has_gif for film in films] == [False, True]
