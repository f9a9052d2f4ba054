import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from utils.label_maps import largest_component, largest_component_per_class

# connectivity -> (axes, the most steps along different axes that still make a neighbour)
STEPS = {4: (2, 1), 8: (2, 2), 6: (3, 1), 18: (3, 2), 26: (3, 3)}


def by_scipy(mask, connectivity):
    components, _ = ndimage.label(mask, ndimage.generate_binary_structure(*STEPS[connectivity]))
    sizes = np.bincount(components.ravel())[1:]
    return components == sizes.argmax() + 1 if sizes.size else mask


@st.composite
def masks(draw):
    connectivity = draw(st.sampled_from(sorted(STEPS)))
    axes = STEPS[connectivity][0]
    shape = draw(hnp.array_shapes(min_dims=axes, max_dims=axes, min_side=1, max_side=8))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = random.random(shape) < draw(st.sampled_from([0.0, 0.15, 0.3, 0.5, 1.0]))
    return (np.asfortranarray(mask) if draw(st.booleans()) else mask), connectivity


@settings(derandomize=True, deadline=None, max_examples=500)
@given(masks())
def test_equals_scipy(case):
    mask, connectivity = case
    largest = largest_component(mask, connectivity)
    assert largest.dtype == bool
    np.testing.assert_array_equal(largest, by_scipy(mask, connectivity))


@st.composite
def label_maps(draw):
    """Batches of label maps as networks answer: smooth, smooth with specks, random, most of it or a
    corner filled; ties are many.
    """
    connectivity = draw(st.sampled_from(sorted(STEPS)))
    axes = STEPS[connectivity][0]
    shape = draw(
        hnp.array_shapes(min_dims=axes, max_dims=axes, min_side=1, max_side=12 if axes == 2 else 7)
    )
    random, classes = (
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(st.integers(2, 5)),
    )
    labels = random.normal(size=(draw(st.integers(1, 4)), classes, *shape))
    labels = ndimage.gaussian_filter(labels, (0, 0, *[draw(st.sampled_from([0, 1, 2]))] * axes))
    labels[:, 0] += labels.std() * draw(st.sampled_from([0, 1, 3]))
    labels = labels.argmax(1).astype(draw(st.sampled_from([np.uint8, np.int64])))
    specks = random.random(labels.shape) < draw(st.sampled_from([0, 0.05]))
    labels[specks] = random.integers(0, classes + 1, specks.sum())  # one number that is no class
    if draw(st.booleans()):
        labels[:, shape[0] // 2 :] = 0
    return labels, classes, connectivity


@settings(derandomize=True, deadline=None, max_examples=400)
@given(label_maps())
def test_batches_equal_scipy_class_by_class(case):
    labels, classes, connectivity = case
    expected = np.zeros_like(labels)
    for sample, result in zip(labels, expected, strict=True):
        for label in range(1, classes):
            result[by_scipy(sample == label, connectivity)] = label
    np.testing.assert_array_equal(
        largest_component_per_class(labels, classes, connectivity), expected
    )


@pytest.mark.parametrize(("connectivity", "size"), [(4, 2), (8, 3)])
def test_corners_join_in_8_only(connectivity, size):
    mask = np.array([[1, 1, 0], [0, 0, 1]])
    assert largest_component(mask, connectivity).sum() == size


@pytest.mark.parametrize(("connectivity", "size"), [(6, 1), (18, 2), (26, 3)])
def test_edges_join_from_18_and_corners_in_26(connectivity, size):
    mask = np.zeros((3, 3, 3))
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 2, 2] = 1
    assert largest_component(mask, connectivity).sum() == size


@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_tie_goes_to_the_first_in_raster_order(connectivity):
    # The right one starts a row higher. cc3d numbers them the other way round when it gets a bool
    # array with 8.
    mask = np.array([[0, 0, 0, 1], [1, 1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(
        largest_component(mask, connectivity), [[0, 0, 0, 1], [0, 0, 0, 1]]
    )


def test_a_thin_volume_has_components():
    # cc3d 4.1.1 raises "maximum length exception" for this one as a bool array.
    assert largest_component(np.array([[[1, 0, 1]]], dtype=bool), 26).tolist() == [
        [[True, False, False]]
    ]


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (0, 4)])
def test_empty_stays_empty(shape):
    largest = largest_component(np.zeros(shape, dtype=np.uint8), 4 if len(shape) == 2 else 6)
    assert largest.shape == shape and largest.dtype == bool and not largest.any()


@pytest.mark.parametrize(
    ("shape", "connectivity"), [((4, 4), 6), ((4, 4, 4), 8), ((4,), 4), ((2, 2, 2, 2), 26)]
)
def test_wrong_connectivity_is_refused(shape, connectivity):
    with pytest.raises(ValueError, match="connectivity"):
        largest_component(np.ones(shape), connectivity)


def test_the_argument_is_neither_changed_nor_shared():
    mask = np.zeros((3, 3), dtype=bool)
    largest_component(mask, 4)[0, 0] = True
    assert not mask.any()


def test_each_class_of_each_sample_by_itself():
    labels = np.array(
        [
            [[1, 1, 0, 1], [2, 0, 3, 3], [2, 2, 0, 2]],
            [[0, 0, 0, 0], [3, 0, 0, 3], [9, 0, 0, 3]],
        ]
    )
    kept = largest_component_per_class(labels, 4, 4)
    # 9 is no class of four, and class 3 of the second sample touches no other sample.
    np.testing.assert_array_equal(
        kept,
        [
            [[1, 1, 0, 0], [2, 0, 3, 3], [2, 2, 0, 0]],
            [[0, 0, 0, 0], [0, 0, 0, 3], [0, 0, 0, 3]],
        ],
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize(
    ("shape", "connectivity"), [((3, 20, 21), 8), ((2, 6, 10, 11), 26), ((0, 4, 4), 4)]
)
def test_per_class_keeps_shape_and_dtype_and_equals_scipy(dtype, shape, connectivity):
    labels = np.random.default_rng(0).integers(0, 4, shape).astype(dtype)
    before = labels.copy()
    kept = largest_component_per_class(labels, 4, connectivity)
    assert kept.dtype == dtype and kept.shape == shape
    np.testing.assert_array_equal(labels, before)
    for sample, result in zip(labels, kept, strict=True):
        for label in (1, 2, 3):
            np.testing.assert_array_equal(result == label, by_scipy(sample == label, connectivity))
