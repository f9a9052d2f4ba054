"""Testing a saved or published checkpoint: predictions, metrics and a summary that says where everything came from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from commands.agreement import check_agreement
from commands.networks import check_patch, network_of
from commands.published_flags import test_rules, translated
from commands.run_data import check_tested
from commands.runs import (
    Choice,
    Wanted,
    choose,
    choose_in,
    find_checkpoint,
    network_in_name,
    stage_names,
    usual,
)
from commands.test_folder import (
    PREDICTION,
    REMEDY,
    check_output,
    folder_of_file,
    move_results,
    set_aside_others,
    test_folder,
)
from dataloaders.cases import read_cases
from dataloaders.digest import digest_of, hashed, survey
from datasets.base import DatasetSpec, data_root
from datasets.run_settings import check_option_names
from evaluation.results import (
    EvaluationResult,
    detail,
    detail_head,
    summarise,
    table,
    write_results,
)
from evaluation.scores import ClassScore, score_case
from evaluation.sliding_window import check_stride
from evaluation.validation import predictions
from methods.registry import METHODS, run_title
from networks.registry import NETWORKS
from training.checkpoint import Checkpoint, read
from training.device import choose_device, place
from training.settings import known
from utils.case import Case
from utils.cli import parse
from utils.errors import UserError, writing
from utils.files import check_plain, scratch
from utils.lock import only_writer
from utils.messages import message
from utils.nifti import write_nifti
from utils.progress import progress
from utils.provenance import provenance, sha256
from utils.values import checked_values


@dataclass(frozen=True)
class EvaluationSettings:
    """What to test. Network, patch size and edge-guided module come from the checkpoint, or for a published one from its weights."""

    root_path: Path | None = None
    """Folder of the data set; default: data_split/<data set> in the repository."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository (Pancreas: pancreas/result)."""
    exp: str | None = None
    """Name of the experiment, part of the run's folder; default: the published one (BCP, Pancreas: cutmix), or else the only run of the
    data set."""
    method: str | None = None
    """Method of the run: without --exp, the run with the name that training gives it, or else the only run of that method."""
    labelnum: int | None = None
    """Number of labelled patients or scans of the run to test (Pancreas: percent); default: the published one, or else the only run's."""
    model: str | None = None
    """Network; default: the checkpoint's, the published one for a published checkpoint."""
    stage_name: str | None = None
    """Which stage's checkpoint: self_train, pre_train or supervised, or as the method calls it; default: self_train, or else the stage
    that was written last."""
    which: Literal["best", "last", "both"] = "best"
    """The checkpoint selected in training, the last one, or both; with --output_dir the last one's files go to `last` in it."""
    checkpoint: Path | None = None
    """A checkpoint file, or the folder of a run or stage, instead of --exp and --labelnum."""
    split: Literal["test", "val"] = "test"
    """The case list to test on."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input; default: the checkpoint's, the published one for a published checkpoint."""
    stride: tuple[int, ...] = ()
    """Volumes: steps of the sliding window; default: the published ones. Larger steps are faster."""
    output_dir: Path | None = None
    """Where predictions, metrics.csv and summary.json go; default: <run>/test/<stage>_<checkpoint>_<split>, with a --checkpoint file
    outside of a run in test/ next to it. A folder with the results of another test is refused."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device to use; of a list, as in 0,1, the first."""
    other_data: bool = False
    """Test although the cases are not those that the run knew, or were trained on; without it that is an error."""
    detail: bool = False
    """Print the figures of each case too, as published (published flag; 0 or 1 may follow)."""


def evaluate(
    dataset: DatasetSpec, argv: Sequence[str] | None = None, description: str = "", **numbers
) -> None:
    """Test one or two checkpoints of a data set, ours or published; see `EvaluationSettings`. `numbers`: a script's own defaults."""
    kind = evaluation_type(dataset)
    s = parse(
        kind,
        translated(test_rules(dataset.commands), argv),
        kind(**_defaults(dataset, numbers)),
        description,
    )
    run(replace(dataset, test_numbers={**dataset.test_numbers, **numbers}), s)


def evaluation_type(dataset: DatasetSpec) -> type[EvaluationSettings]:
    """The settings of a test on a data set: those of every test and its own."""
    check_option_names(dataset.test_options, (EvaluationSettings,))
    bases = (*dataset.test_options, EvaluationSettings)
    return dataclass(frozen=True)(
        type("Evaluation", bases, {"__doc__": EvaluationSettings.__doc__})
    )


def settings_from_values(dataset: DatasetSpec, values: Mapping[str, object]) -> EvaluationSettings:
    """The settings of a test with these values of a Python caller; UserError for a name or a value that it cannot have."""
    kind = evaluation_type(dataset)
    merged = _defaults(dataset, {})
    merged.update(checked_values(kind, values))
    return kind(**merged)


