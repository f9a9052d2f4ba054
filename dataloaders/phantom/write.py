"""Synthetic data in the layouts of the public data sets: everything runs on it without the real data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataloaders.facts import DatasetFacts
from dataloaders.phantom.files import claimed, within, write_case, write_lists
from dataloaders.phantom.heart import DIASTOLE, SYSTOLE, draw_patient, render
from dataloaders.phantom.volumes import write_volume_phantom
from utils.errors import UserError
from utils.progress import progress

LISTS = ("train.list", "val.list", "test.list", "train_slices.list")


def write_phantom(
    facts: DatasetFacts,
    root: Path,
    train: int = 20,
    test: int = 6,
    val: int | None = None,
    labelled: int | None = None,
    size: Sequence[int] | None = None,
    seed: int = 1337,
) -> str:
    """Write the phantom of a published data set; None is that data set's default. Returns a line that says what was written.

    UserError as in `write_acdc_phantom` and `write_volume_phantom`, and for what the data set has no use for.
    """
    if facts.dims == 2:
        if labelled is not None:
            raise UserError(
                f"--labelled: --labelnum of the training counts the labelled patients of {facts.name}; leave it out"
            )
        if size and len(size) != 1:
            raise UserError(
                f"--size takes one number for {facts.name}, the mean side of an image in pixels, not {len(size)}"
            )
        val = 4 if val is None else val
        write_acdc_phantom(root, train, val, test, *(size or (128,)), seed)
        slices = len((root / facts.train_list).read_text(encoding="utf-8").split())
        wrote = f"{slices} training slices of {train} patients, {2 * val} validation and {2 * test} test volumes"
    else:
        if val is not None:
            raise UserError(
                f"--val is for ACDC alone, {facts.name} has no validation list; leave it out"
            )
        write_volume_phantom(facts, root, train, test, size, seed, labelled)
        wrote = f"{train} training and {test} test volumes"
    return f"wrote {wrote} below {root}"


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
        within(flag, value, least, most)
    root = Path(root)
    settings = {
        "train": train,
        "val": val,
        "test": test,
        "size": size,
        "seed": seed,
        "slices": list(slices),
    }
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    with claimed(root, {"phantom": "ACDC", **settings}, (*LISTS, "data")):
        for number in progress(range(1, train + val + test + 1), desc="patients", disable=None):
            rng = np.random.default_rng([seed, number])
            patient = draw_patient(rng, size, slices)
            part = "train" if number <= train else "val" if number <= train + val else "test"
            for phase in (DIASTOLE, SYSTOLE):
                image, label = render(patient, phase)
                name = f"patient{number:03d}_frame{phase:02d}"
                lists[f"{part}.list"].append(name)
                if part != "train":
                    write_case(root / "data" / f"{name}.h5", image, label, patient.spacing)
                    continue
                for k in rng.permutation(len(image)):
                    lists["train_slices.list"].append(f"{name}_slice_{k + 1}")
                    write_case(
                        root / "data" / "slices" / f"{name}_slice_{k + 1}.h5", image[k], label[k]
                    )
        write_lists(root, lists)
