"""Write synthetic data in the layouts of the public data sets, to try everything without them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.phantom.case_files import claimed, within, write_case, write_lists
from dataloaders.phantom.heart import DIASTOLE, SYSTOLE, draw_patient, render
from dataloaders.phantom.organ_volumes import write_volume_phantom
from utils.errors import UserError
from utils.progress import progress

LISTS = ("train.list", "val.list", "test.list", "train_slices.list")


def write_phantom(
    info: DatasetInfo,
    root: Path,
    train: int = 20,
    test: int = 6,
    val: int | None = None,
    labelled: int | None = None,
    size: Sequence[int] | None = None,
    seed: int = 1337,
) -> str:
    """Write the phantom of a published data set; return a line about what was written.

    None stands for the default of that data set. Raises UserError as `write_acdc_phantom` and
    `write_volume_phantom` do, and for numbers that the data set does not use.
    """
    if info.dims == 3:
        if val is not None:
            raise UserError(
                f"--val applies only to ACDC: {info.name} has no validation list; omit it"
            )
        write_volume_phantom(
            info, root, train=train, test=test, size=size, seed=seed, labelled=labelled
        )
        return f"wrote {train} training and {test} test volumes below {root}"
    if labelled is not None:
        raise UserError(
            f"--labelled does not apply to {info.name}: --labelnum of the training counts the "
            f"labelled patients; omit it"
        )
    if size and len(size) != 1:
        raise UserError(
            f"--size takes one number for {info.name}, the mean side of an image in pixels, not "
            f"{len(size)}"
        )
    if val is None:
        val = 4
    side = size[0] if size else 128
    write_acdc_phantom(root, train=train, val=val, test=test, size=side, seed=seed)
    slices = len((root / info.train_list).read_text(encoding="utf-8").split())
    return (
        f"wrote {slices} training slices of {train} patients, {2 * val} validation and "
        f"{2 * test} test volumes below {root}"
    )


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

    `size`: mean image side in pixels. `slices`: fewest and most slices of a patient. Patient i
    depends only on `seed`, i, `size` and `slices`. Lists are written last, so a half-written folder
    has none; the same call may be repeated. Raises UserError if a number is out of range, or if the
    folder cannot be written or holds anything but a phantom with the same settings.
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
            if number <= train:
                part = "train"
            elif number <= train + val:
                part = "val"
            else:
                part = "test"
            for phase in (DIASTOLE, SYSTOLE):
                image, label = render(patient, phase)
                name = f"patient{number:03d}_frame{phase:02d}"
                lists[f"{part}.list"].append(name)
                if part == "train":
                    names = _write_slices(root / "data" / "slices", name, image, label, rng=rng)
                    lists["train_slices.list"] += names
                write_case(
                    root / "data" / f"{name}.h5", image, label=label, spacing=patient.spacing
                )
        write_lists(root, lists)


def _write_slices(
    folder: Path, name: str, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> list[str]:
    """Write the slices of a volume in random order, as the public list has them.

    Returns their names in this order.
    """
    names = []
    for k in rng.permutation(len(image)):
        slice_name = f"{name}_slice_{k + 1}"
        write_case(folder / f"{slice_name}.h5", image[k], label=label[k])
        names.append(slice_name)
    return names
