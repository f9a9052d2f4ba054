import nibabel
import numpy as np
import pytest

from scans.nifti_writer import write_nifti, write_nifti_like


def counted(dtype=np.float32):
    return np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)


def test_axes_and_spacing_are_turned_round(tmp_path):
    volume = counted()
    write_nifti(tmp_path / "a.nii.gz", volume, (10.0, 1.5, 1.25))
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.shape == (4, 3, 2)
    assert np.asarray(image.dataobj)[3, 1, 0] == volume[0, 1, 3]
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, volume)
    np.testing.assert_array_equal(image.affine, np.diag([1.25, 1.5, 10.0, 1.0]))
    assert image.header.get_xyzt_units()[0] == "mm"


def test_no_spacing_means_one_millimetre(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", counted())
    np.testing.assert_array_equal(nibabel.load(tmp_path / "a.nii.gz").affine, np.eye(4))


def test_a_given_affine_is_kept(tmp_path):
    affine = np.array([[0, -1.5, 0, 7], [1.25, 0, 0, -8], [0, 0, 10, 9], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "a.nii.gz", counted(), affine=affine)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "a.nii.gz").affine, affine)


@pytest.mark.parametrize(
    ("volume", "stored"),
    [
        (counted(bool), np.uint8),
        (counted(np.uint8), np.uint8),
        (counted(np.int64), np.uint8),
        (counted(np.int64) - 1, np.int16),
        (counted(np.int64) * 1000, np.int16),
        (counted(np.uint64) * 10000, np.int32),
        (counted(np.float16), np.float32),
        (counted(np.float64) / 7, np.float32),
    ],
)
def test_stored_types(tmp_path, volume, stored):
    write_nifti(tmp_path / "a.nii.gz", volume)
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == stored
    assert not np.isfinite(image.header["scl_slope"]) or image.header["scl_slope"] == 1
    np.testing.assert_allclose(np.asarray(image.dataobj).T, volume.astype(np.float64), rtol=1e-7)


def test_nothing_but_the_file_is_left(tmp_path):
    write_nifti(str(tmp_path / "a.nii.gz"), counted())
    write_nifti(str(tmp_path / "a.nii.gz"), counted() + 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii.gz"]
    assert nibabel.load(tmp_path / "a.nii.gz").get_fdata().min() == 1


def test_a_failure_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    write_nifti(tmp_path / "a.nii.gz", counted())
    before = (tmp_path / "a.nii.gz").read_bytes()

    def full_disk(image, name):
        name.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_filename", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_nifti(tmp_path / "a.nii.gz", counted() + 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii.gz"]
    assert (tmp_path / "a.nii.gz").read_bytes() == before


def test_equal_volumes_make_equal_files(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", counted())
    write_nifti(tmp_path / "b.nii.gz", counted())
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "volume", "options", "message"),
    [
        ("a.nii", counted(), {}, "nii.gz"),
        ("a.nii.gz", counted()[0], {}, "three axes"),
        ("a.nii.gz", counted()[:0], {}, "at least one voxel"),
        ("a.nii.gz", counted(complex), {}, "complex"),
        ("a.nii.gz", counted(np.int64) * 2**40, {}, "int64"),
        ("a.nii.gz", counted(), {"spacing_mm": (1.0, 1.0)}, "spacing"),
        ("a.nii.gz", counted(), {"spacing_mm": (1.0, 0.0, 1.0)}, "spacing"),
        ("a.nii.gz", counted(), {"affine": np.eye(3)}, "affine"),
        ("a.nii.gz", counted(), {"spacing_mm": (1.0, 1.0, 1.0), "affine": np.eye(4)}, "not both"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, name, volume, options, message):
    with pytest.raises(ValueError, match=message):
        write_nifti(tmp_path / name, volume, **options)
    assert not list(tmp_path.iterdir())


def test_a_broken_qform_is_not_passed_on(tmp_path):
    affine = np.diag([-0.8, 0.9, 2.5, 1.0])
    header = nibabel.Nifti1Header()
    header.set_data_shape((2, 3, 4))
    header.set_sform(affine, 1)
    header["qform_code"] = 1
    header["quatern_b"] = 5
    write_nifti_like(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.uint8), header)
    written = nibabel.load(tmp_path / "a.nii.gz")
    assert written.header["qform_code"] == 0 and written.get_qform(coded=True)[0] is None
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6)
