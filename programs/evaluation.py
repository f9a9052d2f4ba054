"""Testing a saved or published checkpoint: predictions, metrics and a summary that says where everything came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dataloaders.cases import read_cases
from recipes.networks import build_network, check_patch, check_stride, load_network
from recipes.paths import data_root
from recipes.published_flags import TEST, translated
from recipes.tasks import Task
from training.checkpoint import is_ours, load
from training.device import choose_device, place
from training.evaluate import predictions, score_case
from training.results import detail, detail_head, summarise, table, write_json, write_metrics_csv
from utils.case import Case
from utils.cli import parse
from utils.errors import UserError, writing
from utils.nifti import write_nifti
from utils.progress import progress
from utils.provenance import provenance, sha256


@dataclass(frozen=True)
class EvaluationSettings:
    """What to test. Network, patch size and edge-guided module come from the checkpoint, or for a published one from its weights."""

    root_path: Path | None = None
    """Folder of the data set; default: data_split/<data set> in the repository."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository (Pancreas: pancreas/result)."""
    exp: str = "BCP"
    """Name of the experiment, part of the run's folder."""
    labelnum: int = 3
    """Labelled patients or scans of the run to test (Pancreas: percent)."""
    model: str = "unet"
    """Network, by its factory's name."""
    stage_name: Literal["self_train", "pre_train", "supervised"] = "self_train"
    """Which stage's checkpoint."""
    which: Literal["best", "last", "both"] = "best"
    """The checkpoint selected in training, the last one, or both, the last one's files in a folder `last` of the output."""
    checkpoint: Path | None = None
    """A checkpoint file, instead of the run's own."""
    split: Literal["test", "val"] = "test"
    """The case list to test on."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input; default: the checkpoint's, the published one for a published checkpoint."""
    stride: tuple[int, ...] = ()
    """Volumes: steps of the sliding window; default: the published ones. Larger steps are faster."""
    output_dir: Path | None = None
    """Where predictions, metrics.csv and summary.json go; default: <run>/<model>_predictions."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device to use; of a list, as in 0,1, the first."""
    detail: bool = False
    """Print the figures of each case too, as published (published flag; 0 or 1 may follow)."""


@dataclass(frozen=True)
class LAEvaluation(EvaluationSettings):
    nms: bool = True
    """Keep the largest component of a prediction alone, as the published test does (published flag; 0 or 1 may follow)."""


def checkpoints(task: Task, s: EvaluationSettings) -> list[tuple[Path, Path]]:
    """The checkpoints that the flags name, each with its output folder; raises UserError where one is missing."""
    run = task.folder(s.exp, s.labelnum, s.output_root)
    best, last = task.best(run, s.stage_name, s.model, s.labelnum), run / s.stage_name / "last.pth"
    paths = [s.checkpoint] if s.checkpoint else {"best": [best], "last": [last], "both": [best, last]}[s.which]
    if s.which == "both" and not s.checkpoint and not last.is_file():
        paths = [best]  # a published file stands alone
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint; train first, put a published one there, or name one with --checkpoint")
    output = s.output_dir or (run if s.checkpoint is None else s.checkpoint.parent) / f"{s.model}_predictions"
    return [(path, output / "last" if number else output) for number, path in enumerate(paths)]


def describe_selection(content: Mapping, path: Path) -> str:
    """In words: how the checkpoint was chosen among those of its run."""
    if not is_ours(content):
        return "a published state dict; the file does not say how it was selected (its authors: the best validation Dice)"
    progress = content["progress"]
    where = f"iteration {progress['step']} of {content['stage']}"
    if path.name in ("last.pth", "previous.pth"):
        return f"not selected: {where}, where the run stood last"
    return f"{content['selection']}: {progress['best_score']:.4f} at {where}"


