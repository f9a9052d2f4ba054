"""Test a saved or published checkpoint: predictions, metrics, and a summary with provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import torch
import tyro

from commands.agreement import check_agreement
from commands.fast_networks import fast_network
from commands.networks import check_patch, default_options, network_of
from commands.published_flags import test_rules, translated
from commands.run_data import check_tested
from commands.runs import (
    RunChoice,
    RunRequest,
    choose,
    choose_in,
    find_checkpoint,
    network_in_name,
    stage_names,
    usual_value,
)
from commands.test_folder import (
    PREDICTION,
    REMEDY,
    USUAL,
    check_output,
    folder_of_file,
    move_results,
    set_aside_others,
    test_folder,
    with_network,
)
from dataloaders.cases import read_cases
from dataloaders.digest import content_hash
from datasets.base import DatasetSpec, data_root
from evaluation.results import (
    EvaluationResult,
    detail,
    detail_head,
    summarise,
    table,
    write_results,
)
from evaluation.scores import ClassScore, score_case
from evaluation.settings import EvaluationSettings
from evaluation.sliding_window import check_stride
from evaluation.speed import accelerate_of
from evaluation.tolerance import class_tolerances
from evaluation.validation import predictions
from methods.registry import METHODS, run_title
from scans.nifti_writer import write_nifti
from training.checkpoint import Checkpoint, read
from training.device import autocast_type, choose_device, place
from utils.case import Case
from utils.cli import parse
from utils.errors import UserError, writing
from utils.files import check_plain, scratch
from utils.lock import only_writer
from utils.messages import message
from utils.pipeline import ahead, worker
from utils.progress import progress
from utils.provenance import provenance, sha256
from utils.registry import check_name
from utils.values import checked_values


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint to test.

    `output`: the folder for its results; None if it follows from the checkpoint's content.
    """

    path: Path
    output: Path | None


SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class AnyDatasetTest(Generic[SettingsT]):
    """The flags of a test script for every data set."""

    settings: Annotated[SettingsT, tyro.conf.arg(name="test")]
    dataset: str = ""
    """Name of a public data set, or the Python file that describes one. Not needed with
    --checkpoint of ours, and for own data, which need --root_path.
    """


def settings_from_flags(
    dataset: DatasetSpec,
    argv: Sequence[str],
    *,
    description: str | None = None,
    any_dataset: bool = False,
) -> EvaluationSettings:
    """The settings of a test that a command line asks for.

    `any_dataset`: the script has the flag --dataset. Raises UserError for a wrong flag or value.
    """
    kind = dataset.test_settings
    settings = kind(**_defaults(dataset))
    argv = translated(test_rules(dataset.commands), argv)
    if not any_dataset:
        return parse(kind, argv, default=settings, description=description)
    command: Any = AnyDatasetTest[kind]
    default = AnyDatasetTest(settings)
    return parse(command, argv, default=default, description=description).settings


def settings_from_values(dataset: DatasetSpec, values: Mapping[str, object]) -> EvaluationSettings:
    """The settings of a test with these values from Python.

    Raises UserError for an unknown name and for a value of the wrong type.
    """
    kind = dataset.test_settings
    merged = _defaults(dataset)
    merged.update(checked_values(kind, values))
    return kind(**merged)


def _defaults(dataset: DatasetSpec) -> dict[str, Any]:
    """The defaults of a test's flags, without those that `choose_checkpoint` sets."""
    merged = dict(dataset.test_defaults)
    for name in ("exp", "labelnum", "model"):
        merged.pop(name, None)
    return merged


