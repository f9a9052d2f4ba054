"""JSON files of ours with any value of a wrong type: one line, or it does not matter; never another
exception.
"""

import json
import random
import shutil

import pytest
from helpers import ACDC
from scripts import prepare, report, score
from test_comparison import TEST, make_run
from wrong_values import variants

from commands.predict_files import Records, made_of
from commands.predict_uncertainty import Uncertainty
from dataloaders.cases import read_cases
from dataloaders.phantom.raw_scans import write_raw_phantom
from dataloaders.plan import read_plan
from datasets.checks.layout import recognise
from datasets.own import own_dataset
from datasets.prepare.prepared_files import RawCase, claim
from utils.errors import UserError
from utils.provenance import sha256 as file_hash

SHARE = 12  # one of so many is tried by default


@pytest.fixture(scope="module")
def tested(phantom_root, tmp_path_factory):
    """A tested run without its checkpoints, and scored predictions of another program."""
    root = tmp_path_factory.mktemp("tested")
    cases = read_cases(ACDC, phantom_root, "test")
    run = make_run(
        root / "run", cases, [case.label for case in cases], ACDC.class_names, root=phantom_root
    )
    write_raw_phantom(ACDC, root / "raw", 1, 1, 1, 1, (48,), 1337)
    labels = root / "raw" / "labelsTr"
    predictions = shutil.copytree(labels, root / "predictions")
    assert (
        score(["--predictions", str(predictions), "--labels", str(labels), "--workers", "1"]) == 0
    )
    return {"test": run / TEST, "evaluate": predictions}


def check(folder, output, changed, pictures):
    """Write the changed summary.json, make a page of it."""
    (folder / "summary.json").write_text(json.dumps(changed), encoding="utf-8")
    flags = ["--predictions", str(folder), "--output", str(output)]
    try:
        report(flags if pictures else [*flags, "--no-pictures"])
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("share", [SHARE, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["test", "evaluate"])
def test_a_summary_with_any_value_of_a_wrong_type_is_one_line_at_most(
    tested, tmp_path, kind, share
):
    folder = shutil.copytree(tested[kind], tmp_path / "folder")
    document = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    tried = list(variants(document))
    random.Random(0).shuffle(tried)
    faults = []
    for what, changed in tried[::share]:
        try:
            check(folder, tmp_path / "page", changed, pictures=share == 1)
        except Exception as error:
            faults.append(f"{what}: {error!r}"[:200])
    assert not faults, f"{len(faults)} of {len(tried[::share])}:\n" + "\n".join(faults[:40])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Own data, prepared."""
    root = tmp_path_factory.mktemp("prepared")
    write_raw_phantom(ACDC, root / "raw", 2, 1, 1, 1, (48,), 1337)
    flags = ["--dataset", "own", "--source", str(root / "raw"), "--root_path", str(root / "data")]
    assert prepare([*flags, "--dims", "2", "--workers", "1"]) == 0
    return root / "data"


def outcome(work):
    """What went wrong, other than in one line."""
    try:
        work()
    except UserError as error:
        return "" if "\n" not in str(error) else repr(error)
    except Exception as error:
        return repr(error)
    return ""


def faults(tried, work):
    """A line for each variant of a document that is neither taken nor refused in one line."""
    found = []
    for what, changed in tried:
        if fault := outcome(lambda changed=changed: work(changed)):
            found.append(f"{what}: {fault}"[:200])
    return found


def test_a_plan_with_any_value_of_a_wrong_type_is_one_line_at_most(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / "data")
    document = json.loads((root / "plan.json").read_text(encoding="utf-8"))

    def work(changed):
        (root / "plan.json").write_text(json.dumps(changed), encoding="utf-8")
        page = own_dataset(read_plan(root), root)
        page.info.read_list(root, page.info.train_list)
        page.info.held_out(root, "val")
        recognise(root, "")

    assert not faults(variants(document), work)


def test_a_preparation_with_any_value_of_a_wrong_type_is_one_line_at_most(tmp_path):
    settings = {"dataset": "LA", "crop": "label", "size": [1, 2], "spacing": {"x": 1.5}}

    def work(changed):
        (tmp_path / "preparation.json").write_text(json.dumps(changed), encoding="utf-8")
        claim(tmp_path, settings, redo=False)

    whole = [(repr(document), document) for document in (None, [], 1, "x", [1], [[1, 2]])]
    assert not faults([*variants(settings), *whole], work)


def test_a_record_of_predictions_with_any_value_of_a_wrong_type_is_one_line_at_most(tmp_path):
    image = tmp_path / "a_0000.nii.gz"
    image.write_bytes(b"scan")
    case = RawCase("a", (image,), part="predict")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.nii.gz").write_bytes(b"prediction")
    about, made_with = {"dataset": "LA"}, {"checkpoints": ["0"], "stride": [4, 4]}
    source = made_of(case, ())
    (out / "a_map.nii.gz").write_bytes(b"map")
    (out / "a_features.npy").write_bytes(b"feature")
    of_map = {"file": "a_map.nii.gz", "sha256": file_hash(out / "a_map.nii.gz")}
    of_map |= {"mean": 0.1, "foreground_mean": 0.2}
    maps = {"passes": 0, "maps": {"entropy": of_map}, "features": "a_features.npy"}
    record = source | {"file": "a.nii.gz", "uncertainty": maps}
    Records(out, None, about, made_with, overwrite=False).add("a", record)
    document = json.loads((out / "predict.json").read_text(encoding="utf-8"))

    def work(changed):
        (out / "predict.json").write_text(json.dumps(changed), encoding="utf-8")
        records = Records(out, None, about, made_with, overwrite=False)
        records.finished(out, case, source, False, Uncertainty(("entropy",)))
        records.add("b", {})

    assert not faults(variants(document), work)