def run(dataset: DatasetSpec, s: EvaluationSettings) -> list[EvaluationResult]:
    """Test one or two checkpoints. Raises UserError for what the user can correct."""
    device = choose_device(s.device, s.gpu)
    choice = choose_checkpoint(dataset, s)
    for note in choice.notes:
        message(note)
    chosen = [
        _Tested(dataset, s, checkpoint, device) for checkpoint in checkpoints(dataset, s, choice)
    ]
    root = data_root(dataset.info.name, s.root_path)
    cases = read_cases(dataset.info, root, s.split)
    names = [case.name for case in cases]
    for tested in chosen:
        if said := check_tested(
            tested.checkpoint,
            root,
            dataset.info,
            s.split,
            names,
            s.other_data,
        ):
            message(said)
    files = {s.split: [(name, dataset.info.path(root, name)) for name in names]}
    data = digest_of(survey(root, dataset.info, files))
    made_with = [tested.made_with(hashed(json.dumps(data))) for tested in chosen]
    if s.output_dir is not None:
        for tested, made in zip(chosen, made_with, strict=True):
            check_output(tested.output, made, names)
    results = []
    for tested, made in zip(chosen, made_with, strict=True):
        if s.output_dir is None:
            set_aside_others(tested.output, made, names)
        with only_writer(tested.output, "name another place with --output_dir"):
            check_output(tested.output, made, names)
            results.append(tested.run(cases, made))
    return results


