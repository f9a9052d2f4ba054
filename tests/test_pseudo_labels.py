"""Training on labels that something else has predicted (`--pseudo_labels`)."""

import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from helpers import train_any, train_two_slices
from raw_scans import (
    abdominal_scan,
    acdc_patient,
    la_scan,
    pancreas_scan,
    write_raw_dataset,
    write_scan,
)
from scripts import prepare

from dataloaders.hdf5 import read_case
from dataloaders.plan import read_plan
from datasets.own import own_dataset
from datasets.pseudo_labels import find_pseudo_labels
from datasets.registry import all_datasets
from methods.registry import run_title
from methods.supervised import Supervised
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow")

CASES = {"imagesTr": 3, "imagesUn": 2, "imagesTs": 1}  # the last of imagesTr validates
LABELLED, UNLABELLED = ("tr0", "tr1"), ("un0", "un1")
VALUES = (1, 5, 7)
PREDICTED = 5  # the predicted labels hold this value everywhere, which is class 2
STEPS = ["--pre_iterations", "1", "--max_iterations", "1", "--val_every", "1", "--device", "cpu"]
BATCH = ["--batch_size", "16", "--labeled_bs", "8"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw_dataset(tmp_path_factory.mktemp("own") / "raw", CASES, VALUES)


def prepared_own(raw, root, dims):
    flags = ["--dataset", "own", "--source", raw, "--root_path", root, "--dims", dims]
    assert prepare([*map(str, flags), "--workers", "1"]) == 0
    return root


@pytest.fixture(scope="module")
def roots(raw, tmp_path_factory):
    """The raw scans prepared as slices and as volumes."""
    place = tmp_path_factory.mktemp("prepared")
    return {dims: prepared_own(raw, place / str(dims), dims) for dims in (2, 3)}


def image_of(raw, case):
    return nibabel.load(raw / f"images{case[:2].capitalize()}" / f"{case}_0000.nii.gz")


def write_label(folder, raw, case, value=PREDICTED, shape=None):
    """A label map of one value with the header of the case's scan, as nnU-Net writes it."""
    image = image_of(raw, case)
    label = np.full(shape or image.shape, value, np.uint8)
    nibabel.save(nibabel.Nifti1Image(label, image.affine), folder / f"{case}.nii.gz")


@pytest.fixture
def predictions(raw, tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for case in UNLABELLED:
        write_label(folder, raw, case)
    return folder


def flags(root, folder, output, *more):
    where = ["--root_path", root, "--output_root", output, "--pseudo_labels", folder]
    return [*map(str, where), *STEPS, *BATCH, "--labelnum", "2", *more]


def batches_of(monkeypatch, argv):
    """The batches of a training run, without the blank one of the memory estimate."""
    batches = []
    losses = Supervised.losses

    def spy(self, batch, step):
        if batch["image"].any():
            batches.append(batch)
        return losses(self, batch, step)

    monkeypatch.setattr(Supervised, "losses", spy)
    train_any([*argv, "--method", "supervised"])
    return batches


def is_predicted(batch):
    """Whether each label of a batch is a predicted one: there class 2 is everywhere in the scan, in
    the other labels in less than a tenth of it.
    """
    share = (batch["label"] == 2).float().flatten(1).mean(1)
    return share > 0.2


@pytest.mark.parametrize("dims", [2, 3])
def test_batches_hold_the_predicted_labels_and_the_labels_of_labelled_cases(
    roots, predictions, tmp_path, monkeypatch, dims
):
    batches = batches_of(monkeypatch, flags(roots[dims], predictions, tmp_path / "runs"))
    assert len(batches) == 2
    predicted = [is_predicted(batch) for batch in batches]
    assert any(one.any() for one in predicted) and not all(one.all() for one in predicted)
    for batch, one in zip(batches, predicted, strict=True):
        assert len(batch["image"]) == 8
        assert not any((label == 1).any() for label in batch["label"][one])


def test_a_file_with_the_name_of_a_labelled_case_does_not_replace_its_label(
    raw, roots, predictions, tmp_path, monkeypatch
):
    for case in LABELLED:
        write_label(predictions, raw, case)
    batches = batches_of(monkeypatch, flags(roots[3], predictions, tmp_path / "runs"))
    assert not all(is_predicted(batch).all() for batch in batches)


def test_volumes_that_are_read_at_every_draw_have_them_too(
    roots, predictions, tmp_path, monkeypatch
):
    argv = flags(roots[3], predictions, tmp_path / "runs", "--cache", "none")
    batches = batches_of(monkeypatch, argv)
    assert any(is_predicted(batch).any() for batch in batches)


def test_the_folder_is_recorded_in_config_json(roots, predictions, tmp_path):
    train_any([*flags(roots[3], predictions, tmp_path / "runs"), "--method", "supervised"])
    (path,) = (tmp_path / "runs").rglob("config.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["options"]["data"]["pseudo_labels"] == str(predictions)


def test_train_log_has_the_number_of_predicted_labels(roots, predictions, tmp_path):
    train_any([*flags(roots[3], predictions, tmp_path / "runs"), "--method", "supervised"])
    (path,) = (tmp_path / "runs").rglob("train.log")
    line = f"--pseudo_labels {predictions}: the labels of 2 unlabelled cases, which count as"
    assert line in path.read_text(encoding="utf-8")


def test_a_run_whose_predicted_labels_have_changed_is_not_resumed(
    raw, roots, predictions, tmp_path
):
    argv = [*flags(roots[3], predictions, tmp_path / "runs"), "--method", "supervised"]
    train_any(argv)
    write_label(predictions, raw, "un1", value=7)
    with pytest.raises(UserError, match=r"un1\.nii\.gz has changed since"):
        train_any(argv)


def test_results_name_a_run_on_predicted_labels():
    settings = {"method": "supervised", "egm": "none", "pseudo_labels": "predictions"}
    assert run_title(settings) == "supervised, with pseudo labels"


# labels on the grid of the prepared files


def labels_of(folder, root, dataset, names):
    return find_pseudo_labels(folder, root, dataset, names, say=lambda line: None)


def prepare_published(folder, dataset, *flags):
    """Prepare the scans in `raw` of a folder in the published form, into its `data`."""
    where = ["--source", str(folder / "raw"), "--root_path", str(folder / "data")]
    assert prepare(["--dataset", dataset, *where, *flags, "--workers", "1"]) == 0


def stored_label(path, info, dims):
    return read_case(path, info, dims=dims)[1]


def test_label_maps_of_own_volumes_become_what_preparation_makes_of_labels(raw, roots):
    """Here: turned and resampled."""
    dataset = own_dataset(read_plan(roots[3]), roots[3])
    label_of = labels_of(raw / "labelsTr", roots[3], dataset, LABELLED)
    for case in LABELLED:
        expected = stored_label(dataset.info.path(roots[3], case), dataset.info, dims=3)
        assert expected.any() and np.array_equal(label_of(case, expected.shape), expected)


def test_label_maps_of_own_slices_become_what_preparation_makes_of_labels(raw, roots):
    dataset = own_dataset(read_plan(roots[2]), roots[2])
    info = dataset.info
    names = [name for name in info.read_list(roots[2], info.train_list) if name.startswith("tr0")]
    label_of = labels_of(raw / "labelsTr", roots[2], dataset, names)
    seen = 0
    for name in names:
        expected = stored_label(roots[2] / info.slice_file.format(name), info, dims=2)
        assert np.array_equal(label_of(name, expected.shape), expected)
        seen += expected.any()
    assert seen > 3


@pytest.mark.parametrize("values", [(0, 255), (0, 1)], ids=["of the download", "class numbers"])
def test_label_maps_of_la_are_cropped_as_the_prepared_scan(tmp_path, values):
    la = all_datasets()["LA"]
    la_scan(tmp_path / "raw", "A")
    prepare_published(tmp_path, "LA", "--cases", "A")
    truth = np.zeros((60, 50, 6), np.uint8)
    truth[20:40, 18:31, 1:5] = values[1]
    write_scan(tmp_path / "predictions" / "A.nii.gz", truth, (0.625,) * 3)
    expected = stored_label(la.info.path(tmp_path / "data", "A"), la.info, dims=3)
    label_of = labels_of(tmp_path / "predictions", tmp_path / "data", la, ["A"])
    assert expected.any() and np.array_equal(label_of("A", expected.shape), expected)


def test_label_maps_of_acdc_become_its_slices(tmp_path):
    acdc = all_datasets()["ACDC"]
    acdc_patient(tmp_path / "raw", "patient099")
    prepare_published(tmp_path, "ACDC")
    (tmp_path / "predictions").mkdir()
    shutil.copy(
        tmp_path / "raw" / "training" / "patient099" / "patient099_frame12_gt.nii.gz",
        tmp_path / "predictions" / "patient099_frame02.nii.gz",
    )
    names = [f"patient099_frame02_slice_{number}" for number in (1, 2, 3)]
    label_of = labels_of(tmp_path / "predictions", tmp_path / "data", acdc, names)
    for name in names:
        path = tmp_path / "data" / acdc.info.slice_file.format(name)
        expected = stored_label(path, acdc.info, dims=2)
        assert expected.any() and np.array_equal(label_of(name, expected.shape), expected)


@pytest.mark.parametrize(
    ("variant", "case", "spacing"),
    [("coranet", "0001", (0.5, 0.5, 1.0)), ("mcnet", "image0001_norm", (1.0, 1.0, 1.0))],
)
def test_label_maps_of_pancreas_are_cropped_and_scaled_as_the_prepared_scan(
    tmp_path, variant, case, spacing
):
    pancreas = all_datasets()["Pancreas"]
    pancreas_scan(tmp_path / "raw", "0001", spacing)
    prepare_published(tmp_path, "Pancreas", "--variant", variant)
    (tmp_path / "predictions").mkdir()
    shutil.copy(
        tmp_path / "raw" / "TCIA_labels" / "label0001.nii.gz",
        tmp_path / "predictions" / f"{case}.nii.gz",
    )
    expected = stored_label(pancreas.info.path(tmp_path / "data", case), pancreas.info, dims=3)
    label_of = labels_of(tmp_path / "predictions", tmp_path / "data", pancreas, [case])
    assert expected.any() and np.array_equal(label_of(case, expected.shape), expected)


@pytest.mark.parametrize("name", ["KiTS19", "LiTS"])
def test_label_maps_of_abdominal_scans_are_turned_cropped_and_resized(tmp_path, name):
    """Nearest voxels, as in the preparation except where two are equally near."""
    dataset = all_datasets()[name]
    case, _, _ = abdominal_scan(tmp_path / "raw", name)
    prepare_published(tmp_path, name, "--size", "48", "40", "32")
    (tmp_path / "predictions").mkdir()
    (segmentation,) = (tmp_path / "raw" / case).glob("segmentation*")
    ending = "".join(segmentation.suffixes)
    shutil.copy(segmentation, tmp_path / "predictions" / f"{case}{ending}")
    expected = stored_label(dataset.info.path(tmp_path / "data", case), dataset.info, dims=3)
    label_of = labels_of(tmp_path / "predictions", tmp_path / "data", dataset, [case])
    found = label_of(case, expected.shape)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_arrays_are_taken_as_they_are(roots, tmp_path, ending):
    dataset = own_dataset(read_plan(roots[3]), roots[3])
    shape = stored_label(dataset.info.path(roots[3], "tr0"), dataset.info, dims=3).shape
    label = np.random.default_rng(0).integers(0, 4, shape)
    if ending == ".npy":
        np.save(tmp_path / "un0.npy", label)
    else:
        with h5py.File(tmp_path / "un0.h5", "w") as file:
            file["label"] = label
    label_of = labels_of(tmp_path, roots[3], dataset, ["un0"])
    assert np.array_equal(label_of("un0", shape), label)


# what the user can correct


def refused(argv, match, method="supervised"):
    with pytest.raises(UserError, match=match) as error:
        train_any([*argv, "--method", method])
    assert "\n" not in str(error.value)


def test_a_method_that_needs_unlabelled_cases_is_refused(roots, predictions, tmp_path):
    argv = flags(roots[3], predictions, tmp_path / "runs")
    refused(argv, r"--method bcp needs them; use --method supervised$", method="bcp")


def test_a_missing_case_is_named(roots, predictions, tmp_path):
    (predictions / "un1.nii.gz").unlink()
    refused(
        flags(roots[3], predictions, tmp_path / "runs"),
        r"un1\.nii\.gz: no such file, and no other label of the training case un1; predict",
    )


def test_a_missing_folder_is_named(roots, tmp_path):
    refused(
        flags(roots[3], tmp_path / "no", tmp_path / "runs"), r"--pseudo_labels .*no such folder"
    )


def test_two_files_of_one_case_are_refused(roots, predictions, tmp_path):
    np.save(predictions / "un0.npy", np.zeros(3, np.uint8))
    refused(
        flags(roots[3], predictions, tmp_path / "runs"),
        r"un0\.nii\.gz and un0\.npy are labels of one case",
    )


def test_labels_of_all_training_cases_leave_nothing_to_replace(raw, tmp_path):
    dataset = all_datasets()["LA"]
    with pytest.raises(UserError, match="all training cases have labels already; lower --labelnum"):
        find_pseudo_labels(tmp_path, tmp_path, dataset, [], say=lambda line: None)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_label_map_of_another_shape_is_named(raw, roots, predictions, tmp_path, dims):
    write_label(predictions, raw, "un0", shape=(9, 9, 9))
    refused(
        flags(roots[dims], predictions, tmp_path / "runs"),
        r"un0\.nii\.gz: the label has 9 x 9 x 9 voxels, its image 26 x 24 x 20",
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_an_array_of_another_shape_is_named(roots, predictions, tmp_path, dims):
    (predictions / "un0.nii.gz").unlink()
    np.save(predictions / "un0.npy", np.ones((40, 9, 9), np.uint8))
    refused(
        flags(roots[dims], predictions, tmp_path / "runs"),
        r"un0\.npy: the label of un0(_slice_1)? has (40 x )?9 x 9 voxels, its image",
    )


def test_a_value_that_is_no_class_is_named(raw, roots, predictions, tmp_path):
    write_label(predictions, raw, "un1", value=3)
    refused(
        flags(roots[3], predictions, tmp_path / "runs"),
        r"un1\.nii\.gz: the label holds 3, expected 0, 1, 5, 7 \(declared in dataset\.json\)",
    )


@pytest.mark.parametrize(
    "content, fault",
    [
        (np.array([[[4]]]), r"label values 4\.\.4, expected 0\.\.3"),
        (np.array([[[0.5]]]), "not an array of whole numbers"),
        (np.array(["x"], dtype=object), "not a readable array"),
    ],
    ids=["a class too many", "fractions", "objects"],
)
def test_an_array_that_is_no_label_is_named(roots, predictions, tmp_path, content, fault):
    (predictions / "un0.nii.gz").unlink()
    np.save(predictions / "un0.npy", content, allow_pickle=True)
    refused(flags(roots[3], predictions, tmp_path / "runs"), rf"un0\.npy: {fault}")


def test_a_prepared_file_without_the_grid_of_its_scan_needs_an_array(roots, predictions, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(roots[3], root)
    with h5py.File(root / "data" / "un0.h5", "a") as file:
        del file.attrs["source_shape"]
    refused(
        flags(root, predictions, tmp_path / "runs"),
        r"un0\.nii\.gz: .*does not record the grid of its scan; .* write un0\.npy",
    )


def test_coarse_labels_are_not_mixed_with_predicted_ones(kits_root, predictions, tmp_path):
    for case in range(10):
        shutil.copy(predictions / "un0.nii.gz", predictions / f"case_{case:05d}.nii.gz")
    argv = ["--dataset", "KiTS19", "--root_path", kits_root, "--output_root", tmp_path, *STEPS]
    argv += ["--pseudo_labels", predictions, "--labelnum", "2", "--method", "supervised"]
    argv += ["--patch_size", "32", "32", "16", "--labeled_bs", "2", "--batch_size", "4"]
    with pytest.raises(UserError, match="not with coarse labels; train on dense ones"):
        train_two_slices([str(word) for word in argv])