def run(dataset: DatasetSpec, settings: EvaluationSettings) -> list[EvaluationResult]:
    """Test one or two checkpoints. Raises UserError for what the user can correct."""
    device = choose_device(settings.device, settings.gpu)
    choice = choose_checkpoint(dataset, settings)
    for note in choice.notes:
        message(note)
    tests: list[CheckpointTest] = []
    for file in checkpoint_files(settings, choice):
        test = CheckpointTest(dataset, settings, file, device)
        if tests and test.has_iteration_of(tests[0]):
            best = tests[0].checkpoint.path.name
            message(f"{file.path}: the same network as {best}, tested once")
            continue
        tests.append(test)
    root = data_root(dataset.info.name, settings.root_path)
    cases = read_cases(dataset.info, root, settings.split)
    names = [case.name for case in cases]
    for test in tests:
        warnings = check_tested(
            test.checkpoint,
            root,
            info=dataset.info,
            split=settings.split,
            names=names,
            other=settings.other_data,
        )
        if warnings:
            message(warnings)
    data = content_hash(root, dataset.info, settings.split)
    inputs = [test.made_with(data) for test in tests]
    if settings.output_dir is not None:
        for test, made_with in zip(tests, inputs, strict=True):
            check_output(test.output, made_with, names)
    results: list[EvaluationResult] = []
    for test, made_with in zip(tests, inputs, strict=True):
        if settings.output_dir is None:
            set_aside_others(test.output, made_with, names)
        with only_writer(test.output, "name another folder with --output_dir"):
            check_output(test.output, made_with, names)
            results.append(test.run(cases, made_with))
    return results


def choose_checkpoint(dataset: DatasetSpec, settings: EvaluationSettings) -> RunChoice:
    """Find the run, stage and best checkpoint that the flags mean.

    Raises UserError if several fit.
    """
    for flag in ("exp", "stage_name", "model"):
        value = getattr(settings, flag)
        if value is not None:
            check_plain(flag, value)
    if settings.method is not None:
        check_name(METHODS, settings.method, flag="--method")
    request = RunRequest(
        exp=settings.exp,
        labelnum=settings.labelnum,
        stage=settings.stage_name,
        model=settings.model,
        method=settings.method,
    )
    path = settings.checkpoint
    if path is None:
        return choose(dataset, settings.output_root, request)
    if stage_names(path):
        return choose_in(dataset, path, usual_value(dataset, "labelnum"), request)
    best = path
    notes: tuple[str, ...] = ()
    if path.is_dir():
        best, notes = find_checkpoint(path)
    return RunChoice(best.parent.parent, stage=best.parent.name, best=best, notes=notes)


def checkpoint_files(settings: EvaluationSettings, choice: RunChoice) -> list[CheckpointFile]:
    """The checkpoints to test; raises UserError if one is missing."""
    if settings.checkpoint is not None and not settings.checkpoint.is_dir():
        files = [CheckpointFile(choice.best, settings.output_dir)]
    else:
        files = _files_of_run(settings, choice)
    for file in files:
        if not file.path.is_file():
            raise UserError(
                f"{file.path}: no such checkpoint; train first, put a published one there, or name "
                f"one with --checkpoint"
            )
    return files


def _files_of_run(settings: EvaluationSettings, choice: RunChoice) -> list[CheckpointFile]:
    """The best or the last checkpoint of a run, or both."""
    paths = {"best": choice.best, "last": choice.last}
    names = [settings.which]
    if settings.which == "both":
        names = ["best"]
        if choice.last.is_file():  # there is none next to a published checkpoint
            names.append("last")
    files: list[CheckpointFile] = []
    for name in names:
        folder = settings.output_dir
        if folder is None:
            named = with_network(name, settings.network)
            folder = test_folder(choice.run, choice.stage, named, settings.split)
        elif name != names[0]:
            folder = folder / name
        files.append(CheckpointFile(paths[name], folder))
    return files


def _read_checkpoint(path: Path, dataset: DatasetSpec, settings: EvaluationSettings) -> Checkpoint:
    """Read the checkpoint with the network of --network selected, and report warnings about its
    data.

    Raises UserError if it does not fit the data set.
    """
    info = dataset.info
    checkpoint = read(path)
    if settings.network is not None:
        checkpoint = checkpoint.of_network(settings.network)
    if checkpoint.ours and checkpoint.info["name"] != info.name:
        raise UserError(
            f"{path}: a checkpoint of {checkpoint.info['name']}, expected one of "
            f"{info.name}; name another --checkpoint, or the data set that it was trained on"
        )
    warnings = check_agreement(
        checkpoint, info.plain(), plan=dataset.plan, other_data=settings.other_data
    )
    for line in warnings:
        message(line)
    return checkpoint


