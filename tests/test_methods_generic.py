"""What every method must do, whatever it computes: learn, resume, and be tested and predicted with
from its checkpoint.
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same, signalled, train, train_any
from scripts import run_test as evaluate_any

import fewlabels
from benchmarks.counts import runner
from datasets.registry import all_datasets
from methods.registry import METHODS
from training.config import DataOptions, ExperimentOptions, OptimizationOptions, RuntimeOptions
from training.step import placed
from utils.errors import Interrupted

pytestmark = pytest.mark.usefixtures("narrow")

CPU = torch.device("cpu")
TWO_SLICES = {"cogrnet", "desco"}
"""Methods of data sets with two annotated slices."""
ONLY_3D = {"cogrnet", "desco"}
UNUSED = {"urpc": ("decoder.out_conv_dp4.",)}
"""By method, the beginnings of names of parameters that no loss reaches, in the published code too."""

SMALL_2D = {"patch_size": (32, 32), "labelnum": 1}
SMALL_3D = {"patch_size": (32, 32, 16), "labelnum": 4, "val_stride": (32, 32, 16)}
BATCH = {"batch_size": 8, "labeled_bs": 4}
PLACES = [(2, method) for method in METHODS if method not in ONLY_3D]
PLACES += [(3, method) for method in METHODS]
UNLABELLED = [place for place in PLACES if METHODS[place[1]].stages[-1].uses_unlabelled]


def slow_in_3d(places, together=False):
    """Parameters of a test, those on volumes for the long tests; `together`: as one argument."""
    parameters = []
    for dims, method in places:
        marks = [pytest.mark.long] if dims == 3 else []
        values = [(dims, method)] if together else [dims, method]
        parameters.append(pytest.param(*values, marks=marks, id=f"{method}-{dims}d"))
    return parameters


def dataset_of(dims, method):
    if method in TWO_SLICES:
        return all_datasets("TWO_SLICES")["LA"]
    return all_datasets()[{2: "ACDC", 3: "LA"}[dims]]


def numbers_of(dims, method):
    numbers = dict({2: SMALL_2D, 3: SMALL_3D}[dims])
    if method in TWO_SLICES:
        numbers["labels"] = "dense"
    if method == "edge_guided":
        numbers["egm"] = "none"  # which needs larger patches
    return numbers


def flags_of(numbers):
    """The numbers as words of a command line, where they win over the method's presets."""
    words = []
    for name, value in numbers.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *map(str, values)]
    return words


# a step


def stage_of(dims, method, stage=-1, **info):
    """A stage ready for its last steps, in which ramps are at their end, and a batch whose labels
    can be seen in the images.

    `info` changes what is known of the data set.
    """
    numbers = {**numbers_of(dims, method), **BATCH, "max_iterations": 100}
    dataset = dataset_of(dims, method)
    dataset = replace(dataset, info=replace(dataset.info, **info))
    steps, batch = runner(dataset, CPU, stage=stage, method=method, **numbers)
    generator = torch.Generator().manual_seed(3)
    size = batch["image"].shape[2:]
    classes = steps.stage.forward(batch["image"][:2]).shape[1]
    label = torch.randint(0, classes, (len(batch["image"]), *[1] * len(size)), generator=generator)
    coarse = torch.randint(0, classes, (len(label), *[4] * len(size)), generator=generator)
    label = torch.nn.functional.interpolate(coarse[:, None].float(), size=size)
    noise = 0.1 * torch.rand(label.shape, generator=generator)
    batch["image"] = (label / classes + noise).expand_as(batch["image"])
    batch["label"] = label[: len(batch["label"]), 0].long()
    return steps, placed(batch, CPU, dims)


STAGES = [
    (dims, method, number)
    for dims, method in PLACES
    for number in range(len(METHODS[method].stages))
]


@pytest.mark.parametrize("dims, method, number", STAGES)
def test_a_step_reaches_every_learner_and_no_teacher(dims, method, number):
    steps, batch = stage_of(dims, method, number)
    stage = steps.stage
    for loss in stage.losses(batch, 99):
        loss.total.backward()
    for name, learner in stage.learners.items():
        without = [key for key, p in learner.named_parameters() if p.grad is None]
        assert [key for key in without if not key.startswith(UNUSED.get(method, ()))] == [], name
    for teacher in stage.teachers.values():
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("dims, method", slow_in_3d(PLACES))
def test_several_channels_and_classes_are_learned(dims, method):
    steps, batch = stage_of(dims, method, channels=2, class_names=("a", "b", "c", "d", "e"))
    scalars = steps._train_step(batch)
    assert torch.isfinite(scalars["loss"])
    assert steps.stage.forward(batch["image"]).shape[:2] == (len(batch["image"]), 5)


