"""Synthetic data in the layouts of the public data sets: everything runs on it without the real data."""

import json
from pathlib import Path

import h5py
import numpy as np

from dataloaders.phantom_heart import DIASTOLE, SYSTOLE, draw_patient, render
from utils.errors import UserError
from utils.files import replacing
from utils.progress import progress

LISTS = ("train.list", "val.list", "test.list", "train_slices.list")


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text)


def _write_case(path: Path, image: np.ndarray, label: np.ndarray, spacing: tuple[float, ...] | None = None) -> None:
    with replacing(path) as unfinished, h5py.File(unfinished, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")
        if spacing is not None:
            file.attrs["spacing_mm"] = np.array(spacing, np.float64)


def _claim(root: Path, recipe: str) -> None:
    """Make the folder and leave the recipe in it; UserError if somebody else's data are there."""
    mark = root / "phantom.json"
    if mark.exists():
        if mark.read_text() != recipe:
            raise UserError(f"{mark} was written with other settings; name another folder with --root or delete this one")
    elif any((root / name).exists() for name in (*LISTS, "data")):
        raise UserError(f"--root {root} already holds data that is no phantom; name another folder")
    (root / "data" / "slices").mkdir(parents=True, exist_ok=True)
    _write_text(mark, recipe)


def write_acdc_phantom(
    root: str | Path,
    train: int = 20,
    val: int = 4,
    test: int = 6,
    size: int = 128,
    seed: int = 1337,
    slices: tuple[int, int] = (6, 9),
) -> None:
    """Write `train` + `val` + `test` patients below `root` in the ACDC layout, patient001 first.

    `size` is the mean image side in pixels, `slices` the least and most slices of a patient. Patient i depends on `seed`, i,
    `size` and `slices` only. Lists come last, so a half-written folder has none; the same call may be repeated. UserError if a
    number is out of range, if the folder cannot be written, or if it holds anything but a phantom of the same settings.
    """
    for flag, value, least, most in (
        ("train", train, 1, 900),
        ("val", val, 1, 90),
        ("test", test, 1, 900),
        ("size", size, 48, 512),
        ("seed", seed, 0, 2**63),
        ("slices (least)", slices[0], 5, 99),
        ("slices (most)", slices[1], slices[0], 99),
    ):
        if not least <= value <= most:
            raise UserError(f"--{flag} must be from {least} to {most}, not {value}")
    root = Path(root)
    settings = {"train": train, "val": val, "test": test, "size": size, "seed": seed, "slices": list(slices)}
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    try:
        _claim(root, json.dumps({"phantom": "ACDC", **settings}) + "\n")
        for number in progress(range(1, train + val + test + 1), desc="patients", disable=None):
            rng = np.random.default_rng([seed, number])
            patient = draw_patient(rng, size, slices)
            part = "train" if number <= train else "val" if number <= train + val else "test"
            for phase in (DIASTOLE, SYSTOLE):
                image, label = render(patient, phase)
                name = f"patient{number:03d}_frame{phase:02d}"
                lists[f"{part}.list"].append(name)
                if part != "train":
                    _write_case(root / "data" / f"{name}.h5", image, label, patient.spacing)
                    continue
                for k in rng.permutation(len(image)):
                    lists["train_slices.list"].append(f"{name}_slice_{k + 1}")
                    _write_case(root / "data" / "slices" / f"{name}_slice_{k + 1}.h5", image[k], label[k])
        for name, lines in lists.items():
            _write_text(root / name, "\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"--root {root}: cannot write there ({error}); name another folder") from None
