"""Synthetic MR scans in nnU-Net's raw layout, like own data: some with labels, some without."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.phantom.case_files import claimed, within, write_text
from dataloaders.phantom.heart import DIASTOLE, SYSTOLE, draw_patient, render
from dataloaders.phantom.organs import RECIPES, Recipe, draw_case
from scans.nifti_writer import write_nifti
from utils.errors import UserError
from utils.progress import progress

FOLDERS = ("imagesTr", "labelsTr", "imagesUn", "imagesTs", "labelsTs")
HEART_SIZE = (128,)
BRIGHTEST = 1000
Scan = tuple[str, np.ndarray, np.ndarray, tuple[float, ...]]


def write_raw_phantom(
    info: DatasetInfo,
    root: Path,
    train: int,
    val: int,
    test: int,
    labelled: int,
    size: tuple[int, ...] | None = None,
    seed: int = 1337,
) -> None:
    """Write `train` + `val` + `test` patients below `root`.

    imagesTr and labelsTr: `labelled` of the training patients and the validation patients
    (splits_final.json lists which). imagesUn: the other training patients, without labels. imagesTs
    and labelsTs: the test patients. The hearts of ACDC have two frames per patient, which stay
    together. Patient i depends only on `seed`, i and `size`.

    Scans are whole numbers from 0 to 1000 (int16), x to the left and y to the back. dataset.json is
    written last, so a half-written folder has none; the same call may be repeated. Raises UserError
    as `write_phantom` does, and for a data set that is not MR.
    """
    recipe = _recipe(info)
    default_size = HEART_SIZE if recipe is None else recipe.size
    shape = tuple(size or default_size)
    if len(shape) != len(default_size):
        raise UserError(f"--size: {info.name} takes {len(default_size)} numbers, not {len(shape)}")
    _check_numbers(shape, train=train, val=val, test=test, labelled=labelled, seed=seed)
    parts = ["Tr"] * labelled + ["Un"] * (train - labelled) + ["Tr"] * val + ["Ts"] * test
    split: dict[str, list[str]] = {"train": [], "val": []}
    settings = {
        "phantom": f"{info.name} raw",
        "train": train,
        "val": val,
        "test": test,
        "labelled": labelled,
        "size": shape,
        "seed": seed,
    }
    with claimed(root, settings, (*FOLDERS, "dataset.json")):
        for number, part in enumerate(progress(parts, desc="patients", disable=None), 1):
            rng = np.random.default_rng([seed, number])
            for name, image, label, spacing in _scans(recipe, rng, number=number, size=shape):
                image_path = root / f"images{part}" / f"{name}_0000.nii.gz"
                _write(image_path, _whole_numbers(image), spacing=spacing)
                if part != "Un":
                    _write(root / f"labels{part}" / f"{name}.nii.gz", label, spacing=spacing)
                if part == "Tr":
                    subset = "train" if number <= labelled else "val"
                    split[subset].append(name)
        about = {
            "name": f"{info.name} phantom",
            "channel_names": {"0": "MR"},
            "labels": {name: value for value, name in enumerate(info.class_names)},
            "numTraining": len(split["train"]) + len(split["val"]),
            "file_ending": ".nii.gz",
        }
        write_text(root / "splits_final.json", json.dumps([split], indent=2) + "\n")
        write_text(root / "dataset.json", json.dumps(about, indent=2) + "\n")


def _recipe(info: DatasetInfo) -> Recipe | None:
    """The anatomy of a 3-D data set; None for a 2-D one, of which hearts are drawn.

    Raises UserError for an anatomy that is not drawn in MR.
    """
    if info.dims == 2:
        return None
    recipe = RECIPES[info.name]
    if not recipe.is_mr:
        raise UserError(f"--raw: raw phantoms are MR, but that of {info.name} is CT")
    return recipe


def _check_numbers(
    shape: Sequence[int],
    train: int,
    val: int,
    test: int,
    labelled: int,
    seed: int,
) -> None:
    """Raise UserError for a number that is out of range."""
    within("train", train, least=1, most=900)
    within("val", val, least=1, most=900)
    within("test", test, least=1, most=900)
    within("seed", seed, least=0, most=2**63)
    within("labelled", labelled, least=1, most=train)
    smallest = 16 if len(shape) == 3 else 48
    for side in shape:
        within("size", side, least=smallest, most=512)


def _scans(
    recipe: Recipe | None, rng: np.random.Generator, number: int, size: tuple[int, ...]
) -> Iterator[Scan]:
    """The scans of a patient: name, image and label (z, y, x), spacing (mm) along these axes."""
    if recipe is None:
        patient = draw_patient(rng, size[0])
        for phase in (DIASTOLE, SYSTOLE):
            image, label = render(patient, phase)
            yield f"patient{number:03d}_frame{phase:02d}", image, label, patient.spacing
        return
    image, label, spacing = draw_case(recipe, rng, size)
    turn = [recipe.axes.index(axis) for axis in "zyx"]
    yield (
        recipe.case.format(number),
        image.transpose(turn),
        label.transpose(turn),
        tuple(spacing[axis] for axis in turn),
    )


def _whole_numbers(image: np.ndarray) -> np.ndarray:
    """Scale an image to whole numbers from 0 to BRIGHTEST."""
    return np.rint((image - image.min()) * (BRIGHTEST / np.ptp(image))).astype(np.int16)


def _write(path: Path, volume: np.ndarray, spacing: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = spacing
    write_nifti(path, volume, affine=np.diag([-x, -y, z, 1.0]))
