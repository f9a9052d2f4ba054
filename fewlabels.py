"""FewLabels from Python: what the scripts in `code/` do, as functions.

    import fewlabels

    model = fewlabels.load_model("my_runs/BCP/mine")
    prediction = model.predict(array, spacing=(0.8, 0.8, 3.0))

Arguments are plain values and paths (str or Path), results are frozen dataclasses. What the user
can correct is a `UserError`. Nothing is printed: messages go to the logger "fewlabels", and
`progress=False` switches progress bars off.

`prepare`, `check`, `evaluate` and `register` start processes. A Python file that calls them needs
`if __name__ == "__main__":` around the call; a notebook does not.
"""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import commands  # noqa: F401 (sets what OpenMP reads when torch is loaded)

# isort: split
import numpy as np
import torch
from numpy.typing import ArrayLike

from commands import benchmark as benchmarking
from commands import check as checking
from commands import compare as comparing
from commands import evaluate as scoring
from commands import export as exporting
from commands import export_model as exporting_models
from commands import leaderboard as ranking
from commands import make_phantom as drawing
from commands import predict as predicting
from commands import prepare as preparing
from commands import register as registering
from commands import suggest as suggesting
from commands import test as testing
from commands import train as training
from commands.any_dataset import data_of_checkpoint, find_data
from commands.benchmark import BenchmarkResult, BenchmarkSettings
from commands.check import CheckResult, CheckSettings
from commands.compare import CompareResult, CompareSettings, ReportSettings
from commands.config_file import ConfigFile, read_config_file
from commands.evaluate import ScoringSettings
from commands.export import ExportSettings, Layout
from commands.export_model import ExportModelResult, ExportModelSettings
from commands.leaderboard import LeaderboardResult, LeaderboardSettings
from commands.make_phantom import PhantomSettings
from commands.predict import PredictResult
from commands.predict_array import predict_array
from commands.predict_model import Model as Networks
from commands.predict_model import read_model
from commands.predict_settings import ModelSettings, PredictSettings
from commands.predict_uncertainty import Kind
from commands.prepare import PrepareResult, PrepareSettings
from commands.register import RegisterResult
from commands.run_folder import with_earlier_name
from commands.suggest import SuggestResult, SuggestSettings
from commands.train import TrainResult
from commands.train_flags import file_values
from datasets.base import DatasetSpec
from datasets.registry import all_datasets, find_dataset, kind_of
from datasets.resolve import resolve_values
from evaluation.masks import TOLERANCE
from evaluation.results import EvaluationResult
from evaluation.scores import ClassScore
from evaluation.settings import EvaluationSettings
from evaluation.tolerance import tolerance_words
from registration.settings import RegistrationSettings
from training.config import AnyConfig, RunConfig
from training.device import choose_device
from training.stage import StageResult
from utils.errors import Interrupted, ReportedError, UserError
from utils.messages import LOGGER, Log, received_by, uses_terminal
from utils.names import and_more, printable
from utils.values import checked, convert

__all__ = [
    "BenchmarkResult",
    "CheckResult",
    "ClassScore",
    "CompareResult",
    "EvaluationResult",
    "ExportModelResult",
    "Interrupted",
    "LeaderboardResult",
    "Model",
    "PredictResult",
    "Prediction",
    "PrepareResult",
    "RegisterResult",
    "StageResult",
    "SuggestResult",
    "TrainResult",
    "UserError",
    "benchmark",
    "check",
    "compare",
    "evaluate",
    "export",
    "export_model",
    "leaderboard",
    "load_model",
    "make_phantom",
    "predict",
    "prepare",
    "register",
    "report",
    "suggest",
    "test",
    "train",
]

