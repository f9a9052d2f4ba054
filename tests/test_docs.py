"""README and guides: limits, links, navigation, and the names in the commands that they show."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_contributor_files import anchors
from test_plain_words import PATTERN

from docs.pictures.hd95 import masks
from evaluation.masks import mask_pair
from evaluation.metrics import hd95, hd95_max

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
GUIDES = [page for page in PAGES if page.parent.name not in ("results", "decisions")]
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS_OF_CODE = (
    "benchmarks",
    "code",
    "commands",
    "datasets",
    "evaluation",
    "methods",
    "networks",
    "registration",
    "training",
)
OPTION = re.compile(r"^    (\w+): |\"--(\w+)\"", re.MULTILINE)


def page_name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def navigation(entries) -> list[str]:
    """Return the pages of mkdocs.yml's nav."""
    if isinstance(entries, str):
        return [entries]
    if isinstance(entries, dict):
        entries = list(entries.values())
    pages = []
    for entry in entries:
        pages += navigation(entry)
    return pages


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks that start one of our programs."""
    lines = []
    for block in SHELL_BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"(code|pancreas|benchmarks)/\w+\.(py|sh)", line):
                lines.append(line.strip())
    return lines


def test_the_readme_has_at_most_1200_words_and_160_lines():
    text = COMMENT.sub("", README.read_text(encoding="utf-8"))
    assert len(text.split()) <= 1200
    assert len(text.splitlines()) <= 160


def test_no_line_of_the_readme_has_more_than_200_characters():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 200] == []


def test_every_page_is_in_the_navigation_once():
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert sorted(navigation(settings["nav"])) == sorted(pages)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_a_file_and_a_heading(page):
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_readme_and_guides_use_plain_words(page):
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert [match.group() for match in PATTERN.finditer(prose)] == []


@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_commands_name_scripts_that_exist(page):
    for command in commands(page):
        (script,) = set(re.findall(r"((?:code|pancreas|benchmarks)/\w+\.(?:py|sh))", command))
        assert (REPOSITORY / script).is_file(), command


def test_flags_in_commands_are_options():
    options = {"workers", "report_against_truth", "help"}
    for folder in FOLDERS_OF_CODE:
        for path in (REPOSITORY / folder).rglob("*.py"):
            for pair in OPTION.findall(path.read_text(encoding="utf-8")):
                options.update(pair)
    unknown = []
    for page in GUIDES:
        for command in commands(page):
            if "torchrun" in command or "docker run" in command:
                command = command[command.index("code/") :]
            for flag in re.findall(r" --([a-z]\w*)", command):
                if flag.removeprefix("no_") not in options:
                    unknown.append(f"{page.name}: --{flag}")
    assert unknown == []


def test_the_picture_of_both_hd95_shows_the_numbers_in_the_text():
    pair = mask_pair(*masks())
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    assert f"HD95 {hd95(pair):.1f}, HD95 max {hd95_max(pair):.1f} voxels" in text
    assert f"{np.mean(pair.to_truth > 0):.0%}".replace("%", " %") in text
