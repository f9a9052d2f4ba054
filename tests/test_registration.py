"""Coarse labels from two annotated slices: what is carried, what is read, what is written, and what
a user can do wrong.
"""

import csv
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from forked import Forked
from helpers import KITS19, LA, LITS
from scipy.ndimage import gaussian_filter
from scripts import register

from commands import register as program
from dataloaders.coarse import Annotation, coarse_path, read_annotation, read_coarse, training_label
from registration import label_report as report
from registration import propagation as registration
from registration.coarse_labels import (
    AnnotatedCase,
    assemble,
    directions,
    early_end_warnings,
    extent_row,
)
from registration.label_report import COLUMNS, TRUTH_COLUMNS
from registration.propagation import carry, fuse, open_close, scale_255, signed_distance, slice_map
from registration.settings import RegistrationSettings
from utils.cli import parse
from utils.errors import UserError

SHAPE = (32, 22, 20)
CASES = ("first", "second")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero((a > 0) & (b > 0)) / (np.count_nonzero(a) + np.count_nonzero(b))


def disc(middle: tuple[float, float], radius: float, shape=(40, 36)) -> np.ndarray:
    row, column = np.indices(shape)
    return (row - middle[0]) ** 2 + (column - middle[1]) ** 2 < radius**2


def moving_disc(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks (n, 40, 36) of a disc that moves by two rows per slice, with the ground
    under it; each slice has its own noise.
    """
    mask = np.concatenate([np.zeros((20, 36), bool), disc((14, 17), 8), np.zeros((20, 36), bool)])
    image = looks(mask)
    windows = [slice(20 - 2 * k, 60 - 2 * k) for k in range(n)]
    noise = np.random.default_rng(0).normal(size=(n, 40, 36))
    return np.stack([image[w] for w in windows]) + noise.astype(np.float32), np.stack(
        [mask[w] for w in windows]
    )


def looks(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """An image of a mask: bright inside, over a ground that is uneven and noisy."""
    random = np.random.default_rng(seed)
    return scale_255(
        gaussian_filter(
            200.0 * mask
            + 40 * gaussian_filter(random.normal(size=mask.shape), 3)
            + random.normal(size=mask.shape),
            0.7,
        )
    )


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume (32, 22, 20) with an ellipsoid whose middle lies on the volume's middle slices, and
    its label.
    """
    grid = np.indices(SHAPE, np.float32)
    middle, radius = (16 + seed % 3, 11, 10), (10, 7.5, 7)
    label = sum(((axis - m) / r) ** 2 for axis, m, r in zip(grid, middle, radius, strict=True)) < 1
    return looks(label, seed).astype(np.float32), label.astype(np.uint8)


def write(path: Path, image: np.ndarray, label: np.ndarray, **attributes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label
        file.attrs.update(attributes)
    return path


def build(root: Path) -> Path:
    """An LA folder whose labels hold 255, no class at all, everywhere but on the two annotated
    slices and one more.
    """
    for seed, name in enumerate(CASES):
        image, label = ball(seed)
        sparse = np.full_like(label, 255)
        sparse[:, 11], sparse[..., 10], sparse[..., 9] = label[:, 11], label[..., 10], label[..., 9]
        write(LA.path(root, name), image, sparse, spacing=[1.0, 1.0, 2.0])
    (root / "train.list").write_text("\n".join(CASES) + "\n")
    return root


def flags(root: Path, *more: str) -> list[str]:
    return [
        "--dataset",
        "LA",
        "--labelnum",
        "2",
        "--planes",
        "middle",
        "middle",
        "--root_path",
        str(root),
        "--workers",
        "1",
        *more,
    ]


def files(root: Path) -> list[Path]:
    return [
        path
        for name in CASES
        for plane in (0, 1)
        for path in [coarse_path(LA.path(root, name), plane)]
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder after one run. To be read only."""
    root = build(tmp_path_factory.mktemp("made"))
    register(flags(root, "--workers", "2"))
    return root


# --- what is carried


def test_opening_and_closing_by_hand():
    mask, expected = np.zeros((14, 20), bool), np.zeros((14, 20), bool)
    mask[:3, :5] = expected[:3, :5] = (
        True  # at the border outside counts as neither: three rows are enough
    )
    mask[5:9, 1:6] = True  # four rows inside are not
    mask[5:10, 8:13] = mask[5:10, 15:20] = True  # two squares two apart: closing joins them
    expected[5:10, 8:20] = True
    np.testing.assert_array_equal(open_close(mask), expected)


def test_a_moving_disc_is_followed():
    slices, truth = moving_disc(5)
    got = carry(slices, truth[0].astype(np.uint8))
    assert got.label.dtype == np.uint8 and got.failed == 0
    assert all(dice(got.label[k], truth[k]) > 0.85 for k in range(5))
    assert dice(truth[0], truth[4]) < 0.4  # which is what the label would be worth if it had stayed


def test_the_map_is_the_movement_and_repeats():
    slices, _ = moving_disc(2)
    places = slice_map(slices[1], slices[0])
    moved = (places - np.indices(places.shape[1:]))[:, 12:20, 13:21].mean((1, 2))
    np.testing.assert_allclose(moved, (-2, 0), atol=0.5)
    np.testing.assert_array_equal(places, slice_map(slices[1], slices[0]))


def test_syn_with_a_rigid_stage():
    slices, truth = moving_disc(2)
    assert dice(carry(slices, truth[0], "SyNRA").label[1], truth[1]) > 0.85


def test_intensities_are_scaled_to_0_255():
    scaled = scale_255(np.array([[-1, 0], [1, 3]], np.int16))
    assert scaled.dtype == np.float32 and scaled.tolist() == [[0, 63.75], [127.5, 255]]
    assert not scale_255(np.full((3, 3), 7.0)).any()
    assert scale_255(np.array([-1, 0, 1, 3]), whole=True).tolist() == [
        0,
        64,
        128,
        255,
    ]  # as in the published pictures of 8 bits


def test_nothing_is_registered_after_the_label_vanished(monkeypatch):
    calls = []

    def counted(fixed, moving, **_):
        calls.append(1)
        return np.indices(fixed.shape, np.float32)

    monkeypatch.setattr(registration, "slice_map", counted)
    got = carry(
        np.zeros((6, 40, 36), np.float32), disc((14, 17), 2)
    )  # 3x3 pixels do not survive the opening
    assert len(calls) == 1 and got.label[0].any() and not got.label[1:].any()


def test_a_slice_of_one_value_is_passed_over():
    truth = np.stack([disc((20, 17), 8)] * 4)
    slices = np.stack([looks(truth[0])] * 4)
    slices[2] = 7
    got = carry(slices, truth[0])
    assert got.failed == 2 and all(dice(got.label[k], truth[k]) > 0.9 for k in range(4))


def test_what_comes_from_outside_is_background():
    places = np.indices((4, 4), np.float32)
    places[:, 0] = -1
    warped = registration.warp_nearest(np.ones((4, 4), bool), places)
    assert not warped[0].any() and warped[1:].all()


def test_a_guide_puts_the_label_right_about_its_line(monkeypatch):
    """The slices show nothing; the other plane says that along row 20 the object moves by two
    columns a slice.
    """
    monkeypatch.setattr(
        registration, "slice_map", lambda fixed, moving, **_: np.indices(fixed.shape, np.float32)
    )
    other = np.stack([np.abs(np.arange(36) - 14 - 2 * k) < 8 for k in range(4)])
    guide = registration.Guide(signed_distance(other), axis=0, position=20)
    start = disc((20, 14), 8)
    blind, guided = (
        carry(np.zeros((4, 40, 36), np.float32), start, guide=g).label for g in (None, guide)
    )
    assert dice(blind[3][20], other[3]) < 0.7 and dice(guided[3][20], other[3]) > 0.85
    assert not guided[3][:8].any()


def test_fusing_keeps_what_agrees_and_follows_the_nearer_slice():
    _, label = ball(0)
    same = fuse((label > 0, label > 0), ((2, 10), (1, 11)))
    assert dice(same, label) > 0.92 and same.dtype == np.uint8
    wide, narrow = np.zeros((30, 30, 30), bool), np.zeros((30, 30, 30), bool)
    wide[5:25, 5:25, 5:25], narrow[9:21, 9:21, 9:21] = True, True
    both = fuse((wide, narrow), ((2, 15), (1, 0)))  # far from the second's slice
    assert both[15, 15].sum() > 14  # 20 and 12 wide


@pytest.mark.parametrize(
    "info,planes",
    [(LA, ((2, 10), (1, 11))), pytest.param(KITS19, ((0, 16), (1, 11)), marks=pytest.mark.long)],
)
def test_both_planes_of_a_volume_in_each_axis_order(info, planes):
    """Improved beats published, with both annotated slices true in what it gives, whichever way the
    volume is stored.
    """
    image, label = ball(1)
    drawn = tuple(Annotation(axis, index, np.take(label, index, axis)) for axis, index in planes)
    case = AnnotatedCase("ball", Path("ball.h5"), drawn)
    scores = {}
    for improved in (False, True):
        carried = []
        for own, other in (drawn, drawn[::-1]):
            for part, guide in directions(own, other if improved else None, image.shape[own.axis]):
                assert part[0] == own.index and (guide is None) != improved
                carried.append(carry(np.moveaxis(image, own.axis, 0)[part], own.mask, guide=guide))
        alone, labels = assemble(case, image.shape, carried, improved)
        scores[improved] = [dice(volume, label) for volume in labels]
        for own, volume in zip(drawn, alone, strict=True):
            np.testing.assert_array_equal(volume[own.position()], own.mask)
    assert min(scores[True]) > max(0.75, *scores[False]), scores


def test_directions_reach_both_ends_or_where_the_other_slice_ends():
    _, label = ball(0)
    own, other = Annotation(2, 10, label[..., 10]), Annotation(1, 11, label[:, 11])
    (down, _), (up, _) = directions(own, None, 20)
    assert down.tolist() == list(range(10, -1, -1)) and up.tolist() == list(range(10, 20))
    (down, guide), (up, _) = directions(own, other, 20)
    seen = np.flatnonzero(label[:, 11].any(0))
    assert down[-1] == seen[0] and up[-1] == seen[-1]
    assert guide.axis == 1 and guide.position == 11 and guide.distance.shape == (len(down), 32)
    np.testing.assert_array_equal(guide.distance[0] > 0, label[:, 11, 10] > 0)
    elsewhere = np.zeros_like(
        other.mask
    )  # another part of the object: its ends say nothing about this one
    elsewhere[:, 15] = 1
    assert len(directions(own, Annotation(1, 11, elsewhere), 20)[1][0]) == 10


# --- what is written


def test_files_lie_beside_the_case_and_say_how_they_were_made(made):
    assert coarse_path(LA.path(made, "first"), 0).name == "mri_norm2px.h5" and coarse_path(
        Path("a/case_1.h5"), 1
    ) == Path("a/case_1py.h5")
    for seed, name in enumerate(CASES):
        image, label = ball(seed)
        for plane, (axis, index) in enumerate(((2, 10), (1, 11))):
            with h5py.File(coarse_path(LA.path(made, name), plane)) as file:
                np.testing.assert_array_equal(file["image"][()], image)
                assert set(file) == {"image", "label"} and file["label"].dtype == np.uint8
                assert file.attrs["coarse_axis"] == axis and file.attrs["coarse_slice"] == index
                assert (file.attrs["coarse_transform"], file.attrs["coarse_propagation"]) == (
                    "SyN",
                    "published",
                )
                assert (
                    file.attrs["coarse_seed"] == 1337 and "antspyx" in file.attrs["coarse_versions"]
                )
                assert file.attrs["spacing"].tolist() == [1, 1, 2]
                coarse = file["label"][()]
            annotation = read_coarse(coarse_path(LA.path(made, name), plane), "").annotation("")
            assert (annotation.axis, annotation.index) == (axis, index)
            np.testing.assert_array_equal(annotation.mask, np.take(label, index, axis))
            np.testing.assert_array_equal(np.take(coarse, index, axis), np.take(label, index, axis))
            assert (
                coarse.max() == 1 and dice(coarse, label) > 0.3
            )  # though nearly every other slice of the file's label holds 255


def test_report_without_truth(made):
    rows = list(csv.DictReader((made / "coarse_report" / "registration.csv").open()))
    assert tuple(rows[0]) == COLUMNS and [row["plane"] for row in rows] == ["px", "py"] * 2
    for row in rows:
        assert (
            int(row["first_slice"])
            <= int(row["annotated_slice"])
            <= int(row["last_slice"])
            < int(row["slices"])
        )
        assert row["died_below"] == (
            "" if row["first_slice"] == "0" else str(int(row["first_slice"]) - 1)
        )
        assert 0.2 < float(row["agreement"]) <= 1 and float(row["seconds"]) > 0
    summary = json.loads((made / "coarse_report" / "summary.json").read_text(encoding="utf-8"))
    assert summary["dense_truth"] == "not read" and "antspyx" in summary["versions"]
    assert all((made / "coarse_report" / f"{name}.png").stat().st_size > 10_000 for name in CASES)


def test_finished_files_are_kept(made, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "worker_pool", None)  # any use of it would fail
    monkeypatch.setattr(report, "write_picture", lambda path, content: None)
    before = [path.stat().st_mtime_ns for path in files(made)]
    register(flags(made, "--output_dir", str(tmp_path)))
    assert [path.stat().st_mtime_ns for path in files(made)] == before and (
        tmp_path / "registration.csv"
    ).is_file()
    for more, what in (
        (("--seed", "7"), "seed"),
        (("--transform", "SyNRA"), "transform"),
        (("--propagation", "improved"), "propagation"),
    ):
        with pytest.raises(UserError, match=f"another {what}.*--redo"):
            register(flags(made, *more, "--output_dir", str(tmp_path)))
    with pytest.raises(UserError, match=r"another slice \(10, now 9\).*--redo"):
        register(
            [
                *flags(made)[:4],
                "--planes",
                "9",
                "11",
                *flags(made)[7:],
                "--output_dir",
                str(tmp_path),
            ]
        )


def test_files_of_somebody_else_or_of_an_older_drawing_are_not_overwritten(made, tmp_path):
    root = shutil.copytree(made, tmp_path / "copy")
    with h5py.File(LA.path(root, "second"), "a") as file:
        file["label"][16, 20, 10] ^= 1
    with pytest.raises(UserError, match=r"second.*another image or annotation; use --redo"):
        register(flags(root))
    write(files(root)[0], *ball(0))
    with pytest.raises(UserError, match=r"first.*mri_norm2px.h5: made with another axis.*--redo"):
        register(flags(root))


def test_a_stopped_run_continues_to_the_same_bytes(made, tmp_path):
    """A killed one too: tests/campaign."""
    root = build(tmp_path / "again")
    stopped = Forked(lambda: register(flags(root)))
    stopped.wait(files(root)[1].exists)
    ended = stopped.stop(signal.SIGINT)
    assert (
        ended.status == 130
        and ended.said.rstrip().endswith("interrupted")
        and "Traceback" not in ended.said
    ), ended.said
    finished = {path: path.stat().st_mtime_ns for path in files(root) if path.exists()}
    assert len(finished) == 2 and not list(root.rglob(".*"))
    register(flags(root))
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    for mine, other in zip(files(root), files(made), strict=True):
        assert mine.read_bytes() == other.read_bytes(), mine


def test_a_coarse_file_that_is_not_what_was_written_is_not_finished(made, tmp_path, capsys):
    root = Path(shutil.copytree(made, tmp_path / "copy"))
    settings = parse(RegistrationSettings, flags(root))
    dataset, _ = program._find_dataset(settings)
    case = program._labelled_cases(settings, dataset, root)[0]
    assert program._is_finished(settings, LA, case)
    assert not program._is_finished(replace(settings, redo=True), LA, case)
    whole = case.coarse[0].read_bytes()
    for key in ("image", "label"):
        with h5py.File(case.coarse[0], "a") as file:
            values = file[key][()]
            values.flat[0] = 1 - values.flat[0]
            file[key][...] = values
        assert not program._is_finished(settings, LA, case)
        said = capsys.readouterr().out
        assert f"made again: {case.coarse[0]}: its content has changed" in said
        case.coarse[0].write_bytes(whole)
    case.coarse[0].write_bytes(whole[: len(whole) // 2])
    assert not program._is_finished(settings, LA, case)


def test_a_damaged_coarse_file_is_made_again_and_improved_reports_truth(tmp_path, capsys):
    root = tmp_path / "root"
    image, label = ball(0)
    write(LA.path(root, "first"), image, label)
    (root / "train.list").write_text("first\n")
    coarse_path(LA.path(root, "first"), 0).write_bytes(b"half a file")
    more = ["--labelnum", "1", "--propagation", "improved", "--report_against_truth"]
    register([*flags(root), *more])
    assert "made again" in capsys.readouterr().out
    rows = list(csv.DictReader((root / "coarse_report" / "registration.csv").open()))
    assert tuple(rows[0]) == (*COLUMNS, *TRUTH_COLUMNS)
    for plane, row in enumerate(rows):
        with h5py.File(coarse_path(LA.path(root, "first"), plane)) as file:
            coarse, alone = file["label"][()], file["carried"][()]
        assert (
            float(row["dice_coarse"]) == pytest.approx(dice(coarse, label), abs=1e-4)
            and float(row["dice_coarse"]) > 0.75
        )
        assert int(row["beyond_other_plane"]) == 0 and not np.array_equal(coarse, alone)
    assert (
        "read only for"
        in json.loads((root / "coarse_report" / "summary.json").read_text(encoding="utf-8"))[
            "dense_truth"
        ]
    )


def test_what_training_reads():
    coarse = np.zeros((4, 5, 6), np.uint8)
    label = training_label(coarse, Annotation(1, 2, np.ones((4, 6), np.uint8)))
    assert label[:, 2].all() and label.sum() == 24 and not coarse.any()


# --- warnings


def test_an_early_end_is_named():
    _, label = ball(0)
    case = AnnotatedCase(
        "ball", Path(), (Annotation(2, 10, label[..., 10]), Annotation(1, 11, label[:, 11]))
    )
    assert not early_end_warnings(case, 0, label) and not early_end_warnings(case, 1, label)
    short = label.copy()
    short[..., 13:] = 0  # the other slice shows the object up to slice 16
    (said,) = early_end_warnings(case, 0, short)
    assert (
        said
        == "ball: the px label is empty from slice 13 of axis 2, but the other annotated slice shows the object up to slice 16; check its picture"
    )
    row = extent_row(case, 0, short)
    assert (row["first_slice"], row["last_slice"], row["died_below"], row["died_above"]) == (
        4,
        12,
        3,
        13,
    )
    long = label.copy()
    long[16, 11] = 1
    row = extent_row(case, 0, long)
    assert (row["died_below"], row["died_above"], row["beyond_other_plane"]) == ("", "", 7)


def test_planes_that_disagree_are_named(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(report.DISAGREEMENT, "published", 1.01)
    monkeypatch.setattr(report, "write_picture", lambda path, content: None)
    register(flags(made, "--output_dir", str(tmp_path)))
    assert "warning: second: the labels of the two planes disagree" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["warnings"]) == 2


# --- what a user can do wrong, and what is read


def test_the_published_slices_and_other_ones(tmp_path):
    label = np.zeros((64, 192, 20), np.uint8)
    label[30:50, 110:140, 5:15] = 2
    path = write(tmp_path / "case.h5", np.zeros(label.shape, np.float32), label)
    first, second = read_annotation(path, KITS19)
    assert (first.axis, first.index, second.axis, second.index) == (0, 34, 1, 119)
    assert (
        first.mask.shape == (192, 20) and first.mask.max() == 1
    )  # kidney and tumour are one object
    assert [drawn.index for drawn in read_annotation(path, KITS19, ["object", 112])] == [39, 112]
    with pytest.raises(UserError, match="nothing is annotated on slice 32 along axis 0"):
        read_annotation(path, LITS, ["middle", "middle"])  # there 2 is no liver
    label[40, 100:150] = 1
    label[:, 0] = 0
    write(path, np.zeros(label.shape, np.float32), label)
    assert read_annotation(path, KITS19, ["drawn", 112])[0].index == 40


def test_of_the_label_only_two_slices_are_read(tmp_path, monkeypatch):
    image, label = ball(0)
    path = write(tmp_path / "case.h5", image, label)
    read = []
    original = h5py.Dataset.__getitem__

    def watched(self, place, *more, **options):
        read.append((self.name, place))
        return original(self, place, *more, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    read_annotation(path, LA, [10, 11])
    everything = slice(None)
    assert read == [("/label", (everything, everything, 10)), ("/label", (everything, 11))]


def faulty(tmp_path: Path, kind: str) -> Path:
    image, label = ball(0)
    if kind == "empty slice":
        label[..., 10] = 0
    if kind == "wrong values":
        label[3, 3, 10] = 9
    if kind == "other shape":
        label = label[:-1]
    if kind == "one slice":
        image, label = image[..., :1], label[..., 10:11]
    path = write(tmp_path / "broken.h5", image, label)
    if kind == "corrupt":
        path.write_bytes(path.read_bytes()[:3000])
    if kind == "missing":
        path.unlink()
    if kind == "no label":
        with h5py.File(path, "a") as file:
            del file["label"]
    return path


@pytest.mark.parametrize(
    "kind,planes,says",
    [
        ("empty slice", [10, 11], "nothing is annotated on slice 10 along axis 2.*--planes"),
        (
            "wrong values",
            [10, 11],
            "slice 10 along axis 2 holds values 0..9, expected whole numbers 0..1",
        ),
        ("other shape", [10, 11], r"image \(32, 22, 20\) and label \(31, 22, 20\)"),
        ("one slice", [0, 11], "one slice along axis 2"),
        ("corrupt", [10, 11], "not a readable HDF5 file"),
        ("missing", [10, 11], "no such file"),
        ("no label", [10, 11], "no data set of numbers 'label'"),
        ("small", [], r"no slice 43 along axis 2, which has 20 \(0 to 19\).*--planes"),
        ("small", [10, 22], "no slice 22 along axis 1"),
    ],
)
def test_faults_are_one_line_that_names_the_case(tmp_path, kind, planes, says):
    with pytest.raises(UserError, match=f"broken.h5: .*{says}") as raised:
        read_annotation(faulty(tmp_path, kind), LA, planes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "more,says",
    [
        (
            ("--planes", "left", "3"),
            (
                "--planes left: give for each plane a slice number, counted from 0, or one of "
                "middle, object, drawn"
            ),
        ),
        (("--planes", "-1", "3"), "-1"),
        (("--labelnum", "3"), "train.list has 2 cases"),
        (("--labelnum", "0"), "train.list has 2 cases"),
        (("--workers", "-1"), "--workers -1"),
        (("--transform", "Rigid"), "Rigid"),
    ],
)
def test_wrong_flags_are_one_line(made, more, says):
    with pytest.raises(UserError, match=says) as raised:
        register(flags(made, *more))
    assert "\n" not in str(raised.value)


def test_published_numbers_that_do_not_fit_the_volumes_are_named_before_any_work(tmp_path):
    image, label = ball(0)
    write(tmp_path / "case_1.h5", image, label)
    (tmp_path / "train.txt").write_text("case_1\n")
    with pytest.raises(
        UserError,
        match=r"case_1.h5: no slice 34 along axis 0, which has 32 .*--planes middle middle",
    ):
        register(["--dataset", "KiTS19", "--labelnum", "1", "--root_path", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_1.h5", "train.txt"]


def test_a_damaged_image_is_named_and_finished_cases_stay(made, tmp_path):
    root = shutil.copytree(made, tmp_path / "copy")
    for path in files(root)[2:4]:
        path.unlink()
    with h5py.File(LA.path(root, "second"), "a") as file:
        file["image"][0, 0, 0] = np.nan
    with pytest.raises(UserError, match=r"second.*NaN"):
        register(flags(root))
    assert all(path.exists() for path in files(root)[:2])


def test_every_setting_is_read():
    text = "".join(
        Path(module.__file__).read_text(encoding="utf-8") for module in (program, report)
    )
    assert all(f"settings.{name}" in text for name in RegistrationSettings.__dataclass_fields__)