StrPath: TypeAlias = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one array, on the array's own grid.

    `labels`: label values of the training data (a small unsigned type), with the array's spatial
    axes. `probabilities`: float32, classes first (in the order of `Model.class_names`), then the
    spatial axes; None if they were not asked for. `warnings`: what is strange about the array.
    `uncertainty`: the maps that were asked for, by kind, float32, with the spatial axes.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    warnings: tuple[str, ...]
    uncertainty: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network, or several whose probabilities are averaged; made by `load_model`."""

    _networks: Networks
    _largest_component: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, the background first."""
        return tuple(self._networks.info.class_names)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The value that each class has in `Prediction.labels`."""
        return tuple(int(value) for value in self._networks.values)

    @property
    def channels(self) -> int:
        """Number of channels (modalities) that the network takes."""
        return self._networks.info.channels

    @property
    def dims(self) -> int:
        """2 for a network that predicts slices, 3 for one that predicts volumes."""
        return self._networks.info.dims

    def predict(
        self,
        array: ArrayLike,
        spacing: Sequence[float] | None = None,
        affine: ArrayLike | None = None,
        *,
        probabilities: bool = True,
        uncertainty: Sequence[Literal["entropy", "mirror", "dropout", "ensemble"]] = (),
        passes: int = 8,
        progress: bool = True,
    ) -> Prediction:
        """Predict one scan. It is prepared as the training scans were (resampled, normalised), and
        the result is resampled to the array's grid.

        `array`, with the axes in the order in which nibabel reads a file (x, y, z for most):

        - (X, Y, Z) or (C, X, Y, Z): a volume, also for a 2-D network, which predicts its slices;
        - (X, Y) or (C, X, Y), for a 2-D network: one slice of such a volume, normalised by itself;
        - (H, W) or (C, H, W), for a 2-D network, without `spacing`: a picture, rows first, as of a
          PNG file. It is not resampled.

        The axis C may be omitted where the network takes one channel. Intensities are those of the
        scan's file, after its slope and intercept.

        `spacing`: size of a voxel in mm along each spatial axis, in the array's axis order: 3
        values, or 2 for a slice. `affine`: (4, 4), from array indices to mm in NIfTI's world, such
        as `nibabel.load(path).affine`; it may stand for `spacing`. Without it the axes are taken to
        run to the patient's right, front and head. Networks that were trained on own data expect
        this orientation, so pass the affine of an array with another one. For an array (Z, Y, X) of
        SimpleITK, pass `array.T`. `probabilities`: return them too; without, a large scan takes
        less memory. `uncertainty`: maps to return, each 0 where the networks are certain: entropy
        (nats), mirror (variance over all flips), dropout (variance over `passes` passes with
        dropout), ensemble (variance over checkpoints); see docs/prediction.md.

        With the affine of a file, `labels` equals what code/predict.py writes for that file. Raises
        UserError where the array does not fit the network.
        """
        with _quiet(progress):
            warnings: list[str] = []
            kinds = convert("uncertainty", uncertainty, kind=tuple[Kind, ...])
            networks = self._networks.with_uncertainty(kinds, convert("passes", passes, kind=int))
            prediction = predict_array(
                networks,
                array,
                spacing=spacing,
                affine=affine,
                with_probabilities=probabilities,
                largest_component=self._largest_component,
                warn=warnings.append,
            )
            for line in warnings:
                LOGGER.warning("%s", printable(line))
        labels = self._networks.values[prediction.classes]
        return Prediction(
            labels,
            probabilities=prediction.probabilities,
            warnings=tuple(warnings),
            uncertainty=prediction.uncertainty,
        )


def load_model(
    checkpoint: StrPath | Sequence[StrPath],
    device: str = "auto",
    *,
    network: str | None = None,
    dataset: str | None = None,
    tta: Literal["none", "mirror"] = "none",
    largest_component: bool = False,
    patch_size: Sequence[int] = (),
    stride: Sequence[int] = (),
    blend: Literal["uniform", "gaussian"] | None = None,
    interpolation: Literal["linear", "nearest"] | None = None,
    batch: int = 0,
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto",
    accelerate: Literal["auto", "off", "fold", "compile"] = "auto",
    box: Sequence[int] = (),
    variant: str | None = None,
    size: Sequence[int] | None = None,
) -> Model:
    """Load a trained network to predict arrays with.

    `checkpoint`: the folder of a run (its best checkpoint is taken), the folder of a stage, or a
    file; several are averaged. `device`: auto, cpu, cuda, cuda:1, mps. `network`: of checkpoints
    that hold several, as student, other or mean; default: the one that was selected in training.
    `dataset`: needed for a published checkpoint (ACDC, LA, Pancreas, KiTS19, LiTS). `tta`: mirror
    averages over all flips. `largest_component`: keep the largest component of each class.
    `patch_size`, `stride`: of the network's input and of the sliding window, in voxels; default:
    those of the checkpoint, and half a window. `blend`: how overlapping windows are averaged,
    uniform or gaussian; default: gaussian for networks of own data, otherwise uniform.
    `interpolation`: how slices are resized from the network's size to the scan's: linear (default),
    or nearest as in the published test. `batch`: windows (default 4) or slices (16) that go through
    the network at a time. `amp`: precision: off (float32), bf16, fp16, or auto, bfloat16 or float16
    if the hardware computes in it. `accelerate`: off, fold (batch norm becomes part of the
    convolutions), compile (torch.compile too), or auto, which folds. `box`: LA, Pancreas, KiTS19,
    LiTS: start and end of each axis of the array, in voxels, of the part to look at. `variant`,
    `size`: the preparation of Pancreas, or of KiTS19 and LiTS, that the network was trained on.

    Raises UserError where there is no checkpoint, or options do not suit it.
    """
    values = {
        "checkpoint": _several(checkpoint),
        "device": device,
        "network": network,
        "dataset": dataset,
        "tta": tta,
        "largest_component": largest_component,
        "patch_size": patch_size,
        "stride": stride,
        "blend": blend,
        "interpolation": interpolation,
        "batch": batch,
        "amp": amp,
        "accelerate": accelerate,
        "box": box,
        "variant": variant,
        "size": size,
    }
    with _quiet(progress=False):
        settings = checked(ModelSettings, values)
        settings.check()
        settings = predicting.with_checkpoints(settings)
        networks = read_model(settings, choose_device(settings.device, settings.gpu))
        predicting.warn_about_crop(networks)
    return Model(networks, _largest_component=settings.largest_component)


def predict(
    checkpoint: StrPath | Sequence[StrPath],
    input: StrPath,
    output: StrPath,
    device: str = "auto",
    *,
    gpu: str | None = None,
    network: str | None = None,
    dataset: str | None = None,
    tta: Literal["none", "mirror"] = "none",
    probabilities: bool = False,
    uncertainty: Sequence[Literal["entropy", "mirror", "dropout", "ensemble"]] = (),
    passes: int = 8,
    largest_component: bool = False,
    patch_size: Sequence[int] = (),
    stride: Sequence[int] = (),
    blend: Literal["uniform", "gaussian"] | None = None,
    interpolation: Literal["linear", "nearest"] | None = None,
    batch: int = 0,
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto",
    accelerate: Literal["auto", "off", "fold", "compile"] = "auto",
    box: Sequence[int] = (),
    variant: str | None = None,
    size: Sequence[int] | None = None,
    ahead: int = 1,
    part: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> PredictResult:
    """Predict the scans of a folder, or one scan, into files on the scans' own grids, as
    code/predict.py does.

    `input`: a NIfTI, NRRD or MHA file, a folder of them and of DICOM series, or PNG pictures for
    2-D networks. `output`: the folder for the predictions and predict.json. Finished predictions
    are kept unless `overwrite`. `probabilities`: write CASE.npz too. `uncertainty`: kinds of maps
    to write too, as CASE_uncertainty_KIND, and `passes`: as in `Model.predict`. `ahead`: scans that
    are prepared while the network predicts another one; 0 takes the least memory. `part`: "i/n",
    the i-th of n shares of the scans. `gpu`: number of the CUDA device, which `device` can also
    name, as cuda:1. Others: see `load_model`.

    A scan that cannot be predicted is in `failed` of the result; the others are predicted.
    """
    values = {
        "checkpoint": _several(checkpoint),
        "input": input,
        "output": output,
        "device": device,
        "gpu": gpu,
        "network": network,
        "dataset": dataset,
        "tta": tta,
        "probabilities": probabilities,
        "uncertainty": uncertainty,
        "passes": passes,
        "largest_component": largest_component,
        "patch_size": patch_size,
        "stride": stride,
        "blend": blend,
        "interpolation": interpolation,
        "batch": batch,
        "amp": amp,
        "accelerate": accelerate,
        "box": box,
        "variant": variant,
        "size": size,
        "ahead": ahead,
        "part": part,
        "overwrite": overwrite,
    }
    with _quiet(progress):
        return predicting.run(checked(PredictSettings, values))


def suggest(
    predictions: StrPath | Sequence[StrPath],
    output: StrPath = "suggestions",
    *,
    count: int = 3,
    strategy: Literal["combined", "uncertainty", "diverse", "random"] = "random",
    labelled: Sequence[str] = (),
    kind: Literal["entropy", "mirror", "dropout", "ensemble"] | None = None,
    two_slices: bool = False,
    seed: int = 1337,
    progress: bool = True,
) -> SuggestResult:
    """Suggest which predicted cases are worth annotating next, as code/suggest.py does.

    `predictions`: folders that `predict` wrote with `uncertainty`. `output`: the folder for
    suggest.json, suggest.csv and the files of each case. `strategy`: uncertainty takes the most
    uncertain cases, diverse those that differ most, combined diverse ones among the most uncertain,
    random draws with `seed`. `labelled`: names of cases that are already annotated, or a text file
    of them. `kind`: of the map that counts; default: entropy, or else the first one. `two_slices`:
    suggest CoGRNet's two slices of each case too.

    Raises UserError where the predictions lack what the strategy needs.
    """
    values = {
        "predictions": _several(predictions),
        "output": output,
        "count": count,
        "strategy": strategy,
        "labelled": labelled,
        "kind": kind,
        "two_slices": two_slices,
        "seed": seed,
    }
    with _quiet(progress):
        return suggesting.run(checked(SuggestSettings, values))


def prepare(
    dataset: str,
    source: StrPath,
    root_path: StrPath,
    *,
    crop: Literal["published", "none"] = "published",
    variant: str | None = None,
    size: Sequence[int] | None = None,
    dims: Literal[2, 3] | None = None,
    cases: Sequence[str] | None = None,
    workers: int = 0,
    redo: bool = False,
    progress: bool = True,
) -> PrepareResult:
    """Prepare raw scans below `source` for training, into `root_path`, as code/prepare_data.py
    does.

    `dataset`: the name or the Python file of a data set, or "own" for scans in nnU-Net's raw
    layout (docs/data.md). `dims`: own data only, 2 to train on slices, 3 on volumes; default: by
    the scans' spacing. `cases`: only these, by name. `workers`: processes; 0: one for each
    processor. `redo`: prepare finished cases again. `crop`, `variant`, `size`: of the public data
    sets.

    A case that cannot be prepared is in `failed` of the result; the others are prepared.
    """
    values = {
        "dataset": dataset,
        "source": source,
        "root_path": root_path,
        "crop": crop,
        "variant": variant,
        "size": size,
        "dims": dims,
        "cases": cases,
        "workers": workers,
        "redo": redo,
    }
    with _quiet(progress):
        return preparing.run(checked(PrepareSettings, values))


def check(
    root_path: StrPath,
    *,
    dataset: str = "",
    output: StrPath | None = None,
    pictures: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> CheckResult:
    """Check raw or prepared data before training, as code/check_data.py does; writes check.json.

    `dataset`: of prepared data, where it cannot be recognised. `output`: folder for check.json and
    pictures; default: `root_path`. `pictures`: draw every case with its label. `workers`:
    processes; 0: one for each processor.

    What is wrong with the data is in `errors` of the result. Raises UserError where there is no
    data set.
    """
    values = {
        "root_path": root_path,
        "dataset": dataset,
        "output": output,
        "pictures": pictures,
        "workers": workers,
    }
    with _quiet(progress):
        return checking.run(checked(CheckSettings, values))


def train(
    config: AnyConfig | StrPath | Mapping[str, object] | None = None,
    *,
    dataset: DatasetSpec | str | None = None,
    root_path: StrPath | None = None,
    two_slices: bool = False,
    progress: bool = True,
    **options: object,
) -> TrainResult:
    """Train a network, or resume a run that was interrupted, as code/train.py does.

    `config`: options by name, as a mapping or a JSON file: an object of options, or config.json of
    a run. Keywords win over it. `dataset`: a public data set, the Python file of a data set
    (docs/extending.md), or a `DatasetSpec`. Without it, `root_path` is the folder of own data that
    `prepare` wrote. `two_slices`: train CoGRNet or its baselines, as code/CoGRNet_train.py does.
    `options`: those of code/train.py --help without the dashes, such as method="bcp", labelnum=3,
    exp="mine", output_root="my_runs", max_iterations=2000, patch_size=(80, 80), seed=7,
    device="cpu", losses={"dice": 0.5, "ce": 0.5}.

    Raises UserError for what the user can correct, and Interrupted after Ctrl-C or SIGTERM;
    everything is saved then, and the same call resumes.
    """
    with _quiet(progress):
        if isinstance(config, RunConfig):
            if options or root_path is not None or not isinstance(dataset, DatasetSpec):
                raise UserError(
                    "config: a RunConfig needs the DatasetSpec that it was made for, and no options"
                )
            return training.run(dataset, config)
        spec, run_config = _run_config(config, dataset, root_path, options, two_slices=two_slices)
        return training.run(spec, run_config)


def test(
    checkpoint: StrPath | EvaluationSettings,
    *,
    dataset: DatasetSpec | str | None = None,
    root_path: StrPath | None = None,
    which: Literal["best", "last"] = "best",
    split: Literal["test", "val"] = "test",
    stage_name: str | None = None,
    network: str | None = None,
    patch_size: Sequence[int] = (),
    stride: Sequence[int] = (),
    blend: Literal["uniform", "gaussian"] = "uniform",
    interpolation: Literal["linear", "nearest"] = "nearest",
    amp: Literal["off", "auto", "bf16", "fp16"] = "off",
    accelerate: Literal["off", "auto", "fold", "compile"] = "off",
    nsd_tolerance: float | Mapping[str, float] = TOLERANCE,
    output_dir: StrPath | None = None,
    device: str = "auto",
    other_data: bool = False,
    two_slices: bool = False,
    progress: bool = True,
) -> EvaluationResult:
    """Test a run or a checkpoint on the prepared cases of its data set, as code/test.py does.

    `checkpoint`: the folder of a run or of a stage, or a file; or all settings of the test for a
    `DatasetSpec`, and no further options. Where these select two checkpoints, both are tested, and
    the result is that of the best one. `dataset`: needed for a published checkpoint. `root_path`:
    the folder of the prepared data; needed for own data. `which`: of a run, the best or the last
    checkpoint. `stage_name`: of a run; default: self_train, or else the stage that was written
    last. `network`: of a checkpoint that holds several; default: the one that was selected in
    training. `nsd_tolerance`: in mm, one number or numbers by class (a class that is not named has
    the default). `output_dir`: folder for predictions, metrics.csv and summary.json; default: in
    the run's folder. `other_data`: test although the cases are not those that the run was trained
    with. `two_slices`: as in `train`. `patch_size`, `stride`: in voxels; default: the checkpoint's
    and the published ones. `blend`, `interpolation`, `amp`, `accelerate`: as in `load_model`;
    default: the published arithmetic.
    """
    if isinstance(checkpoint, EvaluationSettings):
        if not isinstance(dataset, DatasetSpec):
            raise UserError("dataset: settings of a test need the DatasetSpec that they are for")
        with _quiet(progress):
            return testing.run(dataset, checkpoint)[0]
    values: dict[str, object] = {
        "checkpoint": checkpoint,
        "root_path": root_path,
        "which": convert("which", which, kind=Literal["best", "last"]),
        "split": split,
        "stage_name": stage_name,
        "network": network,
        "blend": blend,
        "interpolation": interpolation,
        "amp": amp,
        "accelerate": accelerate,
        "nsd_tolerance": tolerance_words(nsd_tolerance),
        "output_dir": output_dir,
        "device": device,
        "other_data": other_data,
    }
    if len(patch_size):
        values["patch_size"] = patch_size
    if len(stride):
        values["stride"] = stride
    kind = kind_of(two_slices=two_slices)
    with _quiet(progress):
        if isinstance(dataset, DatasetSpec):
            spec = dataset
        elif dataset:
            spec = find_dataset(dataset, kind)
        else:
            place = convert("checkpoint", checkpoint, kind=Path)
            root = convert("root_path", root_path, kind=Path | None)
            spec = data_of_checkpoint(place, root_path=root, kind=kind)
        settings = testing.settings_from_values(spec, values)
        return testing.run(spec, settings)[0]


def evaluate(
    predictions: StrPath,
    labels: StrPath,
    *,
    output: StrPath | None = None,
    classes: StrPath | None = None,
    subset: bool = False,
    ignore_geometry: bool = False,
    nsd_tolerance: float | Mapping[str, float] | Sequence[str] = TOLERANCE,
    workers: int = 0,
    progress: bool = True,
) -> EvaluationResult:
    """Score a folder of predicted label maps, of any program, against the true ones, as
    code/evaluate.py does.

    `predictions`, `labels`: folders of NIfTI, NRRD or MHA files with the same names. `output`:
    folder for metrics.csv and summary.json; default: `predictions`. `classes`: a dataset.json or
    plan.json; default: one next to the labels or the predictions, or else the values that the
    labels hold. `subset`: labels without a prediction are omitted. `ignore_geometry`: compare voxel
    by voxel where the headers disagree. `nsd_tolerance`: as in `test`, or the words of the flag.
    `workers`: processes; 0: one for each processor.

    Raises UserError where a case cannot be scored; nothing is written then.
    """
    values = {
        "predictions": predictions,
        "labels": labels,
        "output": output,
        "classes": classes,
        "subset": subset,
        "ignore_geometry": ignore_geometry,
        "nsd_tolerance": tolerance_words(nsd_tolerance),
        "workers": workers,
    }
    with _quiet(progress):
        result = scoring.run(checked(ScoringSettings, values))
    if result.results is None:
        faults = result.faults
        raise ReportedError(f"{faults[0]}{and_more(faults)}; nothing was written")
    return result.results


def compare(
    runs: StrPath | Sequence[StrPath],
    output: StrPath = "report",
    *,
    names: Sequence[str] = (),
    which: Literal["best", "last"] = "best",
    root_path: StrPath | None = None,
    pictures: bool = True,
    seed: int = 1337,
    draws: int = 10_000,
    progress: bool = True,
) -> CompareResult:
    """Compare tested runs on one page, as code/compare.py does.

    `runs`: folders of tested runs, of their predictions, or what `evaluate` wrote; runs that differ
    only in their seed are one group. `output`: folder for index.html and compare.json. `names`: of
    the groups. `which`: of a run whose best and last checkpoint were tested. `root_path`: the data,
    for the pictures. `seed`, `draws`: of the bootstrap.
    """
    values = {
        "runs": _several(runs),
        "output": output,
        "names": names,
        "which": which,
        "root_path": root_path,
        "pictures": pictures,
        "seed": seed,
        "draws": draws,
    }
    with _quiet(progress):
        return comparing.run(checked(CompareSettings, values))


def benchmark(
    methods: Sequence[str],
    labelnums: Sequence[int],
    seeds: Sequence[int],
    output: StrPath = "benchmark",
    *,
    dataset: str = "",
    root_path: StrPath | None = None,
    folds: int = 0,
    pre_iterations: int = 10_000,
    max_iterations: int = 30_000,
    flags: Sequence[str] = (),
    method_flags: Sequence[str] = (),
    baseline: str = "bcp",
    jobs: int = 1,
    threads: int = 1,
    cluster: Literal["none", "slurm", "local"] = "none",
    slurm: Sequence[str] = (),
    test_selected: bool = False,
    equal_time: bool = False,
    costs: StrPath | None = None,
    progress: bool = True,
) -> BenchmarkResult:
    """Train, test and compare a table of runs, as code/benchmark.py does.

    `folds`: number of folds of a cross-validation; 0 tests on the data set's test list. `flags`: of
    training, for all runs, as ["--patch_size", "128", "128"]. `method_flags`: of one method each,
    as "METHOD FLAGS" or "METHOD:LABELNUM FLAGS". `jobs`: runs at a time, each with `threads`
    threads, in processes of this machine or as jobs of a `cluster` with the parameters `slurm`
    (NAME=VALUE). Others: see code/benchmark.py --help. The same call continues an interrupted
    table; a run that fails is in `failed` of the result.

    Raises UserError for what a run cannot have, before anything runs.
    """
    values = {
        "methods": methods,
        "labelnums": labelnums,
        "seeds": seeds,
        "output": output,
        "dataset": dataset,
        "root_path": root_path,
        "folds": folds,
        "pre_iterations": pre_iterations,
        "max_iterations": max_iterations,
        "method_flags": method_flags,
        "baseline": baseline,
        "jobs": jobs,
        "threads": threads,
        "cluster": cluster,
        "slurm": slurm,
        "test_selected": test_selected,
        "equal_time": equal_time,
        "costs": costs,
    }
    with _quiet(progress):
        return benchmarking.run(checked(BenchmarkSettings, values), flags)


def leaderboard(
    records: StrPath | Sequence[StrPath],
    output: StrPath = "leaderboard",
    *,
    baseline: str = "bcp",
    costs: StrPath | None = None,
    seed: int = 1337,
    draws: int = 10_000,
    progress: bool = True,
) -> LeaderboardResult:
    """Make the leaderboard of a benchmark again from its records, as code/leaderboard.py does.

    `records`: folders of records, or records. `seed`, `draws`: of the bootstrap.
    """
    values = {
        "records": _several(records),
        "output": output,
        "baseline": baseline,
        "costs": costs,
        "seed": seed,
        "draws": draws,
    }
    with _quiet(progress):
        return ranking.run(checked(LeaderboardSettings, values))


def report(
    run: StrPath | None = None,
    output: StrPath = "report",
    *,
    dataset: str = "",
    output_root: StrPath | None = None,
    exp: str | None = None,
    labelnum: int | None = None,
    predictions: StrPath | None = None,
    which: Literal["best", "last"] = "best",
    root_path: StrPath | None = None,
    pictures: bool = True,
    progress: bool = True,
) -> CompareResult:
    """Write the page of one tested run, as code/report.py does.

    `run`: its folder. Without it, `exp`, `labelnum`, `dataset` and `output_root` (the folder that
    contains the runs) select it. `predictions`: the folder that the test wrote; default: that in
    the run's folder. Others: see `compare`.
    """
    values = {
        "run": run,
        "output": output,
        "dataset": dataset,
        "output_root": output_root,
        "exp": exp,
        "labelnum": labelnum,
        "predictions": predictions,
        "which": which,
        "root_path": root_path,
        "pictures": pictures,
    }
    with _quiet(progress):
        return comparing.run_report(checked(ReportSettings, values))


def register(
    root_path: StrPath | None = None,
    *,
    dataset: str | None = None,
    labelnum: int | None = None,
    planes: tuple[str, str] | None = None,
    transform: Literal["SyN", "SyNRA"] = "SyN",
    propagation: Literal["published", "improved"] = "published",
    seed: int = 1337,
    workers: int = 0,
    redo: bool = False,
    report_against_truth: bool = False,
    output_dir: StrPath | None = None,
    progress: bool = True,
) -> RegisterResult:
    """Make CoGRNet's coarse labels from two annotated slices per volume (docs/cogrnet.md), as
    code/CoGRNet_register.py does.

    `root_path`: the folder of the data, which also gets the coarse labels. `dataset`: LA, KiTS19 or
    LiTS; None for own data. `labelnum`: number of labelled cases; default: 5, all of own data.
    `planes`: the annotated slice of each plane: its number, middle, object or drawn. `transform`,
    `seed`: of ANTs. `propagation`: improved fuses both planes. `workers`: processes; 0: one for
    each processor. `redo`: make finished labels again. `report_against_truth`: compare with the
    dense labels. `output_dir`: folder for registration.csv, summary.json and pictures.
    """
    values = {
        "root_path": root_path,
        "dataset": dataset,
        "labelnum": labelnum,
        "planes": planes,
        "transform": transform,
        "propagation": propagation,
        "seed": seed,
        "workers": workers,
        "redo": redo,
        "report_against_truth": report_against_truth,
        "output_dir": output_dir,
    }
    with _quiet(progress):
        return registering.run(checked(RegistrationSettings, values))


def export(
    run: StrPath,
    out: StrPath,
    *,
    layout: Layout = "published",
    module_prefix: bool = False,
    no_module_prefix: bool = False,
    sobel: Literal["parameters", "buffers"] = "parameters",
    network: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a checkpoint as the published code would have saved it, as code/export_weights.py does,
    and return the file.

    `run`: the folder of a run or of a stage, or a checkpoint. `out`: the file to write. `layout`:
    plain is a state dict, net {"net": it}, net_opt {"net", "opt"} with the optimiser; published:
    that of the published code; small: to share, a checkpoint of this project in half precision.
    `module_prefix`, `no_module_prefix`: names with or without `module.`; default: as published.
    `sobel`: how the reading code stores the Sobel kernels. `network`: of a checkpoint that holds
    several. `overwrite`: replace `out`.
    """
    values = {
        "run": run,
        "out": out,
        "layout": layout,
        "module_prefix": module_prefix,
        "no_module_prefix": no_module_prefix,
        "sobel": sobel,
        "network": network,
        "overwrite": overwrite,
    }
    with _quiet(progress):
        return exporting.run(checked(ExportSettings, values))