class CheckpointTest:
    """One checkpoint, which is read and checked before the cases are."""

    def __init__(
        self,
        dataset: DatasetSpec,
        settings: EvaluationSettings,
        file: CheckpointFile,
        device: torch.device,
    ) -> None:
        """Read the checkpoint and build its network.

        Raises UserError if it does not fit the data set or the settings.
        """
        info = dataset.info
        self._tolerances = class_tolerances(settings.nsd_tolerance, info.class_names[1:])
        checkpoint = _read_checkpoint(file.path, dataset, settings=settings)
        self.checkpoint = checkpoint
        self.output = file.output or folder_of_file(
            file.path, checkpoint, split=settings.split, network=settings.network
        )
        self._dataset = dataset
        self._settings = settings
        self._model = model_of(dataset, settings, checkpoint)
        options = default_options(self._model) | checkpoint.settings
        net = network_of(checkpoint, info, self._model, options)
        trained_size = checkpoint.settings.get("patch_size", dataset.defaults["patch_size"])
        self._patch_size = settings.patch_size or tuple(trained_size)
        check_patch(net, self._patch_size)
        self._stride = settings.stride or tuple(dataset.stride)
        self._connectivity = dataset.connectivity
        if not settings.filters_components:
            self._connectivity = None
        if info.dims == 3:
            check_stride(self._stride, "stride")
        elif settings.stride:
            raise UserError(
                f"--stride: {info.name} is predicted slice by slice, without a sliding window; "
                f"remove it"
            )
        self._amp = autocast_type(settings.amp, device)
        predictor = dataset.predictor(
            self._patch_size,
            self._stride,
            device,
            connectivity=self._connectivity,
            progress=True,
        )
        self._predictor = self._adapted(predictor)
        how = accelerate_of(settings.accelerate)
        batch = getattr(predictor, "batch", 1)
        fast_net = fast_network(net.eval(), how, device, batch, self._amp)
        self._net = place(fast_net, device, info.dims, self._amp)

    def has_iteration_of(self, other: "CheckpointTest") -> bool:
        """Whether two checkpoints of a stage were saved after the same iteration.

        False for a published checkpoint, which does not record its iteration.
        """
        step = self.checkpoint.progress.get("step")
        return step is not None and step == other.checkpoint.progress.get("step")

    def _adapted(self, predictor: Any) -> Any:
        """The predictor with --amp, --blend and --interpolation; itself where they have the
        published values.
        """
        values: dict[str, object] = {**self._smoothing()}
        if self._amp is not None:
            values["amp"] = self._amp
        for flag in values:
            if not hasattr(predictor, flag):
                raise UserError(
                    f"--{flag}: the predictor of {self._dataset.info.name} has no such option "
                    f"({type(predictor).__name__}); remove it"
                )
        if not values:
            return predictor
        return replace(predictor, **values)

    def run(self, cases: Sequence[Case], made_with: Mapping[str, object]) -> EvaluationResult:
        """Predict, score, write and report.

        Everything is written to a hidden folder in the output folder first, so an interrupted test
        changes no earlier results.
        """
        output = self.output
        checkpoint = self.checkpoint
        message(f"checkpoint {checkpoint.path}")
        message(f"method: {run_title(checkpoint.settings)}")
        message(f"selection: {checkpoint.selection}")
        with writing(output, REMEDY), scratch("test", output) as hidden:
            folder = hidden / "results"
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

    def made_with(self, data: str) -> dict[str, object]:
        """Everything that the results depend on; a test with the same values may replace them.

        `data`: a hash of the names and files of the cases.
        """
        made_with: dict[str, object] = {
            "checkpoint": sha256(self.checkpoint.path),
            "model": self._model,
            "network": self.checkpoint.selected,
            "split": self._dataset.info.list_name(self._settings.split),
            "data": data,
            "patch_size": list(self._patch_size),
            "stride": list(self._stride),
            "largest_component": self._connectivity is not None,
        }
        return made_with | self._not_published()

    def _not_published(self) -> dict[str, str]:
        """The settings that results depend on and that differ from the published arithmetic."""
        settings = self._smoothing()
        if self._amp is not None:
            settings["amp"] = str(self._amp).removeprefix("torch.")
        accelerate = accelerate_of(self._settings.accelerate)
        if accelerate != "off":
            settings["accelerate"] = accelerate
        return settings

    def _smoothing(self) -> dict[str, str]:
        """--blend and --interpolation where they differ from the published arithmetic."""
        settings = self._settings
        chosen = {"blend": settings.blend, "interpolation": settings.interpolation}
        return {flag: value for flag, value in chosen.items() if value != USUAL[flag]}

    def _predict(self, cases: Sequence[Case], folder: Path) -> list[ClassScore]:
        """Predict and score the cases; the predictions are written to the folder.

        While the network predicts a case, a thread writes and scores the one before it.
        """
        info = self._dataset.info

        def score(predicted: tuple[Case, np.ndarray]) -> list[ClassScore]:
            case, prediction = predicted
            path = folder / f"{case.name}{PREDICTION}"
            write_prediction(path, case, prediction, xyz=info.dims == 3)
            return score_case(case, prediction, info.class_names, tolerances=self._tolerances)

        scores: list[ClassScore] = []
        with (
            worker("scoring") as scorer,
            progress(
                predictions(self._net, cases, self._predictor),
                total=len(cases),
                desc="testing",
                unit="case",
            ) as bar,
        ):
            if self._settings.detail:
                message(detail_head(), over_bars=True)
            for _, scoring in ahead(scorer, score, bar, 1):
                case_scores = scoring.result()
                scores += case_scores
                if self._settings.detail:
                    message(detail(case_scores), over_bars=True)
        return scores

    def _summary(self, scores: Sequence[ClassScore], cases: int) -> dict[str, Any]:
        """The content of summary.json."""
        checkpoint = self.checkpoint
        root_path = None
        if self._settings.root_path is not None:
            root_path = str(self._settings.root_path)
        summary: dict[str, Any] = {
            "dataset": self._dataset.info.name,
            "split": self._dataset.info.list_name(self._settings.split),
            "cases": cases,
            "root_path": root_path,
            "patch_size": list(self._patch_size),
        }
        if self._stride:
            summary["stride"] = list(self._stride)
            summary["largest_component"] = self._connectivity is not None
        if self._settings.network is not None:
            summary["network"] = self._settings.network
        summary |= self._not_published()
        summary |= summarise(scores)
        summary["checkpoint"] = {
            "path": str(checkpoint.path),
            "sha256": sha256(checkpoint.path),
            "method": run_title(checkpoint.settings),
            "selection": checkpoint.selection,
            "settings": checkpoint.recorded_settings,
        }
        return summary | provenance()


def model_of(dataset: DatasetSpec, settings: EvaluationSettings, checkpoint: Checkpoint) -> str:
    """The network of a checkpoint.

    For a published one it is that of the flag, of the file's name, or of the data set. Raises
    UserError if a flag contradicts the checkpoint.
    """
    for flag in ("model", "method", "labelnum"):
        value = getattr(settings, flag)
        trained = checkpoint.settings.get(flag)
        if None not in (value, trained) and value != trained:
            raise UserError(
                f"--{flag} {value}: {checkpoint.path} was trained with --{flag} {trained}; remove "
                f"--{flag}"
            )
    published = settings.model or network_in_name(checkpoint.path) or usual_value(dataset, "model")
    return checkpoint.settings.get("model", published)


def write_prediction(path: Path, case: Case, prediction: np.ndarray, xyz: bool) -> None:
    """Write a prediction as NIfTI with the affine or else the spacing of its case.

    The axes of `prediction` are slices first or, with `xyz`, x, y, z.
    """
    spacing = case.spacing_mm
    if case.affine is not None:
        spacing = None
    if xyz:
        prediction = prediction.transpose(2, 1, 0)
        if spacing is not None:
            spacing = spacing[::-1]
    write_nifti(path, prediction, spacing, case.affine)
