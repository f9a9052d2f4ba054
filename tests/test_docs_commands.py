"""The blocks of commands in README and guides work, or fail only because their data are missing.

A block of commands is run as it stands, unless a comment in the line before it has a reason:
`<!-- needs data -->`, `<!-- needs a download -->` or `<!-- needs minutes -->`. The flags of these
commands are checked by calling the script in an empty folder.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from raw_scans import noise, write_scan
from scripts import main_of
from test_docs import DOCS, README, page_name

import fewlabels
from utils.errors import UserError

REPOSITORY = Path(__file__).parents[1]
PAGES = [README, *sorted(DOCS.glob("*.md"))]
QUICK_START = DOCS / "quickstart.md"  # its first block writes a phantom for the others
FENCE = re.compile(r"^```(\w*)$\n.*?^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(
    r"^(?:<!-- needs (?P<need>[a-z ]+) -->\n)?```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"data", "a download", "minutes"}
SELF_CONTAINED = ("python code/make_phantom.py", "python -c ")
COMMAND = re.compile(r"\b(?:code|pancreas)/(?P<script>\w+)\.py(?P<flags>.*)$")
WITH_DATA = re.compile(r"train|test")
MISSING = re.compile(
    r"no such (folder|file|run|checkpoint|plan)|is not a folder|does not exist|no predict\.json"
    r"|package \w+ is not installed"
)
SHORTER = {"--pre_iterations": "4", "--max_iterations": "4", "--val_every": "2"}


class Block(NamedTuple):
    """A block of shell commands, and why it is not run; None if it is run."""

    text: str
    need: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(match["text"], match["need"]) for match in BLOCK.finditer(text)]


def run_blocks(page: Path) -> list[str]:
    """Return the blocks of a page that are run."""
    return [block.text for block in blocks(page) if block.need is None]


def commands_that_are_not_run() -> list[tuple[str, str]]:
    """Return script and flags of every command of ours in the blocks that are not run."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        for block in blocks(page):
            if block.need is None:
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                match = COMMAND.search(line)
                if match:
                    found.append((match["script"], match["flags"]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_are_in_blocks_of_the_language_sh(page):
    text = page.read_text(encoding="utf-8")
    assert set(FENCE.findall(text)) <= {"sh", "python", "bibtex"}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_reason_is_a_known_one(page):
    assert {block.need for block in blocks(page)} <= NEEDS | {None}


@pytest.mark.parametrize("page", sorted({*PAGES} - {QUICK_START}), ids=page_name)
def test_a_block_without_a_reason_needs_no_data(page):
    assert [block for block in run_blocks(page) if not block.startswith(SELF_CONTAINED)] == []


@pytest.mark.parametrize(("script", "flags"), commands_that_are_not_run())
def test_a_command_that_needs_data_is_refused_only_because_they_are_missing(
    script, flags, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.sub(r" docs/", f" {REPOSITORY}/docs/", flags), comments=True)
    if WITH_DATA.search(script) and "--root_path" not in words:
        words += ["--root_path", "DATA"]
    with pytest.raises(UserError, match=MISSING):
        main_of(script)(words)


def with_few_iterations(block: str) -> str:
    for flag, number in SHORTER.items():
        block = re.sub(rf"{flag} \d+", f"{flag} {number}", block)
    return block


def with_our_python(block: str) -> str:
    """Return a block that runs from any folder, with the interpreter of the tests."""
    python = shlex.quote(sys.executable)
    block = re.sub(r"\bpython code/", f"{python} {shlex.quote(str(REPOSITORY))}/code/", block)
    return re.sub(r"^python -c", f"{python} -c", block)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if run_blocks(page)], ids=page_name)
def test_commands_that_need_no_data_work_in_their_order(page, tmp_path):
    for block in run_blocks(page):
        result = subprocess.run(
            ["bash", "-e"],
            input=with_our_python(with_few_iterations(block)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{block}\n{result.stderr}"


def python_blocks(page: Path) -> list[str]:
    return PYTHON_BLOCK.findall(page.read_text(encoding="utf-8"))


def test_the_examples_in_python_predict_with_a_checkpoint_and_with_its_export(
    tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime")
    from_file, from_checkpoint = python_blocks(DOCS / "prediction.md")
    monkeypatch.chdir(tmp_path)
    scan = noise((40, 36, 3))
    write_scan(tmp_path / "scan.nii.gz", scan, (1.5, 1.5, 8.0))
    checkpoint = str(REPOSITORY / "weights" / "acdc_3_labels.pth")
    names: dict[str, Any] = {}
    exec(from_checkpoint.replace('"RUN"', repr(checkpoint)), names)
    assert names["prediction"].labels.shape == scan.shape
    fewlabels.export_model(checkpoint, "onnx", "model.onnx")
    names = {"image": np.zeros((1, 1, 128, 128), np.float32)}
    exec(from_file, names)
    assert names["logits"].shape == (1, 4, 128, 128)
    assert names["about"]["dataset"] == "ACDC"


def test_only_the_guides_with_tests_of_their_own_have_examples_in_python():
    pages = [page.name for page in PAGES if python_blocks(page)]
    assert pages == ["extending.md", "prediction.md"]
