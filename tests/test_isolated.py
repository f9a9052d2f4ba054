"""A function that runs in a process of its own cannot end this one."""

import ctypes
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.isolated import call_isolated

SCAN = Path("scan.nii.gz")


def double(array: np.ndarray) -> np.ndarray:
    print("a library's own line")
    os.write(1, b"a C library's own line\n")
    return 2 * array


def read_address_zero() -> None:
    ctypes.string_at(0)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise UserError("scan.nii.gz: is no scan")


def process_number() -> int:
    return os.getpid()


def test_the_result_comes_back_whatever_is_printed():
    np.testing.assert_array_equal(call_isolated(SCAN, double, np.arange(5)), [0, 2, 4, 6, 8])


def test_the_function_runs_in_another_process():
    assert call_isolated(SCAN, process_number) != os.getpid()


def test_a_segmentation_fault_becomes_one_line_that_names_the_file():
    with pytest.raises(UserError, match=r"^scan.nii.gz: .*crashed \(SIGSEGV\).*download it again$"):
        call_isolated(SCAN, read_address_zero)


def test_a_killed_process_becomes_one_line_that_names_the_file():
    with pytest.raises(UserError, match=r"^scan.nii.gz: .*was killed"):
        call_isolated(SCAN, kill_itself)


def test_an_error_of_the_function_is_raised_here():
    with pytest.raises(UserError, match=r"^scan.nii.gz: is no scan$"):
        call_isolated(SCAN, refuse)


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(call_isolated(SCAN, double, np.arange(2)), [0, 2])
