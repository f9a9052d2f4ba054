"""Names that others chose: what a case may be called, and how names reach lists, tables and
terminals.
"""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataloaders.hdf5 import list_line, list_lines, read_list
from dataloaders.plan import read_plan
from datasets.prepare.nnunet import read_dataset
from evaluation.class_values import read_classes
from evaluation.results import summarise, write_results
from evaluation.scores import score_case
from reporting.tested_run import read_result
from utils.case import Case
from utils.errors import UserError
from utils.json_file import read_json
from utils.names import (
    and_more,
    case_name_fault,
    csv_cell,
    csv_text,
    folded,
    nearest,
    printable,
)

REPOSITORY = Path(__file__).parents[1]
GOOD = ("a", "a,1", "b.h5", "c#1", "a_slice_3", "-x", "=1+1", "ü", "a b", "a.h5,b", "com", "{}")


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_a_case_may_have_comes_back_from_a_list(tmp_path, name):
    assert case_name_fault(name) == ""
    path = tmp_path / "train.list"
    path.write_text(f"before\n{list_line(name)}\nafter\n", encoding="utf-8")
    assert list_lines(path) == ["before", name, "after"]


@pytest.mark.parametrize(
    "name, reason",
    [
        ("", "is empty"),
        ("..", "name another folder"),
        ("../a", "name another folder"),
        ("/etc/a", "name another folder"),
        ("sub/a", "name another folder"),
        ("sub\\a", "name another folder"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\u202eb", "control characters"),
        ("a\udcfc", "not valid UTF-8"),
        (" a", "begins or ends with a space"),
        ("a ", "begins or ends with a space"),
        (".a", "begins with a dot"),
        ("a.", "ends with a dot"),
        ("a:b", "contains :"),
        ("a?", "contains ?"),
        ("CON", "device on Windows"),
        ("nul.1", "device on Windows"),
        ("com1", "device on Windows"),
        ("ü" * 100, "longer than"),
    ],
)
def test_a_name_that_no_case_may_have_is_refused_with_the_reason(name, reason):
    assert reason in case_name_fault(name)


def test_lines_of_public_lists_are_read_as_before(tmp_path):
    path = tmp_path / "train.list"
    path.write_bytes(b"\xef\xbb\xbfa.h5\r\nb,field\r\nc.h5,field\r\n d \r\n\r\n")
    assert list_lines(path) == ["a", "b", "c", "d"]


def test_names_that_differ_in_case_or_in_how_an_accent_is_stored_are_one_file():
    assert folded("T2S") == folded("t2s")
    assert folded("Mu\u0308ller") == folded("m\u00fcller")
    assert folded("a1") != folded("a2")


def test_the_nearest_name_is_the_one_in_another_case_first():
    assert nearest("t2s", ["t2t", "T2S"]) == "T2S"
    assert nearest("patient_01", ["patient_1", "liver"]) == "patient_1"
    assert nearest("brain", ["liver"]) == ""


def test_text_for_a_terminal_holds_no_character_that_steers_it():
    assert printable("a\x1b[31m\u202e\udcfcü") == "a\\x1b[31m\\u202e\\udcfcü"
    assert printable("two\nlines") == "two\nlines"


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "'=a", "''+a"])
def test_a_cell_that_a_spreadsheet_would_run_is_quoted_and_comes_back(text):
    assert csv_cell(text) == f"'{text}" and csv_text(csv_cell(text)) == text


@pytest.mark.parametrize("text", ["a", "'a", "a=1", "", "'", "1"])
def test_any_other_cell_stays_as_it_is(text):
    assert csv_cell(text) == text and csv_text(text) == text


def test_metrics_csv_holds_no_formula_and_its_reader_gets_the_names_back(tmp_path):
    label = np.zeros((4, 6, 6), np.uint8)
    label[1:3, 2:4, 2:4] = 1
    scores = score_case(Case("=cmd()", label, label), label, ("background", "-organ"))
    write_results(tmp_path, scores, {"cases": 1, **summarise(scores)})
    rows = list(csv.reader(io.StringIO((tmp_path / "metrics.csv").read_text(encoding="utf-8"))))
    assert rows[1][:2] == ["'=cmd()", "'-organ"]
    result = read_result(tmp_path)
    assert result.cases == ("=cmd()",) and result.classes == ("-organ",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"ä": 1}'.encode(encoding))
    assert read_json(path) == {"ä": 1}


@pytest.mark.parametrize(
    "text, reason", [('{"a": 1, "a": 2}', "'a' is given twice"), ("[" * 100_000, "nested")]
)
def test_json_that_python_would_misread_is_refused(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_json(path)


def test_a_plan_whose_class_name_would_steer_a_terminal_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text(
        '{"version": 1, "name": "x", "class_names": ["background", "a\\u001b[31m"], "label_values": [0, 1],'
        '"channel_names": ["CT"], "normalisation": [{"scheme": "zscore"}], "dims": 3, "axes": "xyz",'
        '"spacing_mm": [1, 1, 1], "median_spacing_mm": [1, 1, 1], "median_shape": [9, 9, 9], "lists": {}}'
    )
    with pytest.raises(UserError, match="holds control characters"):
        read_plan(tmp_path)


def test_a_label_but_not_a_channel_may_not_have_the_name_of_the_mean(tmp_path):
    content = {
        "channel_names": {"0": "mean"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_dataset(tmp_path).channel_names == ("mean",)
    path.write_text(json.dumps(content | {"labels": {"background": 0, "mean": 1}}))
    with pytest.raises(UserError, match="a label has the name of the mean over all classes"):
        read_dataset(tmp_path)


def test_an_error_message_cannot_steer_the_terminal():
    code = "from utils.cli import run\nfrom utils.errors import UserError\ndef main(argv): raise UserError('a\\x1b[2Jb')\nrun(main)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert ended.returncode == 2 and ended.stderr == b"error: a\\x1b[2Jb\n"


def test_the_list_for_validation_says_what_to_do_when_it_is_empty(tmp_path):
    (tmp_path / "val.list").touch()
    with pytest.raises(UserError, match=r"val\.list: the list is empty; .* --select last"):
        read_list(tmp_path, "LA", "val.list")


def test_classes_are_read_from_a_dataset_json_with_a_mark_and_values_in_quotes(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_bytes(b'\xef\xbb\xbf{"labels": {"background": "0", "organ": "2"}}')
    assert read_classes(path).values == {"organ": (2,)}


@pytest.mark.parametrize(
    "items, text", [((), ""), (("a",), ""), (("a", "b"), " (and 1 more)"), ("abc", " (and 2 more)")]
)
def test_the_items_after_the_first_are_counted(items, text):
    assert and_more(items) == text