def export_model(
    checkpoint: StrPath,
    format: Literal["onnx", "torchscript", "torch"],
    output: StrPath | None = None,
    *,
    patch_size: Sequence[int] = (),
    network: str | None = None,
    dataset: str | None = None,
    variant: str | None = None,
    size: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportModelResult:
    """Write the network of a checkpoint for use without this repository, as code/export_model.py
    does.

    `checkpoint`: the folder of a run or of a stage, or a file. `format`: onnx (needs the packages
    onnx and onnxruntime), torchscript (`torch.jit.load`) or torch (`torch.export.load`). `output`:
    the file; default: next to the checkpoint. `overwrite`: replace it. Others: see `load_model`.
    The result has the file's description of classes, input and preparation.

    Raises UserError where the exported network does not predict what the original one does.
    """
    values = {
        "checkpoint": checkpoint,
        "format": format,
        "output": output,
        "patch_size": patch_size,
        "network": network,
        "dataset": dataset,
        "variant": variant,
        "size": size,
        "overwrite": overwrite,
    }
    with _quiet(progress):
        return exporting_models.run(checked(ExportModelSettings, values))


def make_phantom(
    root: StrPath,
    dataset: str = "ACDC",
    *,
    raw: bool = True,
    train: int = 20,
    val: int | None = None,
    test: int = 6,
    labelled: int | None = None,
    size: Sequence[int] | None = None,
    seed: int = 1337,
    progress: bool = True,
) -> Path:
    """Write synthetic MR or CT scans and return their folder.

    `dataset`: whose anatomy is drawn. `raw`: in nnU-Net's raw layout, as own data come; only hearts
    (ACDC) and atria (LA). Otherwise prepared, in the layout of the public data set. `train`, `val`,
    `test`: numbers of patients; `labelled` of the training patients have labels. Default of raw
    scans: 4 for validation, 3 labelled. `size`: mean side of a slice in pixels, or voxels along
    three axes.
    """
    values = {
        "root": root,
        "dataset": dataset,
        "raw": raw,
        "train": train,
        "val": val,
        "test": test,
        "labelled": labelled,
        "size": size,
        "seed": seed,
    }
    with _quiet(progress):
        return drawing.run(checked(PhantomSettings, values))


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Send messages to the logger, and turn what a script would report in one line into a
    UserError.
    """
    _check_main_is_guarded()
    if uses_terminal():  # a script shows messages and errors itself
        yield
        return
    with received_by(Log(LOGGER, shows_progress=bool(progress))):
        try:
            yield
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise UserError(f"{place}{error.strerror or error}") from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise UserError(
                f"out of memory ({error}); use smaller images or batches, or fewer processes"
            ) from error


def _check_main_is_guarded() -> None:
    """Raise UserError in a process that was started by a call and imports the caller's file, which
    makes the call again.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "a process that fewlabels started has run your file again; "
            'put the calls below: if __name__ == "__main__":'
        )


