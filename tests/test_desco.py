"""DeSCO: weights of labels, its losses by hand, and a run on coarse labels."""

import math

import h5py
import helpers
import numpy as np
import pytest
import torch
from helpers import LA, Context, from_flags
from test_cogrnet import TINY, copy_case, write_coarse
from torch import nn

from dataloaders.augment import Augmentation
from dataloaders.coarse import Annotation, slice_distance
from dataloaders.hdf5 import read_list
from dataloaders.two_stream import Draw
from dataloaders.volumes import CoarsePatches
from datasets import la
from methods import desco
from utils.errors import UserError
from utils.losses import one_hot, predicted

pytestmark = pytest.mark.usefixtures("narrow")


def stage_of(length=6_000):
    options = {"consistency": 0.1, "consistency_rampup": 40, "select_network": "student"}
    context = Context(
        nn.Conv3d(1, 2, 1), length=length, settings={**options, "lengths": "relative"}
    )
    context.dims = 3
    context.network = lambda number=0, model=None: nn.Conv3d(1, 2, 1)
    return desco.DeSCO(context)


def test_distances_are_counted_from_the_annotated_slice_and_are_one_on_the_other():
    first = Annotation(axis=2, index=1, mask=np.zeros((2, 3)))
    second = Annotation(axis=1, index=0, mask=np.zeros((2, 4)))
    distance = slice_distance((2, 3, 4), first, second)
    assert distance[0].tolist() == [[1, 1, 1, 1], [2, 1, 2, 3], [2, 1, 2, 3]]


def test_a_label_loses_weight_with_its_distance_and_has_none_outside_of_the_volume():
    distance = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).view(1, 1, 1, 4)
    weight = stage_of().label_weights({"distance": distance, "label": distance}, 0)
    assert weight.flatten().tolist() == pytest.approx([0, 1, 0.95, 0.95**2])


@pytest.mark.parametrize(
    "step, decay",
    [
        (0, 0.95),
        (999, 0.95),
        (1_000, 0.95),
        (2_000, 0.76),
        (3_000, 0.5),
        (4_000, 0.27),
        (5_999, 0.07),
    ],
)
def test_weights_fall_faster_every_thousand_iterations(step, decay):
    assert stage_of().weight_decay(step) == pytest.approx(decay, abs=0.006)


def test_a_short_run_has_the_same_rounds_of_weights():
    assert stage_of(length=60).weight_decay(30) == stage_of().weight_decay(3_000)


def test_complete_labels_have_the_weight_one():
    label = torch.zeros(2, 3, 3, 3, dtype=torch.long)
    assert stage_of().label_weights({"label": label}, 0).unique().tolist() == [1]


def test_weighted_cross_entropy_is_the_weighted_mean_of_each_sample():
    """p of the label: 1/2 and 1/4 with weights 1 and 3 in the first sample; 1/2 with weight 1 in
    the second, whose other pixel has none.
    """
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0]], [[0.0, 5.0], [0.0, 0.0]]])
    label = torch.ones(2, 2, dtype=torch.long)
    weight = torch.tensor([[1.0, 3.0], [1.0, 0.0]])
    loss = desco.weighted_ce(predicted(logits), one_hot(label, 2), weight)
    first = (math.log(2) + 3 * math.log(4)) / 4
    assert float(loss) == pytest.approx((first + math.log(2)) / 2, rel=1e-4)


def test_no_certain_voxel_gives_a_consistency_of_one():
    """As published: the smoothing terms of numerator and denominator are all that is left."""
    logits = torch.zeros(1, 2, 4)
    truth = one_hot(torch.zeros(1, 4, dtype=torch.long), 2)
    assert float(desco.weighted_ce(predicted(logits), truth, torch.zeros(1, 4))) == pytest.approx(1)


def test_only_the_first_network_steps_before_the_second_loss():
    image = torch.rand(4, 1, 4, 4, 4)
    batch = {"image": image, "label": torch.zeros(2, 4, 4, 4, dtype=torch.long)}
    stage = stage_of()
    stage.log = lambda name, value: None
    assert [loss.steps_now for loss in stage.losses(batch, 0)] == ["student", None]
    assert stage.lr_schedules == {"other": "constant"}


def test_each_network_has_its_own_half_of_the_batch():
    """Images of the value 1 are the first network's, of the value 2 the second one's; each also
    labels the other one's.
    """
    stage = stage_of()
    seen = {name: [] for name in stage.learners}
    for name, network in stage.learners.items():
        network.register_forward_pre_hook(
            lambda net, inputs, name=name: seen[name].append(inputs[0].round().mean().item())
        )
    image = torch.tensor([1.0, 2.0, 1.0, 2.0]).view(4, 1, 1, 1, 1).expand(4, 1, 2, 2, 2)
    list(stage.losses({"image": image, "label": torch.zeros(2, 2, 2, 2).long()}, 0))
    assert seen == {"student": [1] + [2] * 5, "other": [1] * 5 + [2]}


@pytest.fixture(scope="module")
def root(la_root, tmp_path_factory):
    """Four training cases, two of them with coarse labels, and a test case."""
    folder = tmp_path_factory.mktemp("desco")
    names = read_list(la_root, "LA", LA.train_list)[:4]
    tested = read_list(la_root, "LA", LA.test_list)[:1]
    for kind, cases in ((LA.train_list, names), (LA.test_list, tested)):
        (folder / kind).write_text("\n".join(cases) + "\n")
        for name in cases:
            copy_case(LA, la_root, folder, name, label=kind == LA.test_list)
    for name in names[:2]:
        with h5py.File(LA.path(la_root, name)) as file:
            truth = LA.task_label(file["label"][()])
        indices = [truth.shape[axis] // 2 for axis, _ in LA.planes]
        write_coarse(LA, LA.path(folder, name), [truth, truth], indices)
    return folder


def test_a_sample_holds_its_label_and_the_distance_to_the_slice_of_its_half(root):
    names = read_list(root, "LA", LA.train_list)
    plain = Augmentation(())
    data = CoarsePatches(
        LA, root, names, 2, (plain, plain), say=lambda message: None, distances=True
    )
    for half, (axis, _) in enumerate(LA.planes):
        item = data[Draw(0, (1,), half)]
        shape = item["label"].shape
        assert item["distance"].shape == shape
        drawn = shape[axis] // 2
        far = item["distance"].select(axis, drawn - 3)
        assert (item["distance"].select(axis, drawn) == 1).all()
        assert set(far.unique().tolist()) == {1, 4}  # 1 on the other annotated slice
    assert "distance" not in data[Draw(2, (1,))]


def test_it_trains_on_coarse_labels(root, tmp_path):
    flags = ("--method", "desco", "--max_iterations", 2)
    numbers = {key: value for key, value in TINY.items() if key != "max_iterations"}
    stages = helpers.train(la.TWO_SLICES, root, tmp_path, *flags, **numbers)
    last = stages["train/last.pth"]
    assert last["models"] == {"student": "", "other": ""}
    assert last["settings"]["select"] == "last"


def test_it_refuses_whole_labels():
    with pytest.raises(UserError, match=r"--method desco.*code/CoGRNet_train\.py"):
        from_flags(la.DATASET, {}, ["--method", "desco"])
