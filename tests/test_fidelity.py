"""Numbers that docs/fidelity.md states about the published codes, computed from what those codes
draw.
"""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import from_flags

from dataloaders.augment import turn_or_rotate
from dataloaders.two_stream import TwoStreamSampler
from datasets import acdc, kits19, la, lits, pancreas
from methods.copy_paste import START_RATIO, CopyPaste, box_sides


def published_kinds(labelled_slices: int) -> dict[str, int]:
    """How often each augmentation meets a labelled slice in an epoch of the published ACDC scripts.

    Batch number b of 12 labelled and 12 unlabelled slices is made by worker b % 4. Each epoch
    starts new workers, and worker w seeds Python's generator with 1337 + w, so every epoch draws
    the same kinds.
    """
    counts = {"unchanged": 0, "turned": 0, "rotated": 0}
    workers = [random.Random(1337 + worker) for worker in range(4)]
    for batch in range(labelled_slices // 12):
        worker = workers[batch % 4]
        for place in range(24):
            kind = "unchanged"
            if worker.random() > 0.5:
                kind = "turned"
            elif worker.random() > 0.5:
                kind = "rotated"
            if place < 12:
                counts[kind] += 1
    return counts


def test_published_workers_leave_17_percent_turn_50_and_rotate_33_with_3_labelled_patients():
    counts = published_kinds(labelled_slices=68)
    assert counts == {"unchanged": 10, "turned": 30, "rotated": 20}


def test_published_workers_leave_18_percent_turn_53_and_rotate_29_with_7_labelled_patients():
    counts = published_kinds(labelled_slices=136)
    assert counts == {"unchanged": 24, "turned": 70, "rotated": 38}


def test_our_draws_leave_25_percent_turn_50_and_rotate_25():
    """Rotations by 0 degrees (one in 40) are counted as unchanged here."""
    sampler = TwoStreamSampler(68, 1244, 12, 12, (1337, 1, 0), range(400))
    counts = {"unchanged": 0, "turned": 0, "rotated": 0}
    for batch in sampler:
        for draw in batch[:12]:
            transform = turn_or_rotate(np.random.default_rng(draw.seed), (256, 256))
            if transform.flip_axis is not None:
                counts["turned"] += 1
            elif transform.angle:
                counts["rotated"] += 1
            else:
                counts["unchanged"] += 1
    shares = [count / (400 * 12) for count in counts.values()]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


LA_PATCH = (112, 112, 80)  # the published code draws every corner as if the patch were this large


def test_39_percent_of_kits19s_published_boxes_are_cut_off():
    patch = kits19.TWO_SLICES.defaults["patch_size"]
    sides = box_sides(patch, 0, 1, 1, "fixed", START_RATIO)
    assert sides == (85, 85, 42)
    assert LA_PATCH[0] - 1 <= patch[0]  # never in plane: the largest corner is 112 - 85 - 1
    corners = range(LA_PATCH[2] - sides[2])
    cut_off = [corner for corner in corners if corner + sides[2] > patch[2]]
    assert (len(cut_off), len(corners)) == (15, 38)


@pytest.mark.parametrize("ratio, cut_off, all_corners", [(0.6, 15, 42), (0.73, 15, 34)])
def test_the_share_of_boxes_cut_off_at_both_ends_of_the_focus_area(ratio, cut_off, all_corners):
    depth = kits19.TWO_SLICES.defaults["patch_size"][2]
    side = int(depth * ratio)
    corners = range(LA_PATCH[2] - side)
    assert len(corners) == all_corners
    assert sum(corner + side > depth for corner in corners) == cut_off


def test_the_published_code_cannot_draw_a_box_for_lits():
    patch = lits.TWO_SLICES.defaults["patch_size"]
    sides = box_sides(patch, 0, 1, 1, "fixed", START_RATIO)
    with pytest.raises(ValueError):
        np.random.default_rng(0).integers(0, LA_PATCH[0] - sides[0])


@pytest.mark.parametrize("dataset", [kits19.TWO_SLICES, lits.TWO_SLICES], ids=["KiTS19", "LiTS"])
def test_our_boxes_lie_within_the_patch(dataset):
    patch = dataset.defaults["patch_size"]
    boxes = CopyPaste("fixed", 1, 1, (0,))
    for step in range(200):
        ends = np.add(boxes.corner(patch, step), boxes.sides(patch, step))
        assert (ends <= patch).all()


STATIC_TEACHER = re.compile(
    r"^\| BCP with a second, static teacher, on (\w+).*\| `([^`]+)` \|$", re.MULTILINE
)
TRAINING_GUIDE = Path(__file__).parents[1] / "docs" / "training.md"
OF_TWO_TEACHERS = {"method", "exp", "teachers", "static_start", "static_step", "static_range"}


@pytest.mark.parametrize(
    "name, dataset, labelnum",
    [
        ("ACDC", acdc.DATASET, 3),
        ("ACDC", acdc.DATASET, 7),
        ("LA", la.DATASET, 4),
        ("LA", la.DATASET, 8),
        ("Pancreas", pancreas.DATASET, 20),
    ],
)
def test_the_flags_of_bcp_with_a_static_teacher_differ_from_bcp_only_in_the_teachers(
    name, dataset, labelnum
):
    flags = dict(STATIC_TEACHER.findall(TRAINING_GUIDE.read_text(encoding="utf-8")))[name]
    script = dataset.script_defaults(labelnum)
    with_static = vars(from_flags(dataset, script, flags.split()))
    bcp = vars(from_flags(dataset, script, ["--method", "bcp"]))
    differing = {key for key in {*with_static, *bcp} if with_static.get(key) != bcp.get(key)}
    assert differing == OF_TWO_TEACHERS
