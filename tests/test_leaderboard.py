"""The leaderboard of hand-made records: means, differences, corrected p values, ranks, messages."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands.leaderboard import LeaderboardSettings, read_costs
from commands.leaderboard import run as make_leaderboard
from evaluation.results import EvaluationResult, write_json
from evaluation.scores import score_masks
from evaluation.statistics import holm
from reporting import leaderboard_text as text
from reporting.leaderboard import complete_seeds, leaderboard
from reporting.leaderboard_table import Bootstrap
from reporting.plots import Column, Intervals, plot_cases, plot_intervals, span
from reporting.record import CellRecord, CellTest, read_record, read_records
from reporting.record import tested as recorded_test
from reporting.scores import PairedDifference
from utils.errors import UserError

CASES = ["patient001_frame01", "patient001_frame02", "patient002_frame01", "patient002_frame02"]
BOOTSTRAP = Bootstrap(seed=1, draws=200, rank_draws=100)


def cell_test(dice, hd95=2.0, iteration=10):
    """A test of two classes on four cases: `dice` per case, the second class 0.2 lower."""
    return CellTest(
        iteration=iteration,
        selection="best mean Dice on val.list",
        sha256="0" * 64,
        split="test.list",
        cases=CASES,
        classes=["a", "b"],
        values={
            "dice": [[value, value - 0.2] for value in dice],
            "hd95_voxel": [[hd95, hd95] for _ in dice],
        },
        empty_predictions=0,
    )


def record(method, seed, dice, **values):
    return CellRecord(
        dataset="ACDC",
        method=method,
        labelnum=3,
        seed=seed,
        options={"method": method, "seed": seed, "exp": f"{method}_seed{seed}", "base_lr": 0.01},
        stages=[{"name": "self_train", "iterations": 20, "best_iteration": 10, "history": []}],
        seconds=1.0,
        tests={"best": cell_test(dice, **values)},
        trained_commit="abc",
        about={"git_commit": "abd"},
    )


@pytest.fixture
def records():
    return [
        record("bcp", 1, [0.5, 0.5, 0.6, 0.6]),
        record("bcp", 2, [0.7, 0.7, 0.8, 0.8]),
        record("ua_mt", 1, [0.6, 0.6, 0.6, 0.6]),
        record("ua_mt", 2, [0.8, 0.8, 0.8, 0.8]),
        record("cps", 1, [0.3, 0.3, 0.3, 0.3]),
    ]


@pytest.fixture
def table(records):
    (table,) = leaderboard(records, "bcp", BOOTSTRAP, costs={"cps": {"time": 2.0}}).tables
    return table


def test_methods_are_ordered_by_their_mean_dice(table):
    assert [row.method for row in table.rows] == ["ua_mt", "bcp", "cps"]


def test_a_score_is_the_mean_over_cases_classes_and_seeds(table):
    dice = table.rows[1].scores["dice"]  # (0.45 + 0.65) / 2
    assert dice.mean == pytest.approx(0.55)
    assert dice.values == pytest.approx([0.45, 0.65])
    assert dice.sd == pytest.approx(0.2 / 2**0.5)


def test_class_means_are_over_cases_and_seeds(table):
    assert table.rows[1].classes == pytest.approx({"a": 0.65, "b": 0.45})


def test_the_difference_to_the_baseline_is_paired_by_case(table):
    """By patient 0.1 and 0; drawing two patients gives means of 0, 0.05 and 0.1."""
    difference = table.rows[0].difference
    assert difference.difference == pytest.approx(0.05)
    assert (difference.low, difference.high) == pytest.approx((0.0, 0.1))
    assert table.rows[1].difference is None


def test_p_values_of_a_table_are_corrected_together(table):
    raw = [row.difference.p for row in table.rows if row.difference is not None]
    corrected = [row.p_holm for row in table.rows if row.difference is not None]
    assert corrected == holm(raw)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_worst_method_is_last_in_every_draw(table):
    ranks = table.rows[2].ranks
    assert (ranks.low, ranks.high, ranks.first) == (3, 3, 0)


def test_equal_methods_share_their_rank():
    both = [record("bcp", 1, [0.5] * 4), record("cps", 1, [0.5] * 4)]
    (table,) = leaderboard(both, "bcp", BOOTSTRAP, costs={}).tables
    assert [row.ranks.first for row in table.rows] == [1, 1]


def test_costs_appear_in_their_columns(table):
    assert text.head(table)[-3:] == ["step time", "passes", "memory"]
    assert text.cells(table, table.rows[2])[-3:] == ["2.0", "", ""]


def test_the_plot_of_differences_names_its_reference_and_every_method():
    interval = PairedDifference(0.1, low=0.0, high=0.2, p=0.5, cases=2, patients=2)
    plot = plot_intervals(
        "Dice",
        ["averaged copy-paste", "edge-guided BCP, dual teacher"],
        groups=[Intervals(0, "BCP", differences=[interval, interval])],
        reference="BCP",
    )
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg())
    long_name = {"edge-guided BCP, dual", "teacher"}
    assert {"averaged copy-paste", "difference to BCP"} | long_name <= set(texts)


def test_the_ticks_of_a_plot_have_room():
    """Its longest tick has seven characters, each at most 8 wide."""
    names = ["a", "b"]
    plot = plot_cases("Dice", names, [Column("x", [0.77751, 0.77754])])
    (tick, *_) = re.findall(r'<text x="([\d.]+)"[^>]*anchor="end"[^>]*>0\.7775\d+<', plot.svg())
    assert float(tick) >= 7 * 8


def test_a_table_names_the_iterations_of_each_method(records):
    for number, one in enumerate(records):
        one.stages = [{"name": "train", "iterations": 20 + 10 * (number == 4)}]
    (table,) = leaderboard(records, "bcp", BOOTSTRAP, costs={}).tables
    assert text.trained(table) == "Iterations of training: 20 (UA-MT, BCP); 30 (CPS)."


def test_a_table_without_the_baseline_is_compared_with_its_best_method(records):
    others = [one for one in records if one.method != "bcp"]
    (table,) = leaderboard(others, "bcp", BOOTSTRAP, costs={}).tables
    assert table.baseline == "ua_mt"


def test_distances_are_shown_in_voxels_unless_all_tests_have_them_in_mm(table):
    assert (table.unit, [metric.key for metric in table.metrics]) == (
        "voxel",
        ["dice", "hd95_voxel"],
    )


def test_a_selection_that_a_cell_lacks_drops_the_method_from_that_table(records):
    records[0].tests["last"] = cell_test([0.5] * 4)
    records[1].tests["last"] = cell_test([0.5] * 4)
    records[2].tests["last"] = cell_test([0.5] * 4)
    board = leaderboard(records, "bcp", BOOTSTRAP, costs={})
    assert [(one.selection, len(one.rows)) for one in board.tables] == [("best", 3), ("last", 1)]
    assert board.missing == ["ua_mt_3_seed2 (last checkpoint)"]


def test_seeds_that_were_trained_differently_are_refused(records):
    records[1].options["base_lr"] = 0.05
    with pytest.raises(UserError, match=r"bcp: seeds 1 and 2 .* --base_lr 0.01 and 0.05"):
        leaderboard(records, "bcp", BOOTSTRAP, costs={})


def test_a_record_named_twice_is_refused(records):
    with pytest.raises(UserError, match="bcp, 3 labels, seed 1: there are two records"):
        leaderboard([*records, records[0]], "bcp", BOOTSTRAP, costs={})


def test_cells_with_different_test_cases_are_refused(records):
    records[4].tests["best"] = replace(records[4].tests["best"], cases=[*CASES[:3], "patient009"])
    with pytest.raises(UserError, match="cps, seed 1: the tested cases or classes differ"):
        leaderboard(records, "bcp", BOOTSTRAP, costs={})


def test_every_record_must_have_the_same_classes(records):
    records[1].tests["best"] = replace(records[1].tests["best"], classes=["b", "a"])
    with pytest.raises(UserError, match="bcp, seed 2: the tested cases or classes differ"):
        leaderboard(records, "bcp", BOOTSTRAP, costs={})


def test_tests_on_different_lists_are_refused(records):
    records[1].tests["best"] = replace(records[1].tests["best"], split="val.list")
    with pytest.raises(UserError, match="bcp, seed 2: the tested cases or classes differ"):
        leaderboard(records, "bcp", BOOTSTRAP, costs={})


def test_seeds_with_stages_of_different_lengths_are_refused(records):
    records[1].stages[0]["iterations"] = 40
    with pytest.raises(UserError, match="bcp: seeds 1 and 2 were trained with different stages"):
        leaderboard(records, "bcp", BOOTSTRAP, costs={})


def test_methods_with_different_protocols_are_noted(records):
    for one in records:
        one.options["patch_size"] = [128, 128]
    records[4].options["patch_size"] = [256, 256]
    board = leaderboard(records, "bcp", BOOTSTRAP, costs={})
    assert board.notes[0] == (
        "The runs differ in --patch_size: [128, 128] (BCP, UA-MT); [256, 256] (CPS)."
    )


def test_tests_of_different_files_are_noted(records):
    for one, data in zip(records, "aaaab", strict=True):
        one.tests["best"] = replace(one.tests["best"], data=data)
    board = leaderboard(records, "bcp", BOOTSTRAP, costs={})
    assert board.notes[0].startswith("The test files of some runs differ")


def test_methods_with_one_seed_are_noted(records):
    (note,) = leaderboard(records, "bcp", BOOTSTRAP, costs={}).notes
    assert note.startswith("Only one seed: CPS.")


def test_costs_are_relative_to_the_baseline(records):
    costs = {"bcp": {"time": 2.0}, "cps": {"time": 5.0}}
    (table,) = leaderboard(records, "bcp", BOOTSTRAP, costs).tables
    assert [row.cost.get("time") for row in table.rows] == [None, 1.0, 2.5]


def test_distances_in_mm_are_recorded_only_if_every_case_has_a_spacing():
    square = np.zeros((8, 8), bool)
    square[2:5, 2:5] = True
    scores = (
        score_masks("c1", "a", prediction=square, truth=square, spacing=(2.0, 2.0)),
        score_masks("c2", "a", prediction=square, truth=square, spacing=None),
    )
    summary = {
        "checkpoint": {"selection": "best", "sha256": "0"},
        "split": "test.list",
        "honest": {"empty_predictions": 0},
        "made_with": {"data": "d"},
    }
    values = recorded_test(EvaluationResult(Path("out"), scores, summary), iteration=1).values
    assert "hd95_voxel" in values and "hd95_mm" not in values


def fold_record(method, fold, cases, dice):
    """A record of one of two folds, which tests `cases`."""
    one = record(method, 1, dice)
    tests = {"best": replace(one.tests["best"], cases=cases)}
    return replace(one, fold=fold, folds=2, tests=tests)


@pytest.fixture
def folds():
    """Fold 0 tests three of the four cases, fold 1 the last one."""
    return [
        fold_record("bcp", 1, cases=CASES[3:], dice=[0.9]),
        fold_record("bcp", 0, cases=CASES[:3], dice=[0.5, 0.5, 0.5]),
        fold_record("ua_mt", 0, cases=CASES[:3], dice=[0.6, 0.6, 0.9]),
        fold_record("ua_mt", 1, cases=CASES[3:], dice=[0.7]),
    ]


def test_the_score_of_joined_folds_is_the_mean_over_all_cases(folds):
    """Dice of the classes: (3 * 0.5 + 0.9) / 4 = 0.6 and 0.2 less; not the mean of two folds."""
    (table,) = leaderboard(folds, "bcp", BOOTSTRAP, costs={}).tables
    row = table.rows[1]
    assert (row.method, row.seeds) == ("bcp", [1])
    assert row.scores["dice"].values == pytest.approx([0.5])
    assert row.classes == pytest.approx({"a": 0.6, "b": 0.4})


def test_the_difference_of_joined_folds_is_paired_over_all_cases(folds):
    """By case 0.1, 0.1, 0.4 and -0.2: patients have means of 0.1 and 0.1."""
    (table,) = leaderboard(folds, "bcp", BOOTSTRAP, costs={}).tables
    difference = table.rows[0].difference
    assert difference.difference == pytest.approx(0.1)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))
    assert (table.cases, table.patients, table.folds) == (4, 2, 2)


def test_the_caption_of_joined_folds_names_their_number(folds):
    (table,) = leaderboard(folds, "bcp", BOOTSTRAP, costs={}).tables
    assert text.caption(table) == "ACDC, 3 labelled, 2 folds, selected on the validation list"


def test_a_seed_that_lacks_a_fold_is_skipped_and_named(folds):
    complete, missing = complete_seeds(folds[:3])
    assert complete == folds[:2]
    assert missing == ["ua_mt_3_seed1 (1 of 2 folds)"]


def test_records_of_one_fold_make_no_leaderboard(folds, tmp_path):
    path = tmp_path / "one.json"
    write_json(path, folds[0].plain())
    with pytest.raises(UserError, match=r"bcp_3_seed1 \(1 of 2 folds\); name the folders"):
        make_leaderboard(LeaderboardSettings((path,), output=tmp_path / "again"))


def test_folds_that_were_changed_between_runs_are_refused():
    both = [
        fold_record("bcp", 0, cases=CASES[:2], dice=[0.5, 0.5]),
        fold_record("bcp", 1, cases=CASES[1:], dice=[0.5, 0.5, 0.5]),
    ]
    with pytest.raises(UserError, match="bcp: two folds tested the same case"):
        leaderboard(both, "bcp", BOOTSTRAP, costs={})


def test_methods_with_different_divisions_into_folds_are_refused(folds):
    folds[2:] = [
        fold_record("ua_mt", 0, cases=CASES[2:], dice=[0.5, 0.5]),
        fold_record("ua_mt", 1, cases=CASES[:2], dice=[0.5, 0.5]),
    ]
    with pytest.raises(UserError, match="ua_mt, seed 1: the tested cases or classes differ"):
        leaderboard(folds, "bcp", BOOTSTRAP, costs={})


def test_records_of_folds_and_of_the_test_list_are_not_joined(folds):
    with pytest.raises(UserError, match="bcp: records of 2 and of 0 folds"):
        leaderboard([folds[1], record("bcp", 2, [0.5] * 4)], "bcp", BOOTSTRAP, costs={})


def test_a_record_is_read_as_it_was_written(records, tmp_path):
    path = tmp_path / "cell.json"
    write_json(path, records[0].plain())
    assert read_record(path) == records[0]


def test_a_path_that_does_not_exist_is_named_as_missing(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: does not exist; name the records"):
        read_records([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"format": "x"}', '{"format": "fewlabels-cell/1"}']
)
def test_a_damaged_record_is_one_line(content, tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"cell.json: not a record of a benchmark"):
        read_record(path)


def test_records_alone_make_the_same_files_again(records, tmp_path):
    (tmp_path / "records").mkdir()
    for one in records:
        name = f"{one.method}_{one.labelnum}_seed{one.seed}.json"
        write_json(tmp_path / "records" / name, one.plain())
    results = []
    for name in ("first", "second"):
        settings = LeaderboardSettings((tmp_path / "records",), tmp_path / name)
        results.append(make_leaderboard(settings))
    first, second = results
    assert first.file.read_bytes() == second.file.read_bytes()
    assert first.markdown.read_text().splitlines()[0] == (
        "### ACDC, 3 labelled, selected on the validation list"
    )
    assert "UA-MT" in first.page.read_text()


def test_costs_that_cannot_be_read_are_one_line(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"methods": {"bcp": {"time": "slow"}}}))
    with pytest.raises(UserError, match=r"--costs .*costs.json: not readable"):
        read_costs(path)


def test_the_file_has_the_keys_that_its_readers_know(records):
    content = leaderboard(records, "bcp", BOOTSTRAP, costs={}, missing=["cps_3_seed2"]).plain()
    (table,) = content["tables"]
    first, baseline, _ = table["rows"]
    assert content["missing"] == ["cps_3_seed2"]
    assert list(first) == [
        *("method", "title", "seeds", "iterations", "selected_at", "empty_predictions"),
        *("scores", "classes", "ranks", "cost", "difference"),
    ]
    assert list(first["difference"]) == [
        *("difference", "low", "high", "p", "cases", "patients", "p_holm")
    ]
    assert list(baseline) == [name for name in first if name != "difference"]
    assert [*table["first_to_second"], "p_holm"] == list(first["difference"])


def test_a_table_of_one_method_compares_nothing(records):
    (table,) = leaderboard(records[:2], "bcp", BOOTSTRAP, costs={}).tables
    assert text.first_to_second(table) == "Only one method."
    assert "first_to_second" not in table.plain()


@pytest.mark.parametrize(
    "values, limits",
    [([0, 0], (-0.05, 1.05)), ([2, 2], (1.9, 2.1)), ([1, 3], (0.9, 3.1)), ([math.nan], (0, 1))],
)
def test_an_axis_is_as_wide_as_its_values_and_never_empty(values, limits):
    assert span(values) == pytest.approx(limits)
