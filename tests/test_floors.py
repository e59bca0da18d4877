"""The package is a house of floors: a file imports from below, and nothing goes in circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastrl

ROOT = Path(fastrl.__file__).parent
FLOORS = [  # from the ground up: folders, and files of the root
    {"config", "ops", "kernels", "spaces"},
    {"processes"},
    {"models", "buffers", "envs", "runs", "presets", "data"},
    {"engine", "decoupled", "cli", "compare"},
    {"training", "callbacks", "sweep"},
    {"agents", "studio"},
    {"ppo", "a2c", "sac", "evaluate", "export", "module", "collect"},
    {"ppo_recurrent", "droq"},
    {"__init__", "__main__"},
]
FLOOR_OF = {place: floor for floor, places in enumerate(FLOORS) for place in places}
# What is imported by its name, which no import statement shows: these may go up.
IMPORTED_BY_NAME = {
    "__init__": "names of the package come on first use, so that importing it imports no torch",
    "config.callables": "the class or function that a user names as module:callable",
    "config.describing": "the settings of the algorithm that a command or a page names",
    "cli": "the algorithm that the command line names, once its arguments are known to be right",
    "agents.load": "the algorithm that a checkpoint is of",
    "kernels.extension": "the compiled part, which may be missing or too old",
    "runs.trackers": "the package of the experiment tracker that --logger names",
    "envs.make": "the environment that a user names as module:callable",
    "sweep.warm": "the algorithm that runs are forked of, and what they all import",
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Returns what all files say. Not read at import, which every process of a test run does."""
    return {file: ast.parse(path.read_text("utf-8")) for file, path in FILES.items()}


@pytest.fixture(scope="module")
def arrows(trees) -> set[tuple[str, str]]:
    """Returns all imports: the file that imports, and the one that is imported."""
    return {(file, x) for file, tree in trees.items() for x in imports_of(file, tree)}


def imports_of(file: str, tree: ast.Module) -> set[str]:
    """Returns the package's files that a file imports: in functions and for types alone, too."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for name in names:
        package, _, inner = name.partition(".")
        if package == "fastrl" and inner.partition(".")[0] != "_C":  # that is below all floors
            while inner and inner not in FILES:  # a class or function of a file
                inner = inner.rpartition(".")[0]
            found.add(inner or "__init__")
    return found - {file}


def place_of(file: str) -> str:
    """Returns the folder that a file is in, or the name of a file of the root."""
    return file.partition(".")[0]


def check_order(arrows: set[tuple[str, str]]) -> None:
    """Raises CycleError, which shows the circle, if there is one."""
    sorter = TopologicalSorter()
    for start, end in arrows:
        sorter.add(start, end)
    sorter.prepare()


def test_every_folder_and_file_of_the_root_has_a_floor():
    assert {place_of(file) for file in FILES} == FLOOR_OF.keys()


def test_imports_go_down(arrows):
    floors = {(a, b): (FLOOR_OF[place_of(a)], FLOOR_OF[place_of(b)]) for a, b in arrows}
    assert {arrow for arrow, (start, end) in floors.items() if end > start} == set()


def test_files_form_no_circle(arrows):
    check_order(arrows)


def test_folders_form_no_circle(arrows):
    places = {(place_of(start), place_of(end)) for start, end in arrows}
    check_order({(start, end) for start, end in places if start != end})


def test_every_import_by_name_has_a_reason(trees):
    names = {"import_module", "__import__"}

    def is_by_name(node: ast.AST) -> bool:
        return getattr(node, "id", getattr(node, "attr", None)) in names

    found = {file for file, tree in trees.items() if any(map(is_by_name, ast.walk(tree)))}
    assert found == IMPORTED_BY_NAME.keys()


def test_no_source_file_is_long():
    sources = [*FILES.values(), *(ROOT.parent / "csrc").glob("*.*")]
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_root_has_at_most_ten_files():
    assert len([file for file in FILES if (ROOT / f"{file}.py").exists()]) <= 10


@pytest.mark.parametrize("name", ["utils", "util", "common", "helpers", "helper", "misc"])
def test_no_file_or_folder_says_nothing_by_its_name(name):
    assert [file for file in FILES if name in file.split(".")] == []
