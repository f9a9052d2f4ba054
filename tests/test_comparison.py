"""compare.py and report.py: groups, statistics against the plain formulas, the page, and the same
page in a browser.
"""

import errno
import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ACDC, LA
from scipy.stats import wilcoxon
from scripts import compare, report

from commands.test import write_prediction
from dataloaders.cases import read_cases
from evaluation.results import summarise, write_json, write_results
from evaluation.scores import score_case
from evaluation.statistics import bootstrap_interval, mean_sd, wilcoxon_p
from reporting import html_page as page
from reporting.case_pictures import _prediction
from reporting.groups import make_groups
from reporting.tested_run import find_result
from reporting.words import notes
from training.checkpoint import FORMAT
from utils.case import Case
from utils.errors import UserError

SETTINGS = {"method": "bcp", "model": "unet", "labelnum": 3, "egm": "none", "patch_size": [32, 32]}
TEST = Path("test") / "self_train_best_test"  # of a run's folder
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def make_run(
    folder,
    cases,
    predictions,
    names,
    dataset="ACDC",
    seed=1337,
    root=None,
    best="unet_best_model.pth",
    **settings,
):
    """A test's files in <run>/test/self_train_best_test, as the test script writes them."""
    output = folder / TEST
    output.mkdir(parents=True)
    scores = []
    for case, prediction in zip(cases, predictions, strict=True):
        write_prediction(output / f"{case.name}_pred.nii.gz", case, prediction, dataset == "LA")
        scores += score_case(case, prediction, names)
    settings = {
        **SETTINGS,
        "exp": f"{settings.get('method', 'bcp')}_seed{seed}",
        "seed": seed,
        **settings,
    }
    path = folder / "self_train" / best
    rule = "best mean Dice on val.list: 0.5 at iteration 20 of self_train"
    about = {"path": str(path), "sha256": "0" * 64, "selection": rule, "settings": settings}
    summary = {
        "dataset": dataset,
        "split": "test.list",
        "cases": len(cases),
        "root_path": root and str(root),
        "patch_size": [32, 32],
    }
    summary |= {
        **summarise(scores),
        "checkpoint": about,
        "command": "test.py <b>",
        "versions": {"torch": "2.13.0"},
    }
    write_results(output, scores, summary)
    return folder


def trained(folder, info, stage, steps, names):
    """A stage's last.pth that tells how training went."""
    keys = [f"dice_{name.replace(' ', '_')}" for name in names[1:]]
    history = [
        {"step": step, "score": step / 100, "loss": 1 / step, **dict.fromkeys(keys, step / 100)}
        for step in steps
    ]
    progress = {
        "step": steps[-1],
        "validated": steps[-1],
        "best_score": 0.5,
        "best_step": 20,
        "history": history,
    }
    content = {
        "student": {},
        "optimizer": {},
        "settings": SETTINGS,
        "facts": info.plain(),
        "stage": stage,
        "selection": "best",
    }
    (folder / stage).mkdir(parents=True, exist_ok=True)
    torch.save(
        {"format": FORMAT, **content, "progress": progress, "losses": [], "phase": {}},
        folder / stage / "last.pth",
    )


def cubes(count):
    """Cases with a column of 10 voxels; a prediction of `found` of them has the Dice 2 * found /
    (found + 10).
    """
    label = np.zeros((4, 12, 12), np.uint8)
    label[1, 1:11, 5] = 1
    return [
        Case(f"case{i}", np.zeros((1, *label.shape), np.float32), label, (2.0, 1.0, 1.0))
        for i in range(count)
    ]


def found(case, voxels):
    prediction = np.zeros_like(case.label)
    prediction[1, 1 : 1 + voxels, 5] = 1
    return prediction


def dice(voxels):
    return 2 * voxels / (voxels + 10)


