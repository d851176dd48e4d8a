"""The docs are true: every Python block runs, every public name, verb and finding is in them, every link leads somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lrkit
from lrkit.cli import app
from lrkit.doctor.finding import CODES
from lrkit.finder.suggestion import WORDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


# The page of the host frameworks runs inside them: tests/integrations/test_hosts_page.py.
RUN = [page for page in PAGES if BLOCK.search(page.read_text()) and page.name != "hosts.md"]


@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_every_block_of_a_page_runs(page, tmp_path):
    """One after the other, as a reader would, in an empty folder."""
    code = "\n".join(BLOCK.findall(page.read_text()))
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", lrkit.__all__)
def test_every_public_name_is_in_the_glossary(name):
    assert re.search(rf"\b{name}\b", (ROOT / "docs" / "glossary.md").read_text())


@pytest.mark.parametrize("verb", [command.name for command in app.registered_commands])
def test_every_verb_and_its_options_are_documented(verb):
    text = subprocess.run([sys.executable, "-m", "lrkit", verb, "--help"], capture_output=True, text=True, timeout=60).stdout
    page = (ROOT / "docs" / "cli.md").read_text()
    assert f"lrkit {verb}" in page
    for option in set(re.findall(r"--[a-z-]+", text)) - {"--help"}:
        assert option in TEXT, f"{verb} {option}"


@pytest.mark.parametrize("code", CODES)
def test_every_finding_is_documented(code):
    assert f"`{code}`" in (ROOT / "docs" / "doctor.md").read_text()


@pytest.mark.parametrize("status", [*WORDS])
def test_every_status_is_documented(status):
    assert f"| `{status}` |" in (ROOT / "docs" / "find.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readme_begins_with_a_picture_and_exactly_two_commands():
    text = (ROOT / "README.md").read_text()
    first_block = re.search(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert first_block is not None and first_block[1].split("\n") == ["make demo", "make test", ""]
    assert text.index("![") < first_block.start()


def test_docstring_examples_run():
    """Every module's doctests."""
    import doctest
    import importlib
    import pkgutil

    failed, tried = 0, 0
    for module in pkgutil.walk_packages(lrkit.__path__, "lrkit."):
        if not module.name.endswith("__main__"):
            try:
                result = doctest.testmod(importlib.import_module(module.name))
            except lrkit.errors.MissingExtra:
                continue  # a host framework that is not here
            failed, tried = failed + result.failed, tried + result.attempted
    assert failed == 0 and tried > 30


class TestTheGallery:
    @pytest.fixture
    def gallery(self):
        spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_is_what_its_program_makes(self, gallery):
        page = (ROOT / "docs" / "schedules.md").read_text()
        assert gallery.page() in page and gallery.coming_from() in page, "run python docs/gallery.py"

    def test_has_a_picture_for_each_shape(self, gallery):
        for entries in gallery.CHAPTERS.values():
            for name, recipe, text, _, _ in entries:
                there = (gallery.IMAGES / f"{gallery.slug(name)}.svg").read_text()
                assert there == gallery.picture(gallery.schedule_of(recipe, text), name), "run python docs/gallery.py"
