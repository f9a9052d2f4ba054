import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary
from scipy import ndimage

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


def further(metrics):
    return tuple(metrics.values[name] for name in ("hd95_max", "assd", "nsd"))


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


@pytest.fixture
def two_boxes():
    """A bar P and a square T; B: both. The middle of the square is no border.

    T T T . .
    B B B P P
    T T T . .
    """
    prediction, truth = np.zeros((3, 5)), np.zeros((3, 5))
    prediction[1] = 1
    truth[:, :3] = 1
    return prediction, truth


# Distances of the two boxes in voxels: prediction to truth 0 1 0 1 2, truth to prediction twice 0
# and six times 1.
def test_hd95_max_is_the_larger_of_the_two_directions(two_boxes):
    scores = mask_metrics(*two_boxes)
    # 0 0 1 1 2: place 0.95 * 4 = 3.8 lies at 0.8 of the way from 1 to 2.
    assert scores.values["hd95_max"] == pytest.approx(1.8)
    # Both directions together, 4 zeros, 8 ones and a 2: place 0.95 * 12 = 11.4.
    assert scores.hd95 == pytest.approx(1.4)


def test_hd95_max_does_not_depend_on_which_mask_is_the_truth(two_boxes):
    prediction, truth = two_boxes
    assert mask_metrics(truth, prediction).values["hd95_max"] == pytest.approx(1.8)


def test_assd_is_the_mean_over_all_border_voxels(two_boxes):
    assert mask_metrics(*two_boxes).values["assd"] == pytest.approx((4 + 6) / (5 + 8))


@pytest.mark.parametrize(("tolerance", "within"), [(0, 2 + 2), (1, 4 + 8), (1.9, 4 + 8), (2, 13)])
def test_nsd_is_the_share_of_border_voxels_within_the_tolerance(two_boxes, tolerance, within):
    scores = mask_metrics(*two_boxes, tolerance=tolerance)
    assert scores.values["nsd"] == pytest.approx(within / 13)


@pytest.mark.parametrize(("tolerance", "within"), [(1, 4 + 2), (2, 13)])
def test_the_tolerance_of_nsd_is_in_mm_where_the_spacing_is_known(two_boxes, tolerance, within):
    # Rows are 2 mm apart: prediction to truth 0 1 0 1 2, truth to prediction 0 0 and six times 2.
    scores = mask_metrics(*two_boxes, (2.0, 1.0), tolerance=tolerance)
    assert scores.values["nsd"] == pytest.approx(within / 13)


def test_the_tolerance_of_nsd_is_2_by_default():
    truth = np.zeros((8, 5), dtype=bool)
    truth[2] = True
    moved = [mask_metrics(np.roll(truth, k, 0), truth).values["nsd"] for k in (2, 3)]
    assert moved == [1.0, 0.0]


@pytest.mark.parametrize("first", range(6))
def test_rounded_coordinates_do_not_decide_what_is_within_the_tolerance(first):
    truth, prediction = np.zeros((10, 1)), np.zeros((10, 1))
    truth[first] = 1
    prediction[first + 3] = 1
    # 3 * 0.1 and differences such as 0.8 - 0.5 are not exactly 0.3
    assert mask_metrics(prediction, truth, (0.1, 1.0), tolerance=0.3).values["nsd"] == 1.0


def ellipsoid(centre, radii):
    """A mask (10, 24, 24) of the voxels inside an ellipsoid."""
    grid = np.indices((10, 24, 24)).reshape(3, -1)
    scaled = (grid - np.array(centre)[:, None]) / np.array(radii)[:, None]
    return ((scaled**2).sum(0) <= 1).reshape(10, 24, 24)


# MONAI 1.6.1: HausdorffDistanceMetric(percentile=95), SurfaceDistanceMetric(symmetric=True) and
# SurfaceDiceMetric(class_thresholds=[tolerance]) of the two ellipsoids, in float32.
@pytest.mark.parametrize(
    ("spacing", "tolerance", "by_monai"),
    [
        ((2.5, 1.0, 0.75), 2.0, (4.5069389, 1.5606923, 0.6497093)),
        ((2.5, 1.0, 0.75), 1.0, (4.5069389, 1.5606923, 0.4869186)),
        (None, 2.0, (2.8284271, 1.1845902, 0.8546512)),
        (None, 1.0, (2.8284271, 1.1845902, 0.5610465)),
    ],
)
def test_hd95_max_assd_and_nsd_equal_monai(spacing, tolerance, by_monai):
    prediction = ellipsoid(centre=(4, 11, 12), radii=(3, 8, 6))
    truth = ellipsoid(centre=(5, 12, 12), radii=(4, 6, 9))
    scores = mask_metrics(prediction, truth, spacing, tolerance=tolerance)
    assert further(scores) == pytest.approx(by_monai, rel=1e-6)


def distances_by_scipy(start, target, spacing):
    """The definition: borders by erosion, distances by a distance transform of the image."""
    border = target & ~ndimage.binary_erosion(target)
    to_target = ndimage.distance_transform_edt(~border, sampling=spacing)
    return to_target[start & ~ndimage.binary_erosion(start)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(mask_pairs())
def test_hd95_max_assd_and_nsd_follow_their_definitions(case):
    prediction, truth, spacing = case
    there = distances_by_scipy(prediction, truth, spacing)
    back = distances_by_scipy(truth, prediction, spacing)
    both = np.concatenate((there, back))
    tolerance = float(np.median(both)) + 1e-3  # not on a distance, where rounding would decide
    expected = (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        both.mean(),
        (both <= tolerance).mean(),
    )
    scores = mask_metrics(prediction, truth, spacing, tolerance=tolerance)
    np.testing.assert_allclose(further(scores), expected, rtol=1e-9, atol=1e-9)


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


def test_a_missed_structure_has_nsd_0_and_the_worst_distance():
    scores = mask_metrics(np.zeros((2, 3)), np.ones((2, 3)))
    assert further(penalised_convention(scores, WORST)) == (WORST, WORST, 0.0)


def test_a_missed_structure_has_0_in_all_published_metrics():
    scores = mask_metrics(np.zeros((2, 3)), np.ones((2, 3)))
    assert further(published_convention(scores, WORST)) == (0.0, 0.0, 0.0)


def test_a_structure_that_does_not_exist_has_nsd_0_and_the_worst_distance():
    scores = mask_metrics(np.ones((2, 3)), np.zeros((2, 3)))
    assert further(penalised_convention(scores, WORST)) == (WORST, WORST, 0.0)


def test_a_correct_empty_prediction_has_nsd_1_and_no_distance():
    scores = mask_metrics(np.zeros((2, 3)), np.zeros((2, 3)))
    assert further(penalised_convention(scores, WORST)) == (0.0, 0.0, 1.0)


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
