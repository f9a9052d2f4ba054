"""One picture of a run: some test cases beside their truth, and how training went."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nibabel
import numpy as np

from dataloaders.cases import read_cases
from recipes import acdc
from recipes.page import data_root
from training.checkpoint import read_ours
from utils.case import Case
from utils.cli import parse
from utils.errors import UserError, writing
from utils.files import check_plain, replacing
from utils.metrics import mask_metrics
from utils.pictures import COLOURS, grey_picture, overlay

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FACTS = acdc.PAGE.facts
STAGES = ("supervised", "pre_train", "self_train")


@dataclass(frozen=True)
class ReportSettings:
    root_path: Path | None = None
    """Folder of the data set; default: data_split/ACDC in the repository."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository."""
    exp: str = "BCP"
    """Name of the experiment, part of the run's folder."""
    labelnum: int = 3
    """Labelled patients of the run."""
    predictions: Path | None = None
    """Folder with the test script's predictions; default: <run>/unet_predictions."""
    output: Path = Path("report/demo.png")
    """The picture to write; it shows scans, so keep it where the data's terms allow."""


def report(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    s = parse(ReportSettings, argv, description=description)
    if s.output.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise UserError(f"--output {s.output}: the name must end in .png, .pdf, .svg or .jpg")
    check_plain("exp", s.exp)
    folder = acdc.PAGE.folder(s.output_root, s.exp, s.labelnum)
    history = read_history(folder)
    scored = sorted(
        _scored_cases(data_root(FACTS.name, s.root_path), s.predictions or folder / "unet_predictions"), key=lambda item: item[0]
    )
    chosen = {"worst": scored[0], "median": scored[len(scored) // 2], "best": scored[-1]}
    with writing(s.output, "free space or name another place with --output"):
        s.output.parent.mkdir(parents=True, exist_ok=True)
        write_picture(s.output, history, chosen, FACTS.class_names)
    print(f"wrote {s.output}")


def read_history(folder: Path) -> dict[str, list[dict]]:
    """The validations of each stage that the run has made; raises UserError where it has made none."""
    history = {}
    for path in (folder / stage / "last.pth" for stage in STAGES):
        if path.is_file():
            checkpoint = read_ours(path, ", so it tells nothing of how training went")
            history[path.parent.name] = checkpoint.progress["history"]
    if not any(history.values()):
        raise UserError(f"{folder}: no validated run there; train first, or name the run with --exp and --labelnum")
    return history


def _scored_cases(root: Path, folder: Path) -> list[tuple[float, Case, np.ndarray]]:
    """(mean Dice, case, prediction) of the test cases."""
    scored = []
    for case in read_cases(FACTS, root, "test"):
        path = folder / f"{case.name}_pred.nii.gz"
        if not path.is_file():
            raise UserError(f"{path}: no such prediction; run code/test_ACDC.py first")
        prediction = _read_prediction(path)
        if prediction.shape != case.label.shape:
            raise UserError(f"{path}: shape {prediction.shape}, the case has {case.label.shape}; run code/test_ACDC.py again")
        dice = [mask_metrics(prediction == k, case.label == k).dice for k in range(1, FACTS.classes)]
        scored.append((float(np.mean(dice)), case, prediction))
    return scored


def _read_prediction(path: Path) -> np.ndarray:
    try:
        return np.asarray(nibabel.load(path).dataobj).T.astype(np.uint8)
    except Exception:  # from damaged bytes nibabel and gzip raise whatever they stumble over
        raise UserError(f"{path}: damaged or no NIfTI file; run code/test_ACDC.py again") from None


def write_picture(path: Path, history: dict[str, list[dict]], chosen: dict, class_names: Sequence[str]) -> None:
    """Rows of image, truth and prediction for the chosen cases; below them loss and validation Dice over the iterations."""
    figure, axes = plt.subplot_mosaic(
        [[f"{name} {part}" for part in ("image", "truth", "prediction")] for name in chosen] + [["loss", "dice", "dice"]],
        figsize=(9, 3 * len(chosen) + 3.4),
        layout="constrained",
    )
    for name, (dice, case, prediction) in chosen.items():
        place = int((case.label > 0).sum((1, 2)).argmax())
        image, truth, predicted = case.image[0, place], case.label[place], prediction[place]
        titles = (f"{name} of the test cases: {case.name}", "truth", f"prediction, Dice {dice:.3f}")
        pictures = (grey_picture(image), overlay(image, truth), overlay(image, predicted))
        for part, title, picture in zip(("image", "truth", "prediction"), titles, pictures, strict=True):
            axis = axes[f"{name} {part}"]
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    handles = [plt.Line2D([], [], marker="s", ls="", color=COLOURS[k] / 255, label=class_names[k]) for k in range(1, len(class_names))]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9, frameon=False)
    _curves(axes["loss"], axes["dice"], history, class_names)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
    plt.close(figure)


def _curves(loss, dice, history: dict[str, list[dict]], class_names: Sequence[str]) -> None:
    start = 0
    for stage, rows in history.items():
        steps = [start + row["step"] for row in rows]
        loss.plot(steps, [row["loss"] for row in rows], marker=".", label=stage)
        for number, name in list(enumerate(class_names))[1:]:
            values = [row[f"dice_{name.replace(' ', '_')}"] for row in rows]
            dice.plot(steps, values, marker=".", ms=3, lw=1, color=COLOURS[number] / 255)
        dice.plot(steps, [row["score"] for row in rows], marker="o", ms=4, color="black", label="mean" if start == 0 else None)
        if start:
            for axis in (loss, dice):
                axis.axvline(start, color="grey", ls=":", lw=1)
        start = steps[-1] if steps else start
    loss.set(title="training loss", xlabel="iteration")
    dice.set(title="validation Dice (mean in black)", xlabel="iteration", ylim=(0, 1))
    loss.legend(fontsize=8, frameon=False)
    for axis in (loss, dice):
        axis.grid(alpha=0.3)
        axis.title.set_fontsize(9)
