import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary

from evaluation.masks import image_diagonal
from evaluation.metrics import (
    MaskMetrics,
    mask_metrics,
    penalised_convention,
    published_convention,
)

WORST = 99.0


def values(metrics):
    return metrics.dice, metrics.jaccard, metrics.hd95, metrics.asd


def by_medpy(prediction, truth, spacing=None):
    return (
        binary.dc(prediction, truth),
        binary.jc(prediction, truth),
        binary.hd95(prediction, truth, voxelspacing=spacing),
        binary.asd(prediction, truth, voxelspacing=spacing),
    )


@st.composite
def mask_pairs(draw):
    """Two non-empty masks and a spacing: noise (touches every edge), or two boxes anywhere, edges
    included.
    """
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9))
    spacing = draw(st.none() | st.tuples(*[st.floats(0.1, 10.0)] * len(shape)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = []
    for _ in range(2):
        if draw(st.booleans()):
            mask = random.random(shape) < draw(st.sampled_from([0.05, 0.4, 0.9]))
        else:
            mask = np.zeros(shape, dtype=bool)
            ends = [sorted(random.integers(0, n, 2)) for n in shape]
            mask[tuple(slice(low, high + 1) for low, high in ends)] = True
        mask.flat[random.integers(mask.size)] = True
        pair.append(mask)
    return *pair, spacing


@settings(derandomize=True, deadline=None, max_examples=400)
@given(mask_pairs())
def test_equals_medpy(case):
    prediction, truth, spacing = case
    np.testing.assert_allclose(
        values(mask_metrics(prediction, truth, spacing)),
        by_medpy(prediction, truth, spacing),
        rtol=1e-9,
        atol=1e-9,
    )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(mask_pairs())
def test_exchanging_the_masks_changes_asd_alone(case):
    prediction, truth, spacing = case
    there, back = mask_metrics(prediction, truth, spacing), mask_metrics(truth, prediction, spacing)
    assert (there.dice, there.jaccard, there.hd95) == (back.dice, back.jaccard, back.hd95)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(mask_pairs(), st.integers(1, 3))
def test_background_around_or_none_makes_no_difference(case, margin):
    prediction, truth, spacing = case
    wider = mask_metrics(np.pad(prediction, margin), np.pad(truth, margin), spacing)
    assert wider == mask_metrics(prediction, truth, spacing)


def test_equal_masks_are_perfect():
    mask = np.zeros((5, 6, 7), dtype=np.uint8)
    mask[1:4, 2:5, 3:6] = 1
    assert values(mask_metrics(mask, mask, (3.0, 2.0, 1.0))) == (1.0, 1.0, 0.0, 0.0)


def test_drawn_example():
    # P: prediction, T: truth, B: both, rows 2 mm apart, columns 1 mm
    #   . P P .
    #   . B B T
    #   . . . .
    prediction, truth = np.zeros((3, 4)), np.zeros((3, 4))
    prediction[0:2, 1:3] = 1
    truth[1, 1:4] = 1
    scores = mask_metrics(prediction, truth, (2.0, 1.0))
    # All voxels are border. Prediction to truth: 2 2 0 0. Truth to prediction: 0 0 1.
    assert scores.dice == pytest.approx(2 * 2 / (4 + 3))
    assert scores.jaccard == pytest.approx(2 / 5)
    assert scores.asd == pytest.approx(1.0)
    assert (
        scores.hd95 == pytest.approx(np.percentile([0, 0, 0, 0, 1, 2, 2], 95)) == pytest.approx(2.0)
    )
    # The other way round the mean is over 0 0 1.
    assert mask_metrics(truth, prediction, (2.0, 1.0)).asd == pytest.approx(1 / 3)


def test_an_inner_voxel_is_no_border():
    # T is a square of 3 x 3 at the image's edge, P its middle, which is no border of T.
    #   T T T .
    #   T B T .
    #   T T T .
    truth, prediction = np.zeros((3, 4)), np.zeros((3, 4))
    truth[:, :3] = 1
    prediction[1, 1] = 1
    scores = mask_metrics(prediction, truth)
    assert scores.dice == pytest.approx(0.2)
    assert scores.asd == pytest.approx(1.0)
    assert scores.hd95 == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_point_moved_by_k_voxels_is_k_spacings_away(axis, k):
    spacing = (5.0, 1.5, 0.5)
    truth = np.zeros((4, 4, 4), dtype=bool)
    truth[0, 0, 0] = True
    scores = mask_metrics(np.roll(truth, k, axis), truth, spacing)
    assert values(scores) == pytest.approx((0.0, 0.0, k * spacing[axis], k * spacing[axis]))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_plate_moved_by_k_voxels_across_itself(k):
    truth = np.zeros((8, 5, 5), dtype=bool)
    truth[2] = True
    scores = mask_metrics(np.roll(truth, k, 0), truth)
    assert values(scores) == pytest.approx((0.0, 0.0, k, k))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_bar_moved_by_k_voxels_along_itself(k):
    truth = np.zeros((3, 20), dtype=bool)
    truth[1, 2:12] = True
    scores = mask_metrics(np.roll(truth, k, 1), truth)
    # k voxels stick out at each end, by 1..k voxels.
    distances = [0] * (10 - k) + list(range(1, k + 1))
    assert scores.dice == pytest.approx((10 - k) / 10)
    assert scores.asd == pytest.approx(np.mean(distances))
    assert scores.hd95 == pytest.approx(np.percentile(distances * 2, 95))


@pytest.mark.parametrize(
    ("prediction_full", "truth_full", "raw", "published", "fair"),
    [
        (False, False, (1, 1, math.nan, math.nan), (0, 0, 0, 0), (1, 1, 0, 0)),
        (False, True, (0, 0, math.nan, math.nan), (0, 0, 0, 0), (0, 0, WORST, WORST)),
        (True, False, (0, 0, math.nan, math.nan), (0, 0, WORST, WORST), (0, 0, WORST, WORST)),
        (True, True, (1, 1, 0, 0), (1, 1, 0, 0), (1, 1, 0, 0)),
    ],
)
def test_empty_masks(prediction_full, truth_full, raw, published, fair):
    scores = mask_metrics(np.full((2, 3, 4), prediction_full), np.full((2, 3, 4), truth_full))
    assert (scores.empty_prediction, scores.empty_truth) == (not prediction_full, not truth_full)
    assert values(scores) == pytest.approx(raw, nan_ok=True)
    assert values(published_convention(scores, WORST)) == published
    assert values(penalised_convention(scores, WORST)) == fair


def test_conventions_leave_real_scores_alone():
    scores = MaskMetrics(
        {"dice": 0.5, "jaccard": 0.3, "hd95": 4.0, "asd": 1.0},
        empty_prediction=False,
        empty_truth=False,
    )
    assert published_convention(scores, WORST) == penalised_convention(scores, WORST) == scores


def test_metrics_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        mask_metrics(np.ones((2, 2)), np.ones((2, 2))).dice = 1.0


def test_no_distance_exceeds_the_diagonal():
    truth, prediction = np.zeros((3, 4)), np.zeros((3, 4))
    truth[0, 0] = prediction[-1, -1] = 1
    assert image_diagonal((3, 4)) == 5.0
    assert image_diagonal((2, 3, 4), (6.0, 1.0, 1.0)) == 13.0
    assert mask_metrics(prediction, truth).hd95 < image_diagonal((3, 4))


@pytest.mark.parametrize("shapes", [((3, 3), (3, 4)), ((3,), (3,)), ((2, 2, 2, 2),) * 2])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="shape"):
        mask_metrics(np.ones(shapes[0]), np.ones(shapes[1]))


@pytest.mark.parametrize(
    "spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (1.0, math.inf), 1.0]
)
def test_wrong_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        mask_metrics(np.ones((2, 2)), np.ones((2, 2)), spacing)
    with pytest.raises(ValueError, match="spacing"):
        image_diagonal((2, 2), spacing)


def test_the_arguments_stay_as_they_are():
    prediction, truth = np.eye(4, dtype=bool), np.ones((4, 4), dtype=bool)
    prediction.flags.writeable = truth.flags.writeable = False
    mask_metrics(prediction, truth)
