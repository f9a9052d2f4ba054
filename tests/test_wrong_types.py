"""JSON files of ours with any value of a wrong type: one line, or it does not matter; never another exception."""

import json
import random
import shutil

import pytest
from helpers import ACDC
from test_comparison import TEST, make_run
from wrong_values import variants

from comparison.command import report
from dataloaders.cases import read_cases
from dataloaders.phantom.raw import write_raw_phantom
from programs.scoring import score
from utils.errors import UserError

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
