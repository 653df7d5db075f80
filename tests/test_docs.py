"""The pages of the repository hold together: links, anchors, and the headings that source files cite."""

import importlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import salcr
from salcr import ops
from salcr.engine import Config
from salcr.engine.config import flattened

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(ROOT.glob("docs/*.md"))]
FOLDERS = ("salcr", "kernels", "csrc", "tests", "benchmarks", "docs", "examples")
SUFFIXES = (".py", ".cpp", ".hpp", ".cu", ".cuh", ".md", ".yaml")

NAME = re.compile(r"`([a-z_]\w*(?:\.\w+)+)(?:\([^`]*\)|=[^`]*)?`")
ROOMS = ("ops", "nn", "objectives")  # that pages name without "salcr."
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
CITED_PAGE = re.compile(r"docs/method\.md")
CITATION = re.compile(r'docs/method\.md, ("[^"]+"(?:(?:,| and|, and) "[^"]+")*)')
PRIVATE = re.compile(r"\b(?:SPEC|DESIGN)\b")  # pages this project was planned on


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    broken = [target for target in _links(page) if not _resolves(page, target)]
    assert not broken, f"{page.name} links to what is not there: {broken}"


def test_a_broken_link_or_anchor_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One heading: `code`, and a colon\n")
    page = tmp_path / "page.md"
    page.write_text("# Here\n")
    assert _resolves(page, "other.md#one-heading-code-and-a-colon") and _resolves(page, "#here")
    assert not any(_resolves(page, target) for target in ("gone.md", "other.md#another", "#there"))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)  # which names what has been
def test_names_and_settings_are_there(page):
    unknown = [name for name in NAME.findall(page.read_text()) if not _is_there(name)]
    assert not unknown, f"{page.name} names what is not there: {unknown}"


def test_a_name_that_is_not_there_is_found():
    text = "`salcr.engine.train`, `ops.knn(x, 3)`, `data.root=DATA`, `checkpoints.keep`, `numpy.load`"
    assert len(NAME.findall(text)) == 5 and all(map(_is_there, NAME.findall(text)))
    wrong = ("salcr.nowhere", "salcr.engine.Config.nothing", "ops.knm", "data.roo", "checkpoints.keep.none")
    assert not any(map(_is_there, wrong))


def test_headings_of_the_method_are_unique():
    headings = _method_headings()
    assert len(headings) > 30 and len(set(headings)) == len(headings)


def test_source_cites_headings_of_the_method():
    headings, wrong = set(_method_headings()), []
    for path in _sources():
        text = _joined(path.read_text())
        if path.suffix != ".md" and len(CITED_PAGE.findall(text)) != len(CITATION.findall(text)):
            wrong.append(f'{path.relative_to(ROOT)}: a citation reads docs/method.md, "Heading"')
        wrong += [f"{path.relative_to(ROOT)}: no heading {h!r}" for h in _citations(text) if h not in headings]
    assert not wrong, "\n".join(wrong)


def test_citations_are_found_across_lines_and_in_lists():
    text = 'x (docs/method.md, "DBSCAN"). Source: docs/method.md, "k-reciprocal\n    sets" and "Ranks".'
    assert list(_citations(text)) == ["DBSCAN", "k-reciprocal sets", "Ranks"]
    assert list(_citations('// docs/method.md,\n// "Memory\n// update"')) == ["Memory update"]


def test_no_page_that_readers_lack_is_cited():
    cited = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not cited, f"{len(cited)} lines cite a page that is not in the repository:\n" + "\n".join(cited)


def test_the_changelog_has_the_version():
    assert f"\n## [{salcr.__version__}]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_names_software_and_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and "version" not in citation
    assert citation["preferred-citation"]["type"] == "article" and citation["preferred-citation"]["authors"]


def test_the_reference_has_every_operator():
    page = (ROOT / "docs" / "api" / "ops.rst").read_text()
    listed = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", page, re.MULTILINE)
    assert len(listed) == len(set(listed)) and set(listed) == set(ops.__all__), "docs/api/ops.rst"


def _is_there(name: str) -> bool:
    """Whether a dotted name is something of the package, a setting or a section of settings, or of another package."""
    first, *rest = name.split(".")
    if first in Config.model_fields:
        return any(f"{key}.".startswith(f"{name}.") for key in flattened(Config().model_dump()))
    if first != "salcr" and first not in ROOMS:
        return True
    found: Any = salcr
    for part in rest if first == "salcr" else (first, *rest):
        with suppress(ModuleNotFoundError):
            if isinstance(found, ModuleType):
                importlib.import_module(f"{found.__name__}.{part}")
        if not hasattr(found, part):  # salcr._cuda is built where nvcc is; its types are always there
            return found is salcr and (ROOT / f"salcr/{part}.pyi").exists()
        found = getattr(found, part)
    return True


def _links(page: Path) -> Iterator[str]:
    """Targets of the page's links, without those that lead out of the repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(text):
        if not target.startswith(("https://", "http://", "mailto:")):
            yield target


def _resolves(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in {_anchor(heading) for heading in _headings(file)})


def _headings(page: Path) -> list[str]:
    return HEADING.findall(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _method_headings() -> list[str]:
    """Headings of docs/method.md as they are cited: without the numbers of sections."""
    return [re.sub(r"^\d+\. ", "", heading) for heading in _headings(ROOT / "docs" / "method.md")[1:]]


def _citations(text: str) -> Iterator[str]:
    for found in CITATION.findall(_joined(text)):
        yield from re.findall('"([^"]+)"', found)


def _joined(text: str) -> str:
    """A text in one line, without the marks that begin a line of a comment."""
    return re.sub(r"\s*\n\s*(?://|#)?\s*", " ", text)


def _sources() -> list[Path]:
    """Files that hold prose, this one left out."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    top = [path for path in ROOT.iterdir() if path.suffix in SUFFIXES or path.name == "Makefile"]
    return [path for path in sorted({*top, *found}) if path.resolve() != Path(__file__).resolve()]