@pytest.mark.parametrize("dims, method", slow_in_3d(PLACES))
def test_the_loss_falls_on_a_fixed_batch_within_30_steps(dims, method):
    steps, batch = stage_of(dims, method)
    steps.progress.step = (
        70  # of 100: ramps are near their end, so that a rising weight does not raise the loss
    )
    losses = [float(steps._train_step(batch)["loss"]) for _ in range(30)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize("dims, method", slow_in_3d(UNLABELLED))
def test_other_unlabelled_images_make_another_student(dims, method):
    students = []
    for factor in (1.0, 0.5):
        steps, batch = stage_of(dims, method)
        steps.progress.step = 98
        labelled = len(batch["label"])
        batch["image"][labelled:] *= factor
        for _ in range(2):
            steps._train_step(batch)
        students.append(dict(steps.stage.student.named_parameters()))
    first, second = students
    assert any(not torch.equal(first[key], second[key]) for key in first)


# a run


@dataclass
class Trained:
    dims: int
    method: str
    root: Path
    folder: Path
    checkpoints: dict


def short_run(dims, method, root, folder):
    numbers = numbers_of(dims, method)
    short = {"pre_iterations": 1, "max_iterations": 2, "val_every": 2, "select": "test"}
    halves = {"batch_size": 4, "labeled_bs": 2}
    flags = flags_of({**numbers, **halves, **short})
    return train(dataset_of(dims, method), root, folder, "--method", method, *flags)


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: f"{place[1]}-{place[0]}d")
def trained(request, tmp_path_factory, phantom_root, la_root):
    dims, method = request.param
    root = {2: phantom_root, 3: la_root}[dims]
    folder = tmp_path_factory.mktemp(method)
    return Trained(dims, method, root, folder, short_run(dims, method, root, folder))


def test_two_steps_leave_finite_losses(trained):
    (history,) = [
        checkpoint["progress"]["history"]
        for name, checkpoint in trained.checkpoints.items()
        if name == f"{METHODS[trained.method].stages[-1].name}/last.pth"
    ]
    assert np.isfinite(history[-1]["loss"])


@pytest.mark.parametrize("trained", slow_in_3d(PLACES, together=True), indirect=True)
def test_a_stopped_run_resumes_as_if_it_had_not_been_stopped(trained, tmp_path, monkeypatch):
    run = (trained.dims, trained.method, trained.root, tmp_path)
    stage = METHODS[trained.method].stages[-1].stage
    with signalled(monkeypatch, stage, 0), pytest.raises(Interrupted):
        short_run(*run)
    assert_same(short_run(*run), trained.checkpoints)


def test_the_checkpoint_is_tested_and_predicted_with_without_further_flags(trained, tmp_path):
    stage = METHODS[trained.method].stages[-1].name
    (best,) = trained.folder.rglob(f"{stage}/*best*.pth")
    words = {"checkpoint": best, "root_path": trained.root, "output_dir": tmp_path, "device": "cpu"}
    evaluate_any(flags_of(words))
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1
    image = np.random.default_rng(0).random((40, 40, 24)).astype(np.float32)
    model = fewlabels.load_model(best, device="cpu")
    assert model.predict(image, spacing=(1, 1, 1), progress=False).labels.shape == image.shape


# the command line


@pytest.mark.parametrize(
    "dims, method",
    [place for place in PLACES if place[1] not in TWO_SLICES],  # code/train.py has none of them
)
def test_help_shows_the_options_of_the_method_and_no_other_ones(dims, method, capsys):
    words = ["--dataset", dataset_of(dims, method).info.name, "--method", method, "--help"]
    with pytest.raises(SystemExit):
        train_any(words)
    shown = capsys.readouterr().out
    mine = {field.name for field in fields(METHODS[method].options)}
    every_run = {
        field.name
        for group in (ExperimentOptions, DataOptions, OptimizationOptions, RuntimeOptions)
        for field in fields(group)
    }
    others = {field.name for other in METHODS.values() for field in fields(other.options)}
    flags = set(re.findall(r"--(\w+)[ ,]", shown))
    assert mine <= flags
    assert not (others - mine - every_run) & flags