@pytest.fixture
def runs(tmp_path):
    """Two methods with two seeds each on four cases: how many of ten voxels each finds."""
    voxels = {
        ("bcp", 1): (4, 5, 6, 7),
        ("bcp", 2): (6, 5, 4, 7),
        ("mean_teacher", 1): (8, 8, 8, 7),
        ("mean_teacher", 2): (8, 10, 8, 0),
    }
    cases = cubes(4)
    return [
        make_run(
            tmp_path / f"{method}_{seed}",
            cases,
            [found(case, n) for case, n in zip(cases, some, strict=True)],
            ("background", "organ"),
            method=method,
            seed=seed,
        )
        for (method, seed), some in voxels.items()
    ]


# statistics


def test_statistics_against_the_plain_formulas():
    differences = np.array([0.1, 0.2, -0.05, 0.3, 0.15])
    generator = np.random.default_rng(7)
    drawn = generator.integers(5, size=(200, 5))
    means = sorted(sum(differences[i] for i in row) / 5 for row in drawn)
    expected = [
        means[int(np.floor(q * 199))]
        + (q * 199 % 1) * (means[int(np.floor(q * 199)) + 1] - means[int(np.floor(q * 199))])
        for q in (0.025, 0.975)
    ]
    assert bootstrap_interval(differences, 7, 200) == pytest.approx(expected, abs=1e-12)
    assert (
        bootstrap_interval(differences, 7, 200)
        == bootstrap_interval(differences, 7, 200)
        != bootstrap_interval(differences, 8, 200)
    )
    # of three patients the first has three cases: drawn are patients, the mean is over their cases
    drawn = np.random.default_rng(7).integers(3, size=(200, 3))
    theirs = [[0.1, 0.2, -0.05], [0.3], [0.15]]
    means = [np.mean([value for i in row for value in theirs[i]]) for row in drawn]
    expected = np.quantile(means, (0.025, 0.975))
    assert bootstrap_interval(differences, 7, 200, patients=list("aaabc")) == pytest.approx(
        expected, abs=1e-12
    )
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(
        2 / 2**5
    )  # the most extreme of 32 signs, both sides
    assert (
        wilcoxon_p([0.0, 0.0]) == 1
        and wilcoxon_p([0, 0.1, 0.2, 0.3]) == wilcoxon([0.1, 0.2, 0.3]).pvalue
    )
    # five patients that differ, all in one direction, among 15 that do not
    assert wilcoxon_p([0.0] * 15 + [0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)
    assert mean_sd([1, 2, 3]) == (2, 1) and mean_sd([4]) == (4, None)


# groups and numbers


def test_figures_over_seeds_and_paired_differences(runs, tmp_path):
    compare(
        [*map(str, runs), "--output", str(tmp_path / "page"), "--no-pictures", "--draws", "500"]
    )
    numbers = json.loads((tmp_path / "page" / "compare.json").read_text(encoding="utf-8"))
    first, second = numbers["groups"]
    assert (first["name"], first["seeds"], second["name"], second["seeds"]) == (
        "BCP",
        [1, 2],
        "mean teacher",
        [1, 2],
    )
    seeds = [np.mean([dice(n) for n in some]) for some in ((4, 5, 6, 7), (6, 5, 4, 7))]
    row = first["figures"]["honest"]["organ"]["dice"]
    assert (
        row["values"] == pytest.approx(seeds)
        and row["mean"] == pytest.approx(np.mean(seeds))
        and row["sd"] == pytest.approx(np.std(seeds, ddof=1))
    )
    assert (
        second["differs"]["method"] == "mean_teacher"
        and "seed" not in second["settings"]
        and "exp" not in second["settings"]
    )
    pairs = [((8, 8), (4, 6)), ((8, 10), (5, 5)), ((8, 8), (6, 4)), ((7, 0), (7, 7))]
    per_case = np.array(
        [
            np.mean([dice(n) for n in theirs]) - np.mean([dice(n) for n in ours])
            for theirs, ours in pairs
        ]
    )
    one = second["against_first"]["honest"]["mean"]["dice"]
    assert one["difference"] == pytest.approx(per_case.mean(), abs=1e-6) and one["cases"] == 4
    assert (one["low"], one["high"]) == pytest.approx(
        bootstrap_interval(per_case, 1337, 500), abs=1e-6
    )
    assert one["p"] == pytest.approx(wilcoxon(per_case).pvalue)
    # the empty prediction is the best distance as published, the image's diagonal honestly:
    # (2 * 4)^2 + 12^2 + 12^2 in mm
    published, honest = (second["figures"][name]["mean"] for name in ("as_published", "honest_mm"))
    assert (
        honest["hd95_mm"]["values"][1]
        > np.sqrt(64 + 144 + 144) / 4
        > published["hd95_voxel"]["values"][1]
    )
    assert {"command", "versions", "date", "bootstrap", "wilcoxon"} <= set(numbers)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert (
        "With only one run" not in page
        and "mean teacher 1 of 8" in page
        and "No curves" in page
        and "omitted by --no_pictures" in page
    )


def test_what_stands_for_a_run(runs):
    """A run's folder, its stage's and its predictions' are the same test; the last checkpoint's has
    a folder of its own.
    """
    run = runs[0]
    trained(run, ACDC, "pre_train", [10, 20], ACDC.class_names)
    trained(run, ACDC, "self_train", [20, 40], ACDC.class_names)
    results = [find_result(place) for place in (run, run / "self_train", run / TEST)]
    assert {result.folder for result in results} == {run / TEST}
    assert (
        list(results[0].stages) == ["pre_train", "self_train"]
        and not results[0].stages["self_train"].weights
    )
    with pytest.raises(UserError, match="pre_train: no test in it"):
        find_result(run / "pre_train")
    with pytest.raises(UserError, match="no test of its last checkpoint in it"):
        find_result(run, "last")
    last = retested(run, run / "test" / "self_train_last_test", "self_train/last.pth")
    assert find_result(run, "last").folder == last
    assert find_result(run).folder == run / TEST
    shutil.copytree(run / TEST, run / "test" / "again")
    with pytest.raises(UserError, match="holds several tests; name one of"):
        find_result(run)


def retested(run, folder, checkpoint):
    """A copy of the run's test as if it were of another checkpoint."""
    shutil.copytree(run / TEST, folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["checkpoint"]["path"] = str(run / checkpoint)
    write_json(folder / "summary.json", summary)
    return folder


def test_of_several_tests_of_a_run_the_test_list_and_the_last_stage_count(runs):
    run = runs[0]
    shutil.copytree(run / TEST, run / "test" / "self_train_best_val")
    retested(run, run / "test" / "pre_train_best_test", "pre_train/unet_best_model.pth")
    shutil.copytree(run / TEST, run / "test" / "self_train_best_test.20260101-120000")
    assert find_result(run).folder == run / TEST


def test_the_test_of_a_kept_network_does_not_stand_for_its_run(runs):
    run = runs[0]
    retested(run, run / "test" / "self_train_validated_600_test", "self_train/validated/600.pth")
    assert find_result(run).folder == run / TEST


def test_tests_of_different_networks_of_a_run_are_two_groups(runs):
    teacher = retested(runs[0], runs[0] / "test" / "teacher", "self_train/unet_best_model.pth")
    change_summary(teacher, network="ema_teacher")
    groups = make_groups([find_result(runs[0] / TEST), find_result(teacher)])
    assert groups[1].differs == {"test_network": "ema_teacher"}


def test_the_network_that_a_method_selects_itself_is_no_setting_of_the_test(runs):
    change_summary(runs[0] / TEST, made_with={"network": "ema_teacher"})
    (group,) = make_groups([find_result(run) for run in runs[:2]])
    assert "test_network" not in group.traits


def test_tests_of_different_files_with_equal_names_are_refused(runs):
    change_summary(runs[0] / TEST, made_with={"data": "aaa"})
    change_summary(runs[1] / TEST, made_with={"data": "bbb"})
    with pytest.raises(UserError, match="the tested files differ from those of"):
        make_groups([find_result(run) for run in runs[:2]])


def change_summary(folder, **values):
    """Change entries of the summary.json in a folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    write_json(folder / "summary.json", summary | values)


def test_results_of_older_runs_are_found_where_they_were(runs):
    run = runs[0]
    (run / TEST).rename(run / "unet_predictions")
    assert find_result(run).folder == run / "unet_predictions"
    (run / "unet_predictions").rename(run / TEST)
    last = retested(run, run / "unet_predictions" / "last", "self_train/last.pth")
    assert find_result(run, "last").folder == last


def test_files_that_do_not_belong_together_are_refused(runs):
    """A full disk or a kill between the two files once left the figures of one test next to the
    means of another.
    """
    for older in (
        False,
        True,
    ):  # a summary of a version that recorded no hash is compared by its means
        first, second = runs[0] / TEST, runs[-1] / TEST
        summary = json.loads((first / "summary.json").read_text(encoding="utf-8"))
        if older:
            del summary["metrics_sha256"]
        write_json(first / "summary.json", summary)
        assert find_result(first).summary == summary
        metrics = (first / "metrics.csv").read_bytes()
        (first / "metrics.csv").write_bytes((second / "metrics.csv").read_bytes())
        with pytest.raises(UserError, match=r"metrics\.csv: does not belong to.*test again"):
            find_result(first)
        (first / "metrics.csv").write_bytes(metrics)


def test_a_full_disk_leaves_the_earlier_page_and_its_numbers(runs, tmp_path, monkeypatch):
    output = tmp_path / "page"
    compare([*map(str, runs[:2]), "--output", str(output), "--no-pictures"])
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def full_disk(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page, "write_page", full_disk)
    with pytest.raises(UserError, match=r"No space left.*--output"):
        compare([*map(str, runs), "--output", str(output), "--no-pictures"])
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_a_picture_of_another_prediction_than_the_one_that_was_scored_is_not_shown(runs):
    summary = json.loads((runs[0] / TEST / "summary.json").read_text(encoding="utf-8"))
    name = find_result(runs[0]).cases[0]
    summary["prediction_sha256"] = {name: "0" * 64}
    write_json(runs[0] / TEST / "summary.json", summary)
    with pytest.raises(UserError, match="has changed since it was scored"):
        _prediction(find_result(runs[0]), name, cubes(1)[0].label.T.shape)


def test_groups_are_told_apart_and_named(runs, tmp_path):
    cases = cubes(4)
    same = [found(case, 3) for case in cases]
    other = make_run(
        tmp_path / "other", cases, same, ("background", "organ"), seed=3, egm="published"
    )
    groups = make_groups([find_result(path) for path in (*runs[:2], other)])
    assert [group.name for group in groups] == ["BCP", "edge-guided BCP, fixed box"]
    assert groups[1].differs == {"egm": "published"}
    assert [
        group.name for group in make_groups([find_result(runs[0]), find_result(other)], ["A", "B"])
    ] == ["A", "B"]
    with pytest.raises(UserError, match="--names: 1 names for 2 groups"):
        make_groups([find_result(runs[0]), find_result(other)], ["A"])
    with pytest.raises(UserError, match="the same settings and seed"):
        make_groups([find_result(runs[0]), find_result(runs[0])])


PREDICTED = {"predicted_with": {"tta": "mirror"}}


@pytest.mark.parametrize(
    "entries, differs",
    [
        ({"interpolation": "linear"}, {"test_interpolation": "linear"}),
        ({"blend": "gaussian"}, {"test_blend": "gaussian"}),
        (PREDICTED, {"predict_tta": "mirror"}),
    ],
)
def test_tests_with_another_arithmetic_are_groups_of_their_own(tmp_path, entries, differs):
    cases = cubes(3)
    same = [found(case, 3) for case in cases]
    results = []
    for seed in (1, 2):
        run = make_run(tmp_path / str(seed), cases, same, ("background", "organ"), seed=seed)
        path = run / TEST / "summary.json"
        summary = json.loads(path.read_text(encoding="utf-8"))
        if seed == 2:
            summary.update(entries)
        path.write_text(json.dumps(summary), encoding="utf-8")
        results.append(find_result(run))
    groups = make_groups(results)
    assert [group.differs for group in groups] == [{}, differs]


def test_a_name_with_a_space_is_that_of_the_prepared_data(tmp_path):
    """code/evaluate.py records the name in dataset.json, and a test that of the prepared data."""
    cases = cubes(3)
    same = [found(case, 3) for case in cases]
    results = []
    for seed, dataset in ((1, "my scans"), (2, "my_scans")):
        names = ("background", "organ")
        run = make_run(tmp_path / str(seed), cases, same, names, seed=seed, dataset=dataset)
        results.append(find_result(run))
    (group,) = make_groups(results)
    assert group.seeds == [1, 2]


def test_runs_of_one_method_are_named_with_their_experiments(tmp_path):
    cases = cubes(4)
    same = [found(case, 3) for case in cases]
    names = ("background", "organ")
    full = {"method": "edge_guided", "egm": "published"}
    wide = make_run(tmp_path / "a", cases, same, names, exp="wide_seed1337", base_lr=0.1, **full)
    slow = make_run(tmp_path / "b", cases, same, names, exp="slow_seed1337", base_lr=0.2, **full)
    groups = make_groups([find_result(wide), find_result(slow)])
    assert [group.name for group in groups] == [
        "edge-guided BCP, dual teacher (wide)",
        "edge-guided BCP, dual teacher (slow)",
    ]


def test_a_page_of_an_edge_guided_run_is_not_called_bcp(tmp_path):
    cases = cubes(3)
    same = [found(case, 3) for case in cases]
    run = make_run(
        tmp_path / "ACDC_BCP_3_labeled",
        cases,
        same,
        ("background", "organ"),
        exp="BCP",
        method="edge_guided",
        egm="published",
    )
    page = tmp_path / "page"
    compare([str(run), "--output", str(page), "--no-pictures", "--draws", "100"])
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "<title>edge-guided BCP, dual teacher on ACDC</title>" in text
    assert "the spread over seeds is not known: edge-guided BCP, dual teacher." in text
    numbers = json.loads((page / "compare.json").read_text(encoding="utf-8"))
    assert numbers["groups"][0]["name"] == "edge-guided BCP, dual teacher"


@pytest.mark.parametrize(
    "select, rule, is_marked",
    [
        ("test", "best mean Dice on test.list", True),
        ("val", "best mean Dice on val.list", False),
        ("last", "the last network of the stage", False),
        (None, "best mean Dice on test.list: its test results are too good", True),
        (None, "best mean Dice on val.list", False),
        ("published", "best mean Dice on test.list: its test results are too good", True),
    ],
)
def test_groups_that_were_selected_on_the_test_list_are_marked(runs, select, rule, is_marked):
    """Older records have no split of the selection, only its rule in words."""
    path = runs[0] / TEST / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["checkpoint"]["selection"] = rule
    if select is not None:
        summary["checkpoint"]["settings"]["select"] = select
    write_json(path, summary)
    lines = notes(make_groups([find_result(runs[0])]))
    assert any("selected on the test list" in line for line in lines) == is_marked


def test_the_last_checkpoint_is_not_marked_as_selected_on_the_test_list(runs):
    last = retested(runs[0], runs[0] / "test" / "self_train_last_test", "self_train/last.pth")
    summary = json.loads((last / "summary.json").read_text(encoding="utf-8"))
    summary["checkpoint"]["settings"]["select"] = "test"
    write_json(last / "summary.json", summary)
    assert not find_result(runs[0], "last").is_selected_on_test


def test_a_page_shows_bytes_of_names_that_are_not_utf8_escaped(runs, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")
    os.rename(runs[0], folder)
    summary = Path(folder) / TEST / "summary.json"
    content = json.loads(summary.read_text())
    content["command"] = f"test.py --output_root {folder}"
    summary.write_text(json.dumps(content))
    page = tmp_path / "page"
    report(["--run", folder, "--output", str(page), "--no-pictures"])
    assert "M\\udcfcller" in (page / "index.html").read_text(encoding="utf-8")


def test_other_test_lists_are_refused(runs, tmp_path):
    cases = cubes(5)
    more = make_run(
        tmp_path / "more",
        cases,
        [found(case, 5) for case in cases],
        ("background", "organ"),
        seed=9,
    )
    with pytest.raises(
        UserError,
        match=r"tested on cases different from .*\(1 differ; case4 is in .*more.* and not in",
    ):
        make_groups([find_result(runs[0]), find_result(more)])
    named = make_run(
        tmp_path / "named",
        cases[:4],
        [found(case, 5) for case in cases[:4]],
        ("background", "liver"),
        seed=9,
    )
    with pytest.raises(UserError, match=r"classes liver, but .* has organ"):
        make_groups([find_result(runs[0]), find_result(named)])
    elsewhere = make_run(
        tmp_path / "elsewhere",
        cases[:4],
        [found(case, 5) for case in cases[:4]],
        ("background", "organ"),
        dataset="LiTS",
        seed=9,
    )
    with pytest.raises(UserError, match=r"a test on LiTS, but .* one on ACDC"):
        make_groups([find_result(runs[0]), find_result(elsewhere)])
    turned = make_run(
        tmp_path / "turned",
        cases[3::-1],
        [found(case, 5 + i) for i, case in enumerate(cases[3::-1])],
        ("background", "organ"),
        seed=9,
    )
    (group,) = make_groups([find_result(runs[0]), find_result(turned)])
    assert group.results[1].values["honest"]["dice"][:, 0] == pytest.approx(
        [dice(n) for n in (8, 7, 6, 5)], abs=1e-6
    )


def test_older_files_without_honest_columns(runs, tmp_path):
    """What was found scores the same in both conventions; of an empty prediction the honest figures
    are not known, and said so.
    """
    for run in runs:
        path = run / TEST / "metrics.csv"
        rows = [line.split(",")[:9] for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
        summary = json.loads((run / TEST / "summary.json").read_text(encoding="utf-8"))
        del summary["metrics_sha256"]
        write_json(run / TEST / "summary.json", summary)
    values = find_result(runs[0]).values["honest"]["dice"][:, 0]
    assert values == pytest.approx([dice(n) for n in (4, 5, 6, 7)], abs=1e-6)
    compare([*map(str, runs), "--output", str(tmp_path / "page"), "--no-pictures"])
    numbers = json.loads((tmp_path / "page" / "compare.json").read_text(encoding="utf-8"))
    differences = numbers["groups"][1]["against_first"]
    assert (
        differences["honest"] is None and differences["as_published"]["mean"]["dice"]["cases"] == 4
    )
    assert "test again to see penalised differences" in (
        tmp_path / "page" / "index.html"
    ).read_text(encoding="utf-8")


# the page


class Page(HTMLParser):
    """What a page holds: its tags with their attributes."""

    def __init__(self, path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def all_datasets(phantom_root, la_root, tmp_path_factory):
    """A comparison in 2-D with pictures and curves, and the report of a run in 3-D."""
    tmp_path = tmp_path_factory.mktemp("pages")
    heart, atrium = read_cases(ACDC, phantom_root, "test"), read_cases(LA, la_root, "test")
    runs = []
    for method, seed, step in (("bcp", 1, 2), ("bcp", 2, 3), ("mean_teacher", 1, 1)):
        moved = [np.roll(case.label, step, 2) for case in heart]
        run = make_run(
            tmp_path / f"{method}{seed}",
            heart,
            moved,
            ACDC.class_names,
            seed=seed,
            root=phantom_root,
            method=method,
        )
        for stage, steps in (("pre_train", [10, 20]), ("self_train", [20, 40])):
            trained(run, ACDC, stage, steps, ACDC.class_names)
        runs.append(run)
    compare([*map(str, runs), "--output", str(tmp_path / "compare")])
    moved = [np.roll(case.label, 2, 0) for case in atrium]
    run = make_run(tmp_path / "la", atrium, moved, LA.class_names, dataset="LA", root=la_root)
    trained(run, LA, "self_train", [20, 40], LA.class_names)
    report(["--run", str(run), "--output", str(tmp_path / "report")])
    return tmp_path / "compare" / "index.html", tmp_path / "report" / "index.html"


def test_the_page_needs_nothing_else_and_can_be_heard(all_datasets):
    for path, pictures, plots in (
        (all_datasets[0], 2 * 4, 2 + 4 + 2),
        (all_datasets[1], 2 * 2 * 3, 1 + 2),
    ):
        page, text = Page(path), path.read_text(encoding="utf-8")
        assert (
            not page.of("script")
            and not re.search(r"""(src|href)\s*=\s*["'](?!data:)[^"']*[:/]""", text)
            and "url(" not in text
        )
        assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}
        images = page.of("img")
        assert len(images) == pictures and all(
            len(one["alt"]) > 10 and one["src"].startswith("data:image/jpeg;base64,")
            for one in images
        )
        assert all(one.get("scope") for one in page.of("th")) and len(page.of("caption")) == len(
            page.of("table")
        )
        drawn = [one for one in page.of("svg") if one.get("role") == "img"]
        assert len(drawn) == plots and all(one["aria-label"] for one in drawn)
        assert (
            page.of("html")[0]["lang"] == "en"
            and page.of("meta")[1]["content"] == "width=device-width, initial-scale=1"
        )
        assert (
            "test.py &lt;b&gt;" in text
            and "best mean Dice on val.list" in text
            and "torch 2.13.0" in text
        )
        assert path.stat().st_size < 2_000_000


def test_colours_can_be_told_from_the_paper(all_datasets):
    """WCAG: letters at least 4.5 to 1, marks at least 3 to 1, by day and by night."""
    themes = re.findall(r":root \{ (--paper.*?) \}", all_datasets[0].read_text(encoding="utf-8"))
    assert len(themes) == 2
    for theme in themes:
        colours = {name: luminance(value) for name, value in re.findall(r"--(\w+): #(\w+);", theme)}
        for paper in ("paper", "card"):
            for name, least in [("ink", 7), ("soft", 4.5), *((f"c{i}", 3) for i in range(6))]:
                light, dark = max(colours[name], colours[paper]), min(colours[name], colours[paper])
                assert (light + 0.05) / (dark + 0.05) >= least, (name, paper)


def luminance(value):
    value = "".join(c * 2 for c in value) if len(value) == 3 else value
    channels = [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
    )


@pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed to look at the page with")
def test_the_page_in_a_browser(all_datasets, tmp_path):
    """At 320 px it is no wider than the screen, every picture is there, no text of a plot is cut,
    and tables scroll in their own boxes.
    """
    frames = "".join(
        f'<iframe width="{width}" height="800" srcdoc="{html.escape(path.read_text(encoding="utf-8"))}"></iframe>'
        for path in all_datasets
        for width in (320, 1280)
    )
    look = """<script>onload = () => { document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
        const page = frame.contentDocument, root = page.documentElement, boxes = [...page.querySelectorAll(".scroll")];
        return {width: root.scrollWidth, screen: root.clientWidth, boxes: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
                pictures: [...page.images].map(image => { image.loading = "eager"; return image.complete && image.naturalWidth; }),
                letters: Math.min(...[...page.querySelectorAll("figure svg text")].map(text => text.getBoundingClientRect().height)),
                cut: [...page.querySelectorAll("figure svg text")].filter(text => {
                    const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
                    return inner.left < outer.left || inner.right > outer.right || inner.bottom > outer.bottom;
                }).map(text => text.textContent)};
    })); }</script>"""
    wrapper = tmp_path / "frames.html"
    wrapper.write_text(
        f"<!DOCTYPE html><body>{frames.replace('loading=&quot;lazy&quot;', '')}{look}",
        encoding="utf-8",
    )
    flags = (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
    )
    flags += (
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}",
        "dump-dom",
        "virtual-time-budget=10000",
    )
    done = subprocess.run(
        [CHROMIUM, *(f"--{flag}" for flag in flags), wrapper.as_uri()],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))
    assert len(seen) == 4
    for one, width in zip(seen, (320, 1280, 320, 1280), strict=True):
        assert (
            one["width"] == one["screen"] <= width
            and one["boxes"] >= (width == 320)
            and one["letters"] > 9
        ), one
        assert one["pictures"] and all(one["pictures"])
        assert one["cut"] == []
