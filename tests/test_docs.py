"""The Python blocks of the documentation run.

The ```python blocks of a page are run in order, in one namespace and in a temporary folder. Behind
`python`, the line that opens a block may say

- `file: my_nets.py`: the block is written to that file, and what it defines is imported from there;
- `no-run: the reason`: the block is not run.
"""

from __future__ import annotations

import contextlib
import importlib
import linecache
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

import fastrl
from fastrl.processes.errors import how_to_install

DOCS = Path(__file__).parents[1] / "docs"

QUICK_PAGES = (*("comparing_runs.md", "evaluation.md", "schedules.md", "settings.md", "sweeps.md"),)
LONG_PAGES = (
    *("callbacks.md", "coming_from_sb3.md", "fine_tuning.md", "from_python.md"),
    *(
        "own_algorithms.md",
        "own_environments.md",
        "own_losses.md",
        "own_networks.md",
        "spaces.md",
        "trajectories.md",
    ),
)
"""Pages that take more than about a second of one core, so that they are run with the slow tests;
no page may take more than about ten."""

_BLOCK = re.compile(r"^```python(?P<words>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str, int]]:
    """Returns of each block of a page what stands behind `python`, its code and its first line."""
    return [
        (match["words"].strip(), match["code"], text[: match.start("code")].count("\n"))
        for match in _BLOCK.finditer(text)
    ]


_PAGE_MODULES: set[str] = set()
"""Names of the modules that pages were run as."""


def run_page(text: str, name: str, folder: Path) -> None:
    """Runs a page's blocks in `folder`, the current one, as the module `name`."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    _PAGE_MODULES.add(name)
    for number, (words, code, line) in enumerate(blocks(text)):
        kind, _, rest = (part.strip() for part in words.partition(":"))
        if kind == "no-run":
            assert rest, f"{name}: the block of line {line} is not run, and does not say why"
        elif kind == "file":
            (folder / rest).write_text(code)
            importlib.invalidate_caches()
            defined = vars(importlib.import_module(Path(rest).stem))
            vars(module).update({x: y for x, y in defined.items() if not x.startswith("__")})
        else:
            assert not words, f"{name}: line {line} says {words!r} behind python"
            source, place = "\n" * line + code, f"<{name} {number}>"
            # So that tracebacks show the line, and torch finds the source.
            linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
            exec(compile(source, place, "exec"), vars(module))


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """A folder that is the current one and that modules are imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        # Parts of torch that are imported late have no file either, and must stay.
        if name in _PAGE_MODULES or (path is not None and Path(path).is_relative_to(tmp_path)):
            with contextlib.suppress(KeyError):
                del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [*QUICK_PAGES, *(pytest.param(x, marks=pytest.mark.slow) for x in LONG_PAGES)],
)
def test_the_blocks_of_a_page_run(page, page_folder):
    text = (DOCS / page).read_text()
    assert blocks(text), f"{page} has no blocks"
    run_page(text, f"docs_{Path(page).stem}", page_folder)


def test_every_page_with_blocks_is_run():
    with_blocks = {page.name for page in DOCS.glob("*.md") if blocks(page.read_text())}
    assert with_blocks == {*QUICK_PAGES, *LONG_PAGES}


def test_a_block_that_fails_fails_its_page(page_folder):
    with pytest.raises(ZeroDivisionError):
        run_page("```python\nx = 0\n```\nand\n```python\n1 / x\n```\n", "failing", page_folder)
    with pytest.raises(AssertionError, match="does not say why"):
        run_page("```python no-run:\n```\n", "silent", page_folder)


def test_a_block_with_a_file_is_imported_from_it(page_folder):
    text = (
        "```python file: my_file.py\ndef f():\n    return 7\n```\n```python\nassert f() == 7\n```"
    )
    run_page(text + "\n```python\nassert f.__module__ == 'my_file'\n```\n", "named", page_folder)


# Links

README = DOCS.parent / "README.md"
_LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#\s]*)(?:#(?P<heading>[^)\s]*))?\)")


def headings(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
    for link in _LINK.finditer(page.read_text()):
        target = page.parent / link["file"] if link["file"] else page
        assert target.exists(), link[0]
        assert not link["heading"] or link["heading"] in headings(target), link[0]


def test_readme_leads_to_every_page():
    linked = {Path(link["file"]).name for link in _LINK.finditer(README.read_text())}
    assert {page.name for page in DOCS.glob("*.md")} <= linked


def test_messages_name_extras_that_there_are_and_install_them_as_the_readme_does():
    package = Path(fastrl.__file__).parent
    sources = "".join(path.read_text() for path in package.rglob("*.py"))
    named = set(re.findall(r"how_to_install\(['\"](\w+)['\"]\)", sources))
    assert named == {"data", "loggers", "onnx", "plot", "studio", "sweep", "video"}
    extras = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    assert named <= extras["optional-dependencies"].keys()
    assert 'pip install -c constraints.txt -e ".[sweep]"' in how_to_install("sweep")
    assert how_to_install("sweep").partition(": ")[2] in README.read_text()
    assert sources.count("pip install") == 1