def _defaults(dataset: DatasetSpec, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a test's flags; what `choose_checkpoint` chooses where no flag names it is not among them."""
    left_open = ("exp", "labelnum", "model")
    merged = {**dataset.test_numbers, **numbers}
    return {name: value for name, value in merged.items() if name not in left_open}


def choose_checkpoint(dataset: DatasetSpec, s: EvaluationSettings) -> Choice:
    """The run, stage and best checkpoint that the flags mean; raises UserError where they leave several."""
    for flag in ("exp", "stage_name", "model"):
        value = getattr(s, flag)
        if value is not None:
            check_plain(flag, value)
    if s.method is not None:
        known("method", s.method, METHODS)
    wanted = Wanted(
        exp=s.exp,
        labelnum=s.labelnum,
        stage=s.stage_name,
        model=s.model,
        method=s.method,
    )
    if s.checkpoint is None:
        return choose(dataset, s.output_root, wanted)
    if not s.checkpoint.is_dir():
        return Choice(s.checkpoint.parent.parent, s.checkpoint.parent.name, s.checkpoint)
    if stage_names(s.checkpoint):
        return choose_in(dataset, s.checkpoint, usual(dataset, "labelnum"), wanted)
    best, notes = find_checkpoint(s.checkpoint)
    return Choice(best.parent.parent, best.parent.name, best, notes)


@dataclass(frozen=True)
class Chosen:
    """A checkpoint to test; `folder`: where its results go, None where that follows from what the checkpoint says."""

    path: Path
    folder: Path | None


def checkpoints(dataset: DatasetSpec, s: EvaluationSettings, choice: Choice) -> list[Chosen]:
    """The checkpoints to test; raises UserError where one is missing."""
    if s.checkpoint is not None and not s.checkpoint.is_dir():
        chosen = [Chosen(choice.best, s.output_dir)]
    else:
        chosen = _of_run(s, choice)
    for checkpoint in chosen:
        if not checkpoint.path.is_file():
            raise UserError(
                f"{checkpoint.path}: no such checkpoint; train first, put a published one there, or name one with --checkpoint"
            )
    return chosen


def _of_run(s: EvaluationSettings, choice: Choice) -> list[Chosen]:
    """The best or the last checkpoint of a run, or both."""
    paths = {"best": choice.best, "last": choice.last}
    names = ["best", "last"] if s.which == "both" else [s.which]
    if s.which == "both" and not choice.last.is_file():
        names = ["best"]  # a published file has no last one next to it
    chosen = []
    for name in names:
        folder = s.output_dir
        if folder is None:
            folder = test_folder(choice.run, choice.stage, name, s.split)
        elif name != names[0]:
            folder = folder / name
        chosen.append(Chosen(paths[name], folder))
    return chosen


class _Tested:
    """One checkpoint, read and checked before the cases are."""

    def __init__(
        self, dataset: DatasetSpec, s: EvaluationSettings, chosen: Chosen, device: torch.device
    ):
        path = chosen.path
        info, checkpoint = dataset.info, read(path)
        if checkpoint.ours and checkpoint.info["name"] != info.name:
            raise UserError(
                f"{path}: a checkpoint of {checkpoint.info['name']}, expected one of {info.name}"
            )
        for line in check_agreement(checkpoint, info.plain(), dataset.plan, s.other_data):
            message(line)
        self.dataset = dataset
        self.split = s.split
        self.checkpoint = checkpoint
        self.device = device
        self.output = chosen.folder or folder_of_file(path, checkpoint, s.split)
        self.detail = s.detail
        self.root_path = None if s.root_path is None else str(s.root_path)
        self.model = model_of(dataset, s, checkpoint)
        options = default_options(self.model) | checkpoint.settings
        net = network_of(checkpoint, info, self.model, options)
        self.patch_size = s.patch_size or tuple(
            checkpoint.settings.get("patch_size", dataset.numbers["patch_size"])
        )
        check_patch(net, self.patch_size)
        self.stride = s.stride or tuple(dataset.stride)
        self.connectivity = None if hasattr(s, "nms") and not s.nms else dataset.connectivity
        if info.dims == 3:
            check_stride(self.stride, "stride")
        elif s.stride:
            raise UserError(
                f"--stride: {info.name} is predicted slice by slice, without a sliding window; leave it out"
            )
        self.net = place(net, device, info.dims)

    def run(self, cases: Sequence[Case], made_with: dict) -> EvaluationResult:
        """Predict, score, write, report.

        Everything is written to a hidden folder in the output folder first, so an interrupted test changes no earlier results.
        """
        output, checkpoint = self.output, self.checkpoint
        method = run_title(checkpoint.settings)
        message(
            f"checkpoint {checkpoint.path}\nmethod: {method}\nselection: {checkpoint.selection}"
        )
        with writing(output, REMEDY), scratch("test", output) as place:
            folder = place / "results"
            folder.mkdir()
            scores = self._predict(cases, folder)
            hashes = {case.name: sha256(folder / f"{case.name}{PREDICTION}") for case in cases}
            summary = self._summary(scores, len(cases))
            summary |= {"made_with": made_with, "prediction_sha256": hashes}
            write_results(folder, scores, summary)
            move_results(folder, output)
        message(table(summary))
        message(f"predictions, metrics.csv and summary.json are in {output}")
        return EvaluationResult(output, scores=tuple(scores), summary=summary)

    def made_with(self, data: str) -> dict:
        """What the results depend on; a test with the same values may replace them. `data`: a hash of the names and files of the
        cases."""
        return {
            "checkpoint": sha256(self.checkpoint.path),
            "model": self.model,
            "split": self.dataset.info.list_name(self.split),
            "data": data,
            "patch_size": list(self.patch_size),
            "stride": list(self.stride),
            "largest_component": self.connectivity is not None,
        }

    def _predict(self, cases: Sequence[Case], folder: Path) -> list[ClassScore]:
        """Predict and score the cases, their predictions written to the folder."""
        info = self.dataset.info
        predict = self.dataset.predictor(
            self.patch_size, self.stride, self.device, connectivity=self.connectivity, progress=True
        )
        scores = []
        with progress(
            predictions(self.net, cases, predict), total=len(cases), desc="testing", unit="case"
        ) as bar:
            if self.detail:
                message(detail_head(), over_bars=True)
            for case, prediction in bar:
                write_prediction(
                    folder / f"{case.name}{PREDICTION}", case, prediction, xyz=info.dims == 3
                )
                new = score_case(case, prediction, info.class_names)
                scores += new
                if self.detail:
                    message(detail(new), over_bars=True)
        return scores

    def _summary(self, scores: Sequence[ClassScore], cases: int) -> dict:
        checkpoint = self.checkpoint
        window = {}
        if self.stride:
            window = {
                "stride": list(self.stride),
                "largest_component": self.connectivity is not None,
            }
        return {
            "dataset": self.dataset.info.name,
            "split": self.dataset.info.list_name(self.split),
            "cases": cases,
            "root_path": self.root_path,
            "patch_size": list(self.patch_size),
            **window,
            **summarise(scores),
            "checkpoint": {
                "path": str(checkpoint.path),
                "sha256": sha256(checkpoint.path),
                "method": run_title(checkpoint.settings),
                "selection": checkpoint.selection,
                "settings": checkpoint.settings if checkpoint.ours else None,
            },
            **provenance(),
        }


def model_of(dataset: DatasetSpec, s: EvaluationSettings, checkpoint: Checkpoint) -> str:
    """The network of a checkpoint: its own, or for a published one the flag's, the one in its name or the data set's.

    Raises UserError where a flag contradicts the checkpoint.
    """
    for flag, value in (("model", s.model), ("method", s.method), ("labelnum", s.labelnum)):
        trained = checkpoint.settings.get(flag)
        if None not in (value, trained) and value != trained:
            raise UserError(
                f"--{flag} {value}: {checkpoint.path} was trained with --{flag} {trained}; leave --{flag} out"
            )
    published = s.model or network_in_name(checkpoint.path) or usual(dataset, "model")
    return checkpoint.settings.get("model", published)


def write_prediction(path: Path, case: Case, prediction: np.ndarray, xyz: bool) -> None:
    """A prediction as NIfTI, its axes slices first or, with `xyz`, x, y, z; the case's affine or else its spacing goes with it."""
    spacing = None if case.affine is not None else case.spacing_mm
    if xyz:
        prediction, spacing = (
            prediction.transpose(2, 1, 0),
            None if spacing is None else spacing[::-1],
        )
    write_nifti(path, prediction, spacing, case.affine)


def default_options(model: str) -> dict:
    """What a network has whose file does not say: its options' defaults."""
    return (
        {field.name: field.default for field in fields(NETWORKS[model].Options)}
        if model in NETWORKS
        else {}
    )
