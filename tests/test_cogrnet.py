"""CoGRNet: focus area, the two coarse streams, its baselines, and runs on phantoms of all three
data sets.
"""

from dataclasses import replace
from functools import partial

import h5py
import helpers
import numpy as np
import pytest
import torch
from helpers import (
    KITS19,
    LA,
    LITS,
    LOSS_3D,
    Context,
    Recorder,
    assert_same,
    from_keywords,
    signalled,
    step_loss,
    step_scalars,
)
from reference import filled_state_dict
from scripts import run_test_two_slices as evaluate_two_slices
from torch import nn

from dataloaders.augment import Augmentation, VolumeAugmentation
from dataloaders.coarse import coarse_path
from dataloaders.hdf5 import read_list
from dataloaders.transforms import VolumeTransform
from dataloaders.two_stream import Draw, TwoStreamSampler
from dataloaders.volumes import CoarsePatches
from datasets import kits19, la, lits
from methods.cogrnet import CoGRNet, CoGRNetPretrain, focus_ratio
from methods.pseudo_label import PseudoLabelSelfTrain
from utils.errors import Interrupted, UserError
from utils.losses import Loss, dice_2d

pytestmark = pytest.mark.usefixtures("narrow")

INFO = {"LA": LA, "KiTS19": KITS19, "LiTS": LITS}
DATASETS = {"LA": la.TWO_SLICES, "KiTS19": kits19.TWO_SLICES, "LiTS": lits.TWO_SLICES}
PASTING = la.TWO_SLICES.pasting
TINY = {
    "labelnum": 2, "batch_size": 4, "labeled_bs": 2, "pre_iterations": 4, "max_iterations": 4, "val_every": 2, "val_stride": (32, 32, 16),
    "patch_size": (32, 32, 16),
}  # fmt: skip


@pytest.mark.parametrize(
    "positive, expected",
    [
        (0, 0.6),
        (11, 0.6),
        (12, 0.6),
        (13, 0.65),
        (14, 0.7),
        (15, 2.2 / 3),
        (20, 2.2 / 3),
    ],  # of 20: 0.55 and 0.75 lie outside 0.6 .. 0.7333
)
def test_focus_ratio_is_the_clamped_share_of_positive_logits(positive, expected):
    logits = torch.tensor([0.5] * positive + [-3.0] * (20 - positive)).view(1, 2, 2, 5, 1)
    assert focus_ratio(logits) == pytest.approx(expected)


@pytest.mark.parametrize(
    "flags, pre, self_",
    [
        ({}, 1001, 5001),  # 5 labelled volumes, 4 a batch: an epoch is one step
        ({"labelnum": 10}, 1002, 5002),  # two steps, whole epochs
        ({"labelnum": 8, "labeled_bs": 2, "batch_size": 4}, 1004, 5004),
        ({"loop_lengths": "published_text"}, 2000, 10_000),
        ({"loop_lengths": "published_text", "max_iterations": 60}, 2000, 60),
        ({"pre_iterations": 150}, 150, 5001),
    ],
)
def test_lengths_as_the_published_loops_ran_or_as_written(flags, pre, self_):
    settings = from_keywords(la.TWO_SLICES, **flags)
    assert (settings.pre_iterations, settings.max_iterations) == (pre, self_)


class Scripted(nn.Module):
    """A 'network' whose logits at call k are 20 numbers, `positive[k]` of them positive and larger
    than the negatives.
    """

    def __init__(self, values) -> None:
        super().__init__()
        self.weight, self.values, self.call = nn.Parameter(torch.ones(1)), values, 0

    def forward(self, x):
        self.call += 1
        return self.weight * torch.tensor(self.values[self.call - 1]).view(1, 2, 1, 1, 10)


def pretrain_phase(net, steps):
    return CoGRNetPretrain(Context(net, LOSS_3D, PASTING, length=steps))


