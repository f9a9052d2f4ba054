"""check_data.py on raw data: a fault is one line that names the file, what is merely strange a
warning, good data pass in silence.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from helpers import unfinished
from raw_scans import ORIENTATIONS, blob, noise, own_case, write_raw_dataset, write_scan
from scripts import check
from started import run_script

from commands import check as command
from datasets.checks.across_cases import single_flipped_labels
from datasets.checks.case_check import CaseCheck
from datasets.checks.check_picture import draw_case
from datasets.prepare.flips import flip_warning, spreads
from utils.errors import UserError
from utils.pictures import COLOURS

SHAPE, SPACING, ORIGIN = (26, 24, 20), (1.2, 0.9, 1.1), (5, -7, 9)
CASES = {"imagesTr": ("a", "b", "c"), "imagesUn": ("u",), "imagesTs": ("t",)}


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    @contextmanager
    def threads(_):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "worker_pool", threads)
    monkeypatch.setattr(command, "provenance", dict)  # asks git, each time


@pytest.fixture(scope="module")
def _raw(tmp_path_factory):
    root = write_raw_dataset(
        tmp_path_factory.mktemp("raw") / "raw", {}, values=(1, 2), numTraining=3
    )
    for seed, (folder, name) in enumerate(
        (folder, name) for folder, names in CASES.items() for name in names
    ):
        own_case(root, folder, name, (1, 2), SPACING, SHAPE, seed)
    (root / "splits_final.json").write_text('[{"train": ["a", "b"], "val": ["c"]}]')
    return root


@pytest.fixture
def raw(_raw, tmp_path):
    """Three labelled cases, an unlabelled and a test one, two modalities each, nothing wrong with
    them.
    """
    return Path(shutil.copytree(_raw, tmp_path / "raw"))


def looked(raw: Path, *flags) -> tuple[int, dict]:
    status = check(["--root_path", str(raw), *map(str, flags)])
    content = json.loads((raw / "check.json").read_text(encoding="utf-8"))
    assert not list(raw.rglob(".*")), "something half-written"
    return status, content


def image(raw: Path, name: str = "a", channel: int = 0, folder: str = "imagesTr") -> Path:
    return raw / folder / f"{name}_{channel:04d}.nii.gz"


def label(raw: Path, name: str = "a") -> Path:
    return raw / "labelsTr" / f"{name}.nii.gz"


def edit(raw: Path, **about) -> None:
    content = {**json.loads((raw / "dataset.json").read_text(encoding="utf-8")), **about}
    (raw / "dataset.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not ...})
    )


def put(path: Path, array: np.ndarray, spacing=SPACING, origin=ORIGIN, direction=None) -> None:
    write_scan(path, array, spacing, origin, direction)


def truth(*values: float, shape=SHAPE, dtype=np.uint8) -> np.ndarray:
    """A label with a block of each value."""
    blocks = [
        blob(shape, (3 + 7 * k, 5, 4), (8 + 7 * k, 14, 10)).astype(dtype) * dtype(value)
        for k, value in enumerate(values)
    ]
    return sum(blocks, np.zeros(shape, dtype))


def with_value(value: float):
    """Put into a voxel of the first image."""

    def damage(raw: Path) -> None:
        array = noise(SHAPE).astype(np.float32)
        array[3, 4, 5] = value
        put(image(raw), array)

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def with_affines(path: Path, sform: np.ndarray, qform: np.ndarray | None = None) -> None:
    """The same voxels with other places in their header."""
    voxels = np.asarray(nibabel.load(path).dataobj)
    scan = nibabel.Nifti1Image(voxels, None)
    scan.header["sform_code"], scan.header["qform_code"] = 1, 0
    scan.header["srow_x"], scan.header["srow_y"], scan.header["srow_z"] = sform[:3]
    if qform is not None:
        scan.header.set_qform(qform, 1)
    nibabel.save(nibabel.Nifti1Image(voxels, None, scan.header), path)


def joined(path: Path) -> None:
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(path))] * 2), str(path))


def coloured(path: Path) -> None:
    sitk.WriteImage(sitk.Compose([sitk.ReadImage(str(path))] * 3), str(path))


def flipped(raw: Path) -> None:
    """The label turned round in its array, its header left as it was, on an image of even organs
    among others.
    """
    organs = blob(SHAPE, (2, 5, 4), (12, 14, 10), 1) + blob(SHAPE, (14, 3, 2), (20, 8, 12), 2)
    for channel in (0, 1):
        put(
            image(raw, "a", channel),
            np.random.default_rng(channel).normal(100, np.where(organs, 10, 100)).astype(np.int16),
        )
    put(label(raw), organs[:, ::-1])


PLACE = np.diag([-1.2, -0.9, 1.1, 1.0])
ERRORS = {
    "not a number": (with_value(np.nan), "a_0000.nii.gz: holds NaN or infinite values"),
    "infinite": (with_value(np.inf), "a_0000.nii.gz: holds NaN or infinite values"),
    "four axes": (
        lambda raw: joined(image(raw)),
        "a_0000.nii.gz: has 4 axes (26 x 24 x 20 x 2), one 3-D volume is expected",
    ),
    "colours": (lambda raw: coloured(image(raw)), "a_0000.nii.gz: has 3 values per voxel"),
    "constant": (
        lambda raw: put(image(raw), np.full(SHAPE, 7, np.int16)),
        "a_0000.nii.gz: the image is constant (every voxel is 7)",
    ),
    "cut off": (
        lambda raw: cut(image(raw)),
        "a_0000.nii.gz: cannot be read, it is damaged or incomplete",
    ),
    "no scan": (
        lambda raw: image(raw).write_bytes(b"hello"),
        "a_0000.nii.gz: not a scan in NIfTI, NRRD, MetaImage or DICOM format",
    ),
    "empty file": (lambda raw: image(raw).write_bytes(b""), "a_0000.nii.gz: not a scan in"),
    "dangling link": (
        lambda raw: (image(raw).unlink(), image(raw).symlink_to("nowhere")),
        "a_0000.nii.gz: no such file",
    ),
    "singular affine": (
        lambda raw: with_affines(
            image(raw), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        ),
        "a_0000.nii.gz: its affine is singular, the axes span no volume",
    ),
    "slanted axes": (
        lambda raw: with_affines(
            image(raw), np.array([[1, 0, 3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        ),
        "a_0000.nii.gz: the header's axes are not at right angles",
    ),
    "unlabelled, cut off": (
        lambda raw: cut(image(raw, "u", 1, "imagesUn")),
        "u_0001.nii.gz: cannot be read",
    ),
    "label of another shape": (
        lambda raw: put(label(raw), truth(1, 2, shape=(26, 24, 21))),
        "labelsTr/a.nii.gz: the label has 26 x 24 x 21 voxels, its image 26 x 24 x 20",
    ),
    "label of another spacing": (
        lambda raw: put(label(raw), truth(1, 2), (1.2, 0.9, 2.2)),
        "labelsTr/a.nii.gz: spacing 1.2 x 0.9 x 2.2 mm, its image's 1.2 x 0.9 x 1.1",
    ),
    "undeclared value": (
        lambda raw: put(label(raw), truth(1, 4)),
        "labelsTr/a.nii.gz: the label holds 4, expected 0, 1, 2 (declared in dataset.json)",
    ),
    "negative value": (
        lambda raw: put(label(raw), truth(1, -1, dtype=np.int16)),
        "labelsTr/a.nii.gz: the label holds -1",
    ),
    "fractional label": (
        lambda raw: put(label(raw), truth(1, 0.5, dtype=np.float32)),
        "labelsTr/a.nii.gz: the label holds 0.5",
    ),
    "label that is no number": (
        lambda raw: put(label(raw), truth(1, np.nan, dtype=np.float32)),
        "labelsTr/a.nii.gz: holds NaN or infinite values",
    ),
    "label of four axes": (lambda raw: joined(label(raw)), "labelsTr/a.nii.gz: has 4 axes"),
    "label cut off": (
        lambda raw: label(raw).write_bytes(label(raw).read_bytes()[:60]),
        "labelsTr/a.nii.gz: cannot be read",
    ),
    "no label": (
        lambda raw: label(raw).unlink(),
        "labelsTr/a.nii.gz: no such label; a case without label belongs in imagesUn",
    ),
    "a modality is missing": (
        lambda raw: image(raw, "a", 1).unlink(),
        "channels [0] of a are there, expected 0 to 1",
    ),
    "modality on another grid": (
        lambda raw: put(image(raw, "a", 1), noise(SHAPE, seed=99), origin=(5, -7, 90)),
        "a_0001.nii.gz: lies on another grid than a_0000.nii.gz (origin)",
    ),
    "modality of another shape": (
        lambda raw: put(image(raw, "a", 1), noise((26, 24, 21))),
        "a_0001.nii.gz: has 26 x 24 x 21 voxels, a_0000.nii.gz 26 x 24 x 20",
    ),
    "the same image in two splits": (
        lambda raw: put(
            image(raw, "t", 0, "imagesTs"), np.asarray(nibabel.load(image(raw)).dataobj)
        ),
        "t_0000.nii.gz: the same image as ",
    ),
    "the same image unlabelled, in another format": (
        lambda raw: (
            image(raw, "u", 0, "imagesUn").unlink(),
            shutil.copy(image(raw, "b"), image(raw, "u", 0, "imagesUn")),
        ),
        "u_0000.nii.gz: the same image as ",
    ),
    "one modality for both": (
        lambda raw: shutil.copy(image(raw), image(raw, "a", 1)),
        "a_0001.nii.gz: the same image as ",
    ),
    "labelled and unlabelled": (
        lambda raw: own_case(raw, "imagesUn", "a", (), SPACING, SHAPE, 50),
        "case a is in train and in unlabelled; remove one of them",
    ),
    "trained and tested": (
        lambda raw: own_case(raw, "imagesTs", "a", (1,), SPACING, SHAPE, 51),
        "case a is in train and in test",
    ),
    "in both parts of the split": (
        lambda raw: (raw / "splits_final.json").write_text(
            '[{"train": ["a", "b"], "val": ["c", "a"]}]'
        ),
        "splits_final.json: a is in train and in val of fold 0; remove it from one",
    ),
    "unknown case in the split": (
        lambda raw: (raw / "splits_final.json").write_text(
            '[{"train": ["a", "b", "who"], "val": ["c"]}]'
        ),
        "splits_final.json: fold 0 names who, which is not a case of imagesTr",
    ),
    "no folds": (
        lambda raw: (raw / "splits_final.json").write_text("{}"),
        "splits_final.json: expected a list of folds",
    ),
    "count": (
        lambda raw: edit(raw, numTraining=7),
        "dataset.json: numTraining is 7, but there are 3 training cases",
    ),
    "no channel number": (
        lambda raw: shutil.copy(image(raw), raw / "imagesTr" / "d.nii.gz"),
        "imagesTr/d.nii.gz: the name ends in no channel number; rename it, such as d_0000.nii.gz",
    ),
    "no dataset.json": (
        lambda raw: (raw / "dataset.json").unlink(),
        "dataset.json: no such file; docs/data.md",
    ),
    "no JSON": (
        lambda raw: (raw / "dataset.json").write_text("{"),
        "dataset.json: not readable as JSON",
    ),
    "no labels": (
        lambda raw: edit(raw, labels=...),
        "dataset.json: no 'labels' in it; it needs channel_names, labels",
    ),
    "older keys": (
        lambda raw: edit(raw, channel_names=..., modality={"0": "CT"}),
        "(an older nnU-Net's has modality in its place)",
    ),
    "channels from 1": (
        lambda raw: edit(raw, channel_names={"1": "T1"}),
        "channel_names must number the modalities from 0",
    ),
    "no background": (
        lambda raw: edit(raw, labels={"organ": 1}),
        "labels must name values, background 0 among them",
    ),
    "regions": (
        lambda raw: edit(raw, labels={"background": 0, "whole": [1, 2]}),
        "label whole is a region of several values",
    ),
    "one value for two": (
        lambda raw: edit(raw, labels={"background": 0, "a": 1, "b": 1}),
        "two labels have the same value",
    ),
    "ending": (
        lambda raw: edit(raw, file_ending=".nrrd"),
        "imagesTr: no case in it that ends in _0000.nrrd; look at file_ending",
    ),
    "no imagesTr": (lambda raw: shutil.rmtree(raw / "imagesTr"), "imagesTr: no such folder"),
}
WARNINGS = {
    "label's origin": (
        lambda raw: put(label(raw), truth(1, 2), origin=(9.8, -7, 9)),
        "labelsTr/a.nii.gz: by the headers label and image lie up to 4.0 voxels apart; taken "
        "voxel by voxel, look at them together "
        "(origin differ)",
    ),
    "label's direction": (
        lambda raw: put(
            label(raw), truth(1, 2), direction=[[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
        ),
        "look at them together (direction differ)",
    ),
    "qform against sform": (
        lambda raw: (
            [
                with_affines(image(raw, "a", k), PLACE, PLACE @ np.diag([-1, 1, 1, 1]))
                for k in (0, 1)
            ]
            and None
        ),
        "_0000.nii.gz: qform and sform place it up to ",
    ),
    "mixed orientations": (
        lambda raw: own_case(raw, "imagesTs", "t", (1, 2), SPACING, SHAPE, 40, ORIENTATIONS["RAS"]),
        "orientations differ: 4 LPS, 1 RAS (t ...)",
    ),
    "spacing": (
        lambda raw: own_case(raw, "imagesUn", "u", (), (1.2, 0.9, 5), SHAPE, 41),
        "spacing more than 2 times off the median 1.2 x 0.9 x 1.1 mm in 1 cases: u 1.2 x 0.9 x 5",
    ),
    "identity affine": (
        lambda raw: [with_affines(image(raw, "u", k, "imagesUn"), np.eye(4)) for k in (0, 1)],
        "u_0000.nii.gz: its affine is the identity",
    ),
    "empty label": (lambda raw: put(label(raw), truth()), "labelsTr/a.nii.gz: the label is empty"),
    "a class of no case": (
        lambda raw: edit(raw, labels={"background": 0, "organ 1": 1, "organ 2": 2, "spleen": 3}),
        "class 3 (spleen) is in none of the 2 training labels",
    ),
    "gaps": (
        lambda raw: edit(raw, labels={"background": 0, "one": 1, "two": 2, "five": 5}),
        "the label values 0, 1, 2, 5 have gaps",
    ),
    "surplus label": (
        lambda raw: shutil.copy(label(raw), label(raw, "z")),
        "labelsTr: 1 labels without images (z.nii.gz ...)",
    ),
    "no split": (
        lambda raw: (raw / "splits_final.json").unlink(),
        "no splits_final.json: c held out for validation",
    ),
    "flipped label": (
        flipped,
        (
            "labelsTr/a.nii.gz: fits better flipped along y: inside it the image's spread is 9.9 "
            "instead of 77"
        ),
    ),
}


def test_good_data_pass_without_a_word(raw, capsys):
    status, content = looked(raw)
    assert (
        status == 0
        and content["errors"] == []
        and content["warnings"] == []
        and content["layout"] == "raw"
    )
    out, err = capsys.readouterr()
    assert "raw (raw): 5 cases, 0 errors, 0 warnings" in out and "error" not in err
    (row,) = [line for line in out.splitlines() if line.startswith("a ")]
    cells = ["train", "26 x 24 x 20", "1.2 x 0.9 x 1.1", "LPS", "0 .. 59", "1 2", "good"]
    assert [cell.strip() for cell in row.split("  ") if cell][1:] == cells
    splits = {case["name"]: case["split"] for case in content["cases"]}
    assert splits == {"a": "train", "b": "train", "c": "val", "u": "unlabelled", "t": "test"}
    (first,) = [case for case in content["cases"] if case["name"] == "a"]
    counts = np.bincount(np.asarray(nibabel.load(label(raw)).dataobj).astype(int).ravel())
    assert first["voxels"] == {str(value): count for value, count in enumerate(counts)}
    assert set(first["spreads"]) == {"", "x", "y", "z", "xy", "xz", "yz", "xyz"}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_fault_is_one_line_and_status_2(raw, capsys, kind):
    damage, says = ERRORS[kind]
    damage(raw)
    status, content = looked(raw)
    assert status == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (
        [line.removeprefix("error: ")] == content["errors"] and says in line and len(line) < 500
    ), line
    assert str(raw) in line or "dataset.json" in line


@pytest.mark.parametrize("kind", WARNINGS)
def test_what_is_strange_is_a_warning_and_status_0(raw, capsys, kind):
    damage, says = WARNINGS[kind]
    damage(raw)
    status, content = looked(raw)
    assert status == 0 and content["errors"] == [], content["errors"]
    assert [line for line in content["warnings"] if says in line], content["warnings"]
    assert all(line in capsys.readouterr().out for line in content["warnings"][:1])
    kinds = {line.split(": ")[1] if ".gz: " in line else line for line in content["warnings"]}
    assert len(kinds) <= 2, content["warnings"]


def test_every_fault_of_a_data_set_is_found_at_once(raw):
    for kind in ("count", "in both parts of the split", "infinite", "no channel number"):
        ERRORS[kind][0](raw)
    cut(image(raw, "b"))
    status, content = looked(raw)
    assert status == 2 and len(content["errors"]) == 5
    assert [case["name"] for case in content["cases"] if not case["errors"]] == ["c", "u", "t"]


def test_labels_that_one_reader_flipped_are_found_together(tmp_path):
    """Where no label alone is striking: surroundings half as rough again as the organ tell little
    of one case, but the same of all.
    """
    rng, organ = np.random.default_rng(0), blob(SHAPE, (3, 5, 4), (10, 14, 10))
    for turned in (False, True):
        raw = write_raw_dataset(
            tmp_path / f"raw{turned}", {}, values=(1,), numTraining=6, channel_names={"0": "MR"}
        )
        for k in range(6):
            put(image(raw, str(k)), rng.normal(100, np.where(organ, 10, 15)).astype(np.float32))
            put(label(raw, str(k)), organ[:, ::-1] if turned else organ)
        status, content = looked(raw)
        found = [line for line in content["warnings"] if "fit better flipped" in line]
        assert status == 0 and not [line for line in content["warnings"] if "fits better" in line]
        assert len(found) == turned and (
            not turned or found[0].startswith("6 of 6 labels fit better flipped along y: ")
        )


def test_the_spread_inside_flipped_labels_by_the_plain_formula():
    image, label = noise((6, 5, 4)).astype(float), np.zeros((6, 5, 4), np.uint8)
    label[:2, 1:3], label[4:, 3:, 1] = 1, 2
    found = spreads(image, label)
    for flips, spread in found.items():
        turned = np.flip(label, [axis for axis, flip in enumerate(flips) if flip])
        inside = np.concatenate([image[turned == k] - image[turned == k].mean() for k in (1, 2)])
        assert np.isclose(spread, np.sqrt((inside**2).mean()))
    assert len(found) == 8 and np.isclose(
        spreads(image, label // 2)[False, False, False], image[label == 2].std()
    )


def test_one_label_among_many_is_told_by_how_the_others_lie():
    flips = ("x", "y", "z", "xy", "xz", "yz", "xyz")

    def case(number: int, as_it_is: float, **flipped: float) -> CaseCheck:
        return CaseCheck(
            name=f"case{number}",
            split="train",
            spreads={"": as_it_is, **dict.fromkeys(flips, 20.0), **flipped},
        )

    cases = [case(number, 10) for number in range(19)]
    assert single_flipped_labels([*cases, case(19, 20, yz=12.6)]) == []  # 1.59 times better
    (line,) = single_flipped_labels([*cases, case(19, 20, yz=12)])
    assert line.startswith(
        "case19: its label fits 1.7 times better flipped along y, z, 95 % of the others no more "
        "than 1.0 times"
    )
    rough = [
        case(number, 20, x=14) for number in range(19)
    ]  # where all fit a little better, that is how they are
    assert single_flipped_labels([*rough, case(19, 20, yz=12)]) == []
    assert single_flipped_labels([*cases[:18], case(19, 20, yz=12)]) == []  # too few to say


def test_a_ragged_tumour_that_lies_right_is_not_told():
    """More even wherever else it is laid, as a tumour in an organ is: no single flip stands out."""
    rng = np.random.default_rng(0)
    image, label = (
        1000.0 * blob((40, 40, 40), (0, 0, 0), (39, 39, 5)) + rng.normal(0, 10, (40, 40, 40)),
        np.zeros((40, 40, 40), np.uint8),
    )
    label[5:11, 5:11, 10:16] = 1
    image[label > 0] += rng.normal(0, 300, 216)
    found = spreads(image, label)
    assert found[False, False, False] > 10 * max(
        spread for flips, spread in found.items() if any(flips)
    )
    assert flip_warning(Path("label"), image, found) is None


def test_pictures_show_every_case_that_can_be_read(raw, tmp_path):
    cut(image(raw, "b"))
    cut(image(raw, "b", 1))
    (tmp_path / "out" / "check_pictures").mkdir(parents=True)
    left_by_a_killed_process = unfinished(tmp_path / "out" / "check_pictures" / "a.png")
    left_by_a_killed_process.touch()
    assert check(["--root_path", str(raw), "--pictures", "--output", str(tmp_path / "out")]) == 2
    assert {path.name for path in (tmp_path / "out" / "check_pictures").iterdir()} == {
        "a.png",
        "c.png",
        "u.png",
        "t.png",
    }
    assert not (raw / "check.json").exists() and (tmp_path / "out" / "check.json").is_file()
    plain, drawn = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "check_pictures" / name)))
        for name in ("u.png", "a.png")
    )
    legend = COLOURS[1]
    assert (drawn[..., :3] == legend).all(-1).any()
    assert not (plain[..., :3] == legend).all(-1).any()


def test_a_picture_names_its_planes_directions_and_classes():
    image = np.random.default_rng(3).normal(size=(6, 8, 4))
    label = np.zeros(image.shape, np.uint8)
    label[1:3, 2:7, 2] = 1
    label[1, 2, 3] = 3
    names = {0: "background", 1: "liver", 3: "tumour"}
    figure = draw_case(
        image, label, spacing_mm=(1, 1, 2), directions="RAS", title="a", class_names=names
    )
    across_z, across_y, across_x, *_ = figure.axes
    assert across_z.get_title() == "axial, slice 3 of 4"
    assert across_y.get_title() == "coronal, slice 3 of 8"
    assert across_x.get_title() == "sagittal, slice 2 of 6"
    letters = [[text.get_text() for text in cell.texts] for cell in (across_z, across_y, across_x)]
    assert letters == [["L", "R", "P", "A"], ["L", "R", "I", "S"], ["P", "A", "I", "S"]]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["1: liver", "3: tumour"]
    widths = [cell.get_position().width * figure.get_figwidth() for cell in (across_z, across_x)]
    assert widths[0] / widths[1] == pytest.approx(6 / 8)


def test_a_picture_without_known_directions_names_the_axes():
    image = np.zeros((6, 8, 4))
    image[2] = 1
    figure = draw_case(
        image, None, spacing_mm=None, directions="", title="a", class_names={0: "background"}
    )
    assert [cell.get_title() for cell in figure.axes[:3]] == [
        "across z, slice 3 of 4",
        "across y, slice 5 of 8",
        "across x, slice 4 of 6",
    ]
    assert not figure.legends
    assert not any(cell.texts for cell in figure.axes)


def test_a_place_that_cannot_be_written_and_no_data_are_one_line(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*--output"):
        check(["--root_path", str(raw), "--output", str(tmp_path / "file" / "out")])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        check(["--root_path", str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither raw data \(no dataset.json\) nor prepared data"):
        check(["--root_path", str(tmp_path / "empty")])


def test_the_script_with_processes_of_its_own(raw):
    ERRORS["infinite"][0](raw)
    script = Path(__file__).parents[1] / "code" / "check_data.py"
    done = run_script(script, "--root_path", raw, "--workers", "2")
    assert done.returncode == 2 and "5 cases, 1 errors, 0 warnings" in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert json.loads((raw / "check.json").read_text(encoding="utf-8"))["command"].startswith(
        "check_data.py --root_path"
    )


def test_pictures_of_a_case_whose_name_leads_elsewhere_are_not_drawn(tmp_path):
    raw = tmp_path / "raw"
    write_raw_dataset(raw, {}, values=(1, 2), channel_names={"0": "MR"})
    put(raw / "image.nii.gz", noise(SHAPE, truth(1, 2)))
    put(raw / "label.nii.gz", truth(1, 2))
    entry = {"images": ["image.nii.gz"], "label": "label.nii.gz"}
    edit(raw, numTraining=3, dataset=dict.fromkeys(("a", "../../escaped", "sub/case"), entry))
    out = tmp_path / "deep" / "out"
    assert check(["--root_path", str(raw), "--output", str(out), "--pictures"]) == 2
    assert list(tmp_path.rglob("*.png")) == [out / "check_pictures" / "a.png"]
    content = json.loads((out / "check.json").read_text(encoding="utf-8"))
    assert sum("it would name another folder" in line for line in content["errors"]) == 2
    assert len(content["cases"]) == 3