def evaluate(task: Task, default: EvaluationSettings, argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Test checkpoints of a data set as `default` says, changed by the flags in `argv`, ours or published."""
    score_checkpoints(task, parse(type(default), translated(TEST[task.facts.name], argv), default, description))


def score_checkpoints(task: Task, s: EvaluationSettings) -> None:
    """Test one or two checkpoints of a data set; see `EvaluationSettings`."""
    if isinstance(s, LAEvaluation) and not s.nms:
        task = replace(task, connectivity=None)
    device = choose_device(s.device, s.gpu)
    chosen = [_Tested(task, s, path, device, output) for path, output in checkpoints(task, s)]
    cases = read_cases(task.facts, data_root(task.facts.name, s.root_path), s.split)
    for tested in chosen:
        tested.run(cases)


class _Tested:
    """One checkpoint, read and checked before the cases are."""

    def __init__(self, task: Task, s: EvaluationSettings, path: Path, device: torch.device, output: Path):
        facts, content = task.facts, load(path)
        self.task, self.split, self.path, self.device, self.output = task, s.split, path, device, output
        self.detail = s.detail
        self.settings, egm, model = _about(task, content, path)
        self.patch_size = s.patch_size or tuple(self.settings.get("patch_size", task.patch_size))
        check_patch(facts, self.patch_size, egm)
        self.stride = s.stride or task.stride
        if facts.dims == 3:
            check_stride(self.stride, "stride")
        elif s.stride:
            raise UserError(f"--stride: {facts.name} is predicted slice by slice, without a sliding window; leave it out")
        net = build_network(facts, model or s.model, egm, self.settings.get("upsampling", "published"))
        load_network(net, content, path)
        self.net = place(net, device, facts.dims)
        self.selection = describe_selection(content, path)

    def run(self, cases: Sequence[Case]) -> None:
        """Predict, score, write, print."""
        facts, output = self.task.facts, self.output
        print(f"checkpoint {self.path}\nselection: {self.selection}")
        predict, scores = self.task.predictor(self.patch_size, self.stride, self.device, test=True), []
        with (
            writing(output, "free space or name another place with --output_dir"),
            progress(predictions(self.net, cases, predict), total=len(cases), desc="testing", unit="case") as bar,
        ):
            output.mkdir(parents=True, exist_ok=True)
            if self.detail:
                bar.write(detail_head())
            for case, prediction in bar:
                write_prediction(output / f"{case.name}_pred.nii.gz", case, prediction, facts.dims == 3)
                new = score_case(case, prediction, facts.class_names)
                scores += new
                if self.detail:
                    bar.write(detail(new))
        checkpoint = {"path": str(self.path), "sha256": sha256(self.path), "selection": self.selection, "settings": self.settings or None}
        summary = {
            "dataset": facts.name,
            "split": facts.list_name(self.split),
            "cases": len(cases),
            "patch_size": list(self.patch_size),
            **({"stride": list(self.stride), "largest_component": self.task.connectivity is not None} if self.stride else {}),
            **summarise(scores),
            "checkpoint": checkpoint,
            **provenance(),
        }
        with writing(output, "free space or name another place with --output_dir"):
            write_metrics_csv(output / "metrics.csv", scores)
            write_json(output / "summary.json", summary)
        print(table(summary))
        print(f"predictions, metrics.csv and summary.json are in {output}")


def write_prediction(path: Path, case: Case, prediction: np.ndarray, xyz: bool) -> None:
    """A prediction as NIfTI, its axes slices first or, with `xyz`, x, y, z; the case's affine or else its spacing goes with it."""
    spacing = None if case.affine is not None else case.spacing_mm
    if xyz:
        prediction, spacing = prediction.transpose(2, 1, 0), None if spacing is None else spacing[::-1]
    write_nifti(path, prediction, spacing, case.affine)


def _about(task: Task, content: Mapping, path: Path) -> tuple[dict, str, str | None]:
    """Settings, EGM and network of a checkpoint; a published state dict tells by its keys whether it has edge-guided modules."""
    if is_ours(content):
        if content["facts"]["name"] != task.facts.name:
            raise UserError(f"{path}: a checkpoint of {content['facts']['name']}, expected one of {task.facts.name}")
        return content["settings"], content["settings"]["egm"], content["settings"]["model"]
    weights = content["net"] if isinstance(content.get("net"), Mapping) else content
    return {}, "published" if any("compute_edge_feature." in str(key) for key in weights) else "none", None