def test_focus_comes_from_the_mean_of_the_last_ten_steps_also_after_a_resume():
    """12 steps. The first two would say 1; in the last ten 13 of 20 entries have a positive mean,
    one of them by its size alone.
    """
    values = [[9.0] * 20] * 2 + [[1.0] * 12 + [-1.0] * 8] * 9 + [[1.0] * 12 + [10.0] + [-1.0] * 7]
    batch = {"image": torch.rand(2, 1, 1, 1, 10), "label": torch.zeros(2, 1, 1, 10).long()}
    whole = pretrain_phase(Scripted(values), 12)
    for step in range(12):
        assert whole.focus is None
        step_loss(whole, batch, step)
    assert whole.focus == pytest.approx(13 / 20) and whole.state_dict()["summed_logits"] is None
    first, second = pretrain_phase(Scripted(values), 12), pretrain_phase(Scripted(values[7:]), 12)
    for step in range(7):
        step_loss(first, batch, step)
    second.load_state_dict(first.state_dict())
    for step in range(7, 12):
        step_loss(second, batch, step)
    assert second.focus == whole.focus


def test_self_training_keeps_the_focus_in_its_state():
    net = nn.Conv3d(1, 2, 1)
    phases = [CoGRNet(Context(net, LOSS_3D, PASTING, "parameters", 100)) for _ in range(2)]
    phases[0].set_focus(0.7)
    phases[1].load_state_dict(phases[0].state_dict())
    assert all(
        phase.copy_paste.sides((100, 100, 50), step) == (70, 70, 35)
        for phase in phases
        for step in (0, 50, 99)
    )
    batch = {"image": torch.rand(4, 1, 10, 10, 10), "label": torch.zeros(2, 10, 10, 10).long()}
    losses = step_scalars(phases[1], batch)
    assert losses["focus_ratio"] == 0.7 and losses["box_side"] == 7


def test_each_stream_is_mixed_with_its_own_unlabelled_half():
    """Labelled 1 outside and unlabelled 1 inside, unlabelled 2 outside and labelled 2 inside."""
    student = Recorder()
    pasting = replace(PASTING, pseudo_label=lambda x: lambda: x.argmax(1))
    loss = Loss({"dice": 0.5, "ce": 0.5}, dice_2d)
    phase = CoGRNet(Context(student, loss, pasting, "parameters"))
    box = phase.copy_paste
    torch.manual_seed(0)
    image, label = torch.rand(8, 1, 12, 12), torch.randint(0, 4, (4, 12, 12))
    step_loss(phase, {"image": image, "label": label}, 3)
    (one, two), (other_one, other_two), mask = (
        image[:4].split(2),
        image[4:].split(2),
        box.mask(image, 3),
    )
    torch.testing.assert_close(student.seen[0], one * mask + other_one * (1 - mask))
    torch.testing.assert_close(student.seen[1], other_two * mask + two * (1 - mask))


def test_pseudo_labels_without_copy_paste_train_only_the_student():
    torch.manual_seed(0)
    net = nn.Conv3d(1, 2, 1)
    phase = PseudoLabelSelfTrain(Context(net, LOSS_3D, PASTING, "parameters"))
    batch = {"image": torch.randn(4, 1, 6, 6, 6), "label": torch.randint(0, 2, (2, 6, 6, 6))}
    loss = step_loss(phase, batch)
    pseudo = phase.pseudo_label(batch["image"][2:])()
    true, guessed = (
        LOSS_3D.whole(net(batch["image"][s]), y)
        for s, y in ((slice(2), batch["label"]), (slice(2, 4), pseudo))
    )
    torch.testing.assert_close(
        loss, (true["dice"] + true["ce"]) / 2 + 0.5 * (guessed["dice"] + guessed["ce"]) / 2
    )
    loss.backward()
    assert net.weight.grad.abs().sum() > 0 and all(
        p.grad is None for teacher in phase.teachers.values() for p in teacher.parameters()
    )


def test_halves_of_the_batch_know_their_stream():
    batch = TwoStreamSampler(6, 8, 4, 4, (1,), range(1)).batch(0)
    assert [draw.half for draw in batch] == [0, 0, 1, 1, 0, 0, 1, 1]
    for rank in (0, 1):
        assert [
            draw.half for draw in TwoStreamSampler(6, 8, 4, 4, (1,), range(1), rank, 2).batch(0)
        ] == [0, 1, 0, 1]


def copy_case(info, source, root, name, label):
    path = info.path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(info.path(source, name)) as old, h5py.File(path, "w") as new:
        for key in ("image", *(["label"] if label else [])):
            new[key] = old[key][()]
    return path


