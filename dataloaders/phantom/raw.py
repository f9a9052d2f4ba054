"""Synthetic MR scans in nnU-Net's raw layout, as somebody's own would come: some drawn, some with no label at all."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataloaders.facts import DatasetFacts
from dataloaders.phantom.files import claimed, within, write_text
from dataloaders.phantom.heart import DIASTOLE, SYSTOLE, draw_patient, render
from dataloaders.phantom.organs import RECIPES, draw_case
from utils.errors import UserError
from utils.nifti import write_nifti
from utils.progress import progress

FOLDERS = ("imagesTr", "labelsTr", "imagesUn", "imagesTs", "labelsTs")
MR = (
    "ACDC",
    "LA",
)  # the CT phantoms are drawn as their public preparations are, windowed: no scanner writes that
SIZES = {"ACDC": (128,), "LA": RECIPES["LA"].size}
BRIGHTEST = 1000
Scan = tuple[str, np.ndarray, np.ndarray, tuple[float, ...]]


def write_raw_phantom(
    facts: DatasetFacts,
    root: Path,
    train: int,
    val: int,
    test: int,
    labelled: int,
    size: tuple[int, ...] | None = None,
    seed: int = 1337,
) -> None:
    """Write `train` + `val` + `test` patients below `root`: `labelled` of the training patients and those for validation into imagesTr
    and labelsTr (splits_final.json says which), the other training patients without label into imagesUn, the rest into imagesTs and
    labelsTs. The hearts of ACDC have two frames per patient, which stay together; patient i depends on `seed`, i and `size` only.

    Scans are whole numbers from 0 to 1000 (int16), x to the left and y to the back. dataset.json comes last, so a half-written folder has
    none; the same call may be repeated. UserError as in `phantom.write`, and for a data set that is no MR.
    """
    if facts.name not in MR:
        raise UserError(f"--raw: there are raw phantoms of {' and '.join(MR)}, not of {facts.name}")
    size = tuple(size or SIZES[facts.name])
    if len(size) != len(SIZES[facts.name]):
        raise UserError(
            f"--size: {facts.name} takes {len(SIZES[facts.name])} numbers, not {len(size)}"
        )
    for flag, value, least in (
        ("train", train, 1),
        ("val", val, 1),
        ("test", test, 1),
        ("seed", seed, 0),
    ):
        within(flag, value, least, 900 if flag != "seed" else 2**63)
    within("labelled", labelled, 1, train)
    for side in size:
        within("size", side, 16 if len(size) == 3 else 48, 512)
    parts = ["Tr"] * labelled + ["Un"] * (train - labelled) + ["Tr"] * val + ["Ts"] * test
    split: dict[str, list[str]] = {"train": [], "val": []}
    settings = {
        "phantom": f"{facts.name} raw",
        "train": train,
        "val": val,
        "test": test,
        "labelled": labelled,
        "size": size,
        "seed": seed,
    }
    with claimed(root, settings, (*FOLDERS, "dataset.json")):
        for number, part in enumerate(progress(parts, desc="patients", disable=None), 1):
            for name, image, label, spacing in _scans(
                facts, np.random.default_rng([seed, number]), number, size
            ):
                _write(
                    root / f"images{part}" / f"{name}_0000.nii.gz", _whole_numbers(image), spacing
                )
                if part != "Un":
                    _write(root / f"labels{part}" / f"{name}.nii.gz", label, spacing)
                if part == "Tr":
                    split["train" if number <= labelled else "val"].append(name)
        about = {
            "name": f"{facts.name} phantom",
            "channel_names": {"0": "MR"},
            "labels": {name: value for value, name in enumerate(facts.class_names)},
            "numTraining": sum(map(len, split.values())),
            "file_ending": ".nii.gz",
        }
        write_text(root / "splits_final.json", json.dumps([split], indent=2) + "\n")
        write_text(root / "dataset.json", json.dumps(about, indent=2) + "\n")


def _scans(
    facts: DatasetFacts, rng: np.random.Generator, number: int, size: tuple[int, ...]
) -> Iterator[Scan]:
    """The scans of a patient: name, image and label (z, y, x), spacing (mm) along these axes."""
    if facts.name == "ACDC":
        patient = draw_patient(rng, *size)
        for phase in (DIASTOLE, SYSTOLE):
            yield f"patient{number:03d}_frame{phase:02d}", *render(patient, phase), patient.spacing
    else:
        recipe = RECIPES[facts.name]
        image, label, spacing = draw_case(recipe, rng, size)
        turn = [recipe.axes.index(axis) for axis in "zyx"]
        yield (
            recipe.case.format(number),
            image.transpose(turn),
            label.transpose(turn),
            tuple(spacing[axis] for axis in turn),
        )


def _whole_numbers(image: np.ndarray) -> np.ndarray:
    return np.rint((image - image.min()) * (BRIGHTEST / np.ptp(image))).astype(np.int16)


def _write(path: Path, volume: np.ndarray, spacing: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = spacing
    write_nifti(path, volume, affine=np.diag([-x, -y, z, 1.0]))
