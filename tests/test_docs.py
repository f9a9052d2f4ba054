"""README and guides: limits, links, navigation, and the commands that they show."""

import re
import shlex
import subprocess
import sys
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
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS_OF_CODE = (
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
SHORTER = {"--pre_iterations": "4", "--max_iterations": "4", "--val_every": "2"}


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
    text = README.read_text(encoding="utf-8")
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


def runnable(page: Path) -> list[str]:
    """Return the shell blocks of a page that need no data: all of the quick start, elsewhere those
    that begin with a phantom.
    """
    blocks = SHELL_BLOCK.findall(page.read_text(encoding="utf-8"))
    if page.name == "quickstart.md":
        return blocks
    return [block for block in blocks if block.startswith("python code/make_phantom.py")]


def with_few_iterations(block: str) -> str:
    for flag, number in SHORTER.items():
        block = re.sub(rf"{flag} \d+", f"{flag} {number}", block)
    return block


@pytest.mark.long
@pytest.mark.parametrize("page", ["quickstart.md", "training.md", "benchmark.md"])
def test_commands_that_need_no_data_work_in_their_order(page, tmp_path):
    blocks = runnable(DOCS / page)
    assert blocks
    python = shlex.quote(sys.executable)
    for block in blocks:
        result = subprocess.run(
            ["bash", "-e"],
            input=with_few_iterations(block).replace(
                "python code/", f"{python} {REPOSITORY}/code/"
            ),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{block}\n{result.stderr}"


@pytest.mark.parametrize("page", ["training.md", "benchmark.md"])
@pytest.mark.parametrize("status, requeued", [(143, ["requeue 7"]), (0, []), (2, [])])
def test_a_job_script_is_queued_again_after_sigterm_only(page, status, requeued):
    """The cluster's programs are replaced: `srun` ends with the status of the training."""
    blocks = SHELL_BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    (script,) = [block for block in blocks if block.startswith("#!/bin/bash")]
    replaced = f"srun() {{ return {status}; }}\nscontrol() {{ echo $*; }}\nSLURM_JOB_ID=7\n"
    result = subprocess.run(
        ["bash"], input=replaced + script, capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines() == requeued
    assert result.returncode == status
