"""The files for contributors are valid, and what they name exists."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from compare_checkpoints import differences

REPOSITORY = Path(__file__).parents[1]
YAML_FILES = sorted(
    [REPOSITORY / ".pre-commit-config.yaml", *(REPOSITORY / ".github").rglob("*.yml")]
)
FORMS = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
PAGES = [
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs" / "decisions").glob("*.md")),
]
DECISIONS = [page for page in PAGES if re.match(r"\d-", page.name)]
FILE = re.compile(r"(?<![\w./-])((?:[\w*-]+/)+[\w*-]+\.(?:py|md|txt|toml))(?![\w/])")
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")


def page_name(page: Path) -> str:
    return page.name


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def make_targets() -> set[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", YAML_FILES, ids=page_name)
def test_yaml_files_hold_a_mapping(path):
    assert isinstance(read_yaml(path), dict)


@pytest.mark.parametrize("path", FORMS, ids=page_name)
def test_fields_of_an_issue_form_have_different_ids(path):
    fields = [item["id"] for item in read_yaml(path)["body"] if item["type"] != "markdown"]
    assert len(fields) > 3
    assert len(fields) == len(set(fields))


def test_the_workflow_runs_the_readmes_test_command_on_the_oldest_and_the_newest_python():
    job = read_yaml(REPOSITORY / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.13"]
    assert job["steps"][-1]["run"] == "make test"
    assert "\nmake test " in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_workflow_calls_make_targets():
    jobs = read_yaml(REPOSITORY / ".github" / "workflows" / "tests.yml")["jobs"]
    commands = [job["steps"][-1]["run"] for job in jobs.values()]
    assert set(commands) <= {f"make {target}" for target in make_targets()}


def test_hooks_use_the_projects_environment():
    repositories = read_yaml(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    for repository in repositories:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["entry"].startswith(".venv/bin/python -m ")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_paths_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    names = set(FILE.findall(text)) | set(FOLDER.findall(text))
    removed = {"utils/phase.py"} if page.name == "CHANGELOG.md" else set()
    missing = [name for name in names - removed if not list(REPOSITORY.glob(name))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_of_a_page_lead_to_a_file_and_a_heading(page):
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_make_targets_that_contributing_names_exist():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^|\s)make (test[\w-]*|demo)", text))
    assert "test-all" in named
    assert named <= make_targets()


def test_markers_that_contributing_names_are_all_that_exist():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    defined = re.findall(r'^    "(\w+): ', settings.partition("markers")[2], re.MULTILINE)
    named = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(named) == sorted(defined)


def test_the_changelog_begins_with_unreleased_changes():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections[0] == "Unreleased"


@pytest.mark.parametrize("page", DECISIONS, ids=page_name)
def test_a_decision_fits_on_a_screen_and_has_four_parts(page):
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Consequences", "Alternatives"]
    assert len(text.splitlines()) <= 50


def test_six_decisions_are_listed():
    text = (REPOSITORY / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert len(DECISIONS) == 6
    for page in DECISIONS:
        assert f"({page.name})" in text


def write_checkpoint(folder: Path, weight: float) -> None:
    content = {
        "student": {"weight": torch.tensor([weight])},
        "phase": {},
        "optimizer": {"state": {}},
        "scaler": {},
        "progress": {"step": 4, "history": [{"step": 4, "score": float("nan")}]},
        "losses": [0.5],
    }
    folder.mkdir()
    torch.save(content, folder / "last.pth")


def test_equal_checkpoints_have_no_differences(tmp_path):
    write_checkpoint(tmp_path / "before", weight=1.0)
    write_checkpoint(tmp_path / "after", weight=1.0)
    assert differences(tmp_path / "before", tmp_path / "after") == []


def test_a_weight_that_changed_is_named(tmp_path):
    write_checkpoint(tmp_path / "before", weight=1.0)
    write_checkpoint(tmp_path / "after", weight=1.0000001)
    lines = differences(tmp_path / "before", tmp_path / "after")
    assert lines == ["last.pth: student/weight differs"]


def test_a_missing_checkpoint_is_a_difference(tmp_path):
    write_checkpoint(tmp_path / "before", weight=1.0)
    (tmp_path / "after").mkdir()
    lines = differences(tmp_path / "before", tmp_path / "after")
    assert lines == ["last.pth: only on one side"]


def dockerfile_arguments(instruction: str) -> list[str]:
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    return re.findall(rf"^{instruction} (.+)$", dockerfile, re.MULTILINE)


def test_the_dockerfile_copies_files_that_exist():
    sources = [
        word
        for arguments in dockerfile_arguments("COPY")
        for word in arguments.split()[:-1]
        if not word.startswith("--")
    ]
    assert sources == ["requirements.txt", "Makefile", "."]
    assert all((REPOSITORY / source).exists() for source in sources)


def test_the_dockerfile_runs_a_target_of_the_makefile():
    (command,) = dockerfile_arguments("CMD")
    assert command == '["make", "demo"]' and "demo" in make_targets()