def _several(paths: StrPath | Sequence[StrPath]) -> Sequence[StrPath]:
    if isinstance(paths, (str, PathLike)):
        return (paths,)
    return paths


def _run_config(
    config: StrPath | Mapping[str, object] | None,
    dataset: DatasetSpec | str | None,
    root_path: StrPath | None,
    options: Mapping[str, object],
    *,
    two_slices: bool,
) -> tuple[DatasetSpec, AnyConfig]:
    """Return the data set and the configuration that the arguments of `train` mean."""
    file = None
    values = dict(options)
    if isinstance(config, (str, PathLike)):
        file = read_config_file(Path(config))
    elif config is not None:
        values = {**config, **options}
    if root_path is not None:
        values["root_path"] = root_path
    if dataset is None:
        dataset = convert("dataset", values.pop("dataset", None), kind=str | None)
    if not isinstance(dataset, DatasetSpec):
        dataset = _data(dataset, values.get("root_path"), file=file, two_slices=two_slices)
    script: Mapping[str, Any] = {}
    if file is not None:
        method = convert("method", values.get("method"), kind=str | None)
        script = file_values(dataset, file, method=method)
    run_config = resolve_values(dataset, values, script)
    if "exp" not in values and "exp" not in script:
        run_config = with_earlier_name(dataset, run_config)
    return dataset, run_config


def _data(
    dataset: str | None, root_path: object, file: ConfigFile | None, two_slices: bool
) -> DatasetSpec:
    """Return the data set to train on; UserError if neither the arguments nor the file of options
    name it.
    """
    kind = kind_of(two_slices=two_slices)
    if file is not None:
        root_path = root_path or file.values.get("root_path")
        if file.dataset in all_datasets(kind):
            dataset = dataset or file.dataset
    root = convert("root_path", root_path, kind=Path | None)
    spec = find_data(dataset or "", root, kind)
    if spec is None:
        raise UserError(
            "dataset: name a public data set or the file of your own (docs/extending.md), "
            "or with root_path the folder of own data that fewlabels.prepare wrote"
        )
    return spec