def write_coarse(info, path, labels, indices):
    """Coarse files as the register command leaves them: the label, and which slice of it is true."""
    with h5py.File(path) as file:
        image = file["image"][()]
    for plane, ((axis, _), label, index) in enumerate(
        zip(info.planes, labels, indices, strict=True)
    ):
        with h5py.File(coarse_path(path, plane), "w") as file:
            file["image"], file["label"] = image, label.astype(np.uint8)
            file.attrs["coarse_axis"], file.attrs["coarse_slice"] = axis, index


@pytest.fixture(
    scope="module",
    params=["LA", *(pytest.param(name, marks=pytest.mark.long) for name in ("KiTS19", "LiTS"))],
)
def coarse(request, la_root, kits_root, lits_root, tmp_path_factory):
    """A data set whose two labelled cases have coarse labels; no training file holds any `label`."""
    info = INFO[request.param]
    source, root = (
        {"LA": la_root, "KiTS19": kits_root, "LiTS": lits_root}[request.param],
        tmp_path_factory.mktemp("coarse"),
    )
    names = read_list(source, info.name, info.train_list)
    for kind, cases in (
        (info.train_list, names[:4]),
        (info.test_list, read_list(source, info.name, info.test_list)[:1]),
    ):
        (root / kind).write_text("\n".join(cases) + "\n")
        for name in cases:
            copy_case(info, source, root, name, label=kind == info.test_list)
    for name in names[:2]:
        with h5py.File(info.path(source, name)) as file:
            truth = info.task_label(file["label"][()])
        shape = truth.shape
        labels = [np.roll(truth, 1, axis) for axis, _ in info.planes]
        write_coarse(
            info, info.path(root, name), labels, [shape[axis] // 2 for axis, _ in info.planes]
        )
    return info, root


def data_of(coarse, labelled=2):
    info, root = coarse
    names = read_list(root, info.name, info.train_list)
    augment = Augmentation((VolumeAugmentation((32, 32, 16), 3, turn=False, centre=True).draw,))
    return CoarsePatches(info, root, names, labelled, (augment, augment), say=lambda message: None)


def test_streams_read_their_plane_with_the_other_planes_slice(coarse):
    info, _ = coarse
    data = data_of(coarse)
    path = data.files[0].path
    stored = []
    for plane in (0, 1):
        with h5py.File(coarse_path(path, plane)) as file:
            stored.append(
                (file["label"][()], int(file.attrs["coarse_axis"]), int(file.attrs["coarse_slice"]))
            )
    for half in (0, 1):
        expected, (true, axis, index) = stored[half][0].copy(), stored[1 - half]
        place = (*[slice(None)] * axis, index)
        expected[place] = true[place]
        image, labels = data._read(0)
        expected = expected.transpose(2, 1, 0) if info.swapped else expected
        assert np.array_equal(labels[half], expected) and image.shape == (1, *expected.shape)
        item = data[Draw(0, (1,), half)]
        transform = data.augment[0].spatial[0](np.random.default_rng((1,)), image.shape[1:])
        assert isinstance(transform, VolumeTransform) and np.array_equal(
            item["label"].numpy(), transform(expected)
        )
    assert "label" not in data[Draw(2, (1,))]


def test_coarse_labels_are_task_labels_already(coarse):
    """An object that the file calls 2 is 1 in a coarse label, and stays so."""
    info, root = coarse
    other = replace(info, foreground=(2,), file_classes=3)
    assert all(
        label.max() == 1 for half in (0, 1) for label in [data_of((other, root))._read(0)[1][half]]
    )


def test_missing_or_foreign_coarse_labels_name_the_command(coarse):
    info = coarse[0]
    with pytest.raises(
        UserError,
        match=rf"px\.h5: no such coarse label; make it: python code/CoGRNet_register\.py --dataset {info.name} .* --labelnum 3",
    ):
        data_of(coarse, labelled=3)
    path = coarse_path(data_of(coarse).files[1].path, 1)
    kept = path.read_bytes()
    with h5py.File(path, "a") as file:
        del file.attrs["coarse_slice"]
    with pytest.raises(UserError, match=r"py\.h5: does not record which slice.*--redo"):
        data_of(coarse)
    path.write_bytes(kept)


def train(coarse, output, *flags, **changes):
    info, root = coarse
    return helpers.train(DATASETS[info.name], root, output, *flags, **{**TINY, **changes})


def test_a_run_and_its_test_on_every_data_set(coarse, tmp_path, monkeypatch, capsys):
    """No training file holds a dense label, of unlabelled or of labelled cases; interrupted in both
    stages it ends the same.
    """
    info, root = coarse
    whole = train(coarse, tmp_path / "whole")
    best = "VNet_best_model.pth"
    assert set(whole) == {
        f"{stage}/{name}" for stage in ("pre_train", "self_train") for name in ("last.pth", best)
    }
    ratio = whole["pre_train/last.pth"]["phase"]["focus_ratio"]
    assert 0.6 <= ratio <= 2.2 / 3 and whole["self_train/last.pth"]["phase"]["focus_ratio"] == ratio
    history = whole["self_train/last.pth"]["progress"]["history"][-1]
    assert {
        f"{figure}_{info.class_names[1].replace(' ', '_')}"
        for figure in ("dice", "jaccard", "hd95_voxel", "asd_voxel")
    } <= set(history)

    for phase, at in ((CoGRNetPretrain, 2), (CoGRNet, 1)) if info is LA else ():
        with signalled(monkeypatch, phase, at), pytest.raises(Interrupted):
            train(coarse, tmp_path / "stopped")
    if info is LA:
        assert_same(train(coarse, tmp_path / "stopped"), whole)

    flags = [
        "--dataset",
        info.name,
        "--root_path",
        root,
        "--output_root",
        tmp_path / "whole",
        "--labelnum",
        "2",
        "--stride",
        "16",
        "16",
        "8",
    ]
    capsys.readouterr()
    evaluate_two_slices([str(flag) for flag in flags])
    evaluate_two_slices([*map(str, flags), "--which", "last"])  # it may be the best one too
    said = capsys.readouterr().out
    assert "too good" in said and "not selected" in said and "empty predictions" in said
    tests = tmp_path / "whole" / "CoGRNet" / f"{info.name}_CoGRNet_2_labeled" / "test"
    assert (tests / "self_train_best_test" / "summary.json").is_file()
    assert (tests / "self_train_last_test" / "metrics.csv").is_file()


def test_baselines(coarse, tmp_path):
    if coarse[0] is not LA:
        pytest.skip("the same code for every data set")
    short = partial(train, coarse, pre_iterations=1, max_iterations=1, val_every=1)
    assert set(short(tmp_path / "a", "--method", "supervised")) == {
        "supervised/last.pth",
        "supervised/VNet_best_model.pth",
    }
    assert (
        "focus_ratio"
        not in short(tmp_path / "b", "--method", "pseudo_label")["self_train/last.pth"]["phase"]
    )
    assert short(tmp_path / "c", "--focus", "off")["self_train/last.pth"]["phase"][
        "focus_ratio"
    ] == pytest.approx(2 / 3)
    with pytest.raises(
        UserError, match="no data set of numbers 'label'"
    ):  # dense labels are what the flag asks for
        short(tmp_path / "d", "--labels", "dense")
    with pytest.raises(
        UserError, match="--teachers: it belongs to --method edge_guided; remove it"
    ):
        short(tmp_path / "e", "--teachers", "dual")
    assert "self_train/last.pth" in short(tmp_path / "e", "--method", "bcp")
    short(tmp_path / "f", "--run_mode", "pretrain")
    for last in (tmp_path / "f").rglob("last.pth"):
        last.unlink()
    with pytest.raises(
        UserError,
        match=r"last\.pth: no finished pre-training that gives a focus area; .*--focus off",
    ):
        short(tmp_path / "f", "--run_mode", "selftrain")


def test_self_training_starts_from_a_published_pre_training_with_a_fixed_box(
    coarse, tmp_path, published_width
):
    """The published file has no focus area, so --focus off is required."""
    info, _ = coarse
    weights = filled_state_dict("vnet_cogrnet")
    place = tmp_path / "CoGRNet" / f"{info.name}_CoGRNet_2_labeled" / "pre_train"
    place.mkdir(parents=True)
    torch.save({"net": weights, "opt": {}}, place / "VNet_best_model.pth")
    stages = train(coarse, tmp_path, "--run_mode", "selftrain", "--focus", "off", max_iterations=1)
    assert stages["self_train/last.pth"]["phase"]["focus_ratio"] == pytest.approx(2 / 3)
