"""Kills at random moments and at aimed ones, and two writers of one run."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from campaign.conftest import SEED
from campaign.works import REGISTER, same, whole
from forked import Forked
from scripts import evaluate, prepare, register

from datasets import acdc
from reporting.tested_run import read_result
from utils.errors import UserError

pytestmark = pytest.mark.campaign


@pytest.mark.parametrize("name, full", [("ACDC", 20), ("LA", 10), ("CoGRNet", 10)])
def test_kills_at_random(name, full, runs, tmp_path, tally, number):
    """SIGKILL again and again, until the run is through; then another one."""
    expected, seconds = whole(runs[name], tmp_path / "whole")
    rng, kills, pending, output = np.random.default_rng([SEED, full]), 0, 0, tmp_path / "0"
    while kills < number(full) or pending:
        child = Forked(lambda output=output: runs[name](output))
        if kills < number(full):
            child.process.join(rng.uniform(0, seconds))
            if child.process.is_alive():
                child.kill()
                kills, pending = kills + 1, pending + 1
                continue
        ended = child.ended()
        fault = same(output, expected) if ended.status == 0 else ended.said[-500:]
        for _ in range(pending):
            tally.note(not fault, fault)
        pending, output = 0, tmp_path / str(kills)


def killed_at(work, call, place):
    """`work`, killed at the `call`-th renaming of a file, before or after it: between the two of a
    save, too.
    """
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == call and place == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    work()


def test_kills_between_the_renames_of_a_save(runs, tmp_path, tally, number):
    expected, _ = whole(runs["ACDC"], tmp_path / "whole")
    calls = np.random.default_rng(SEED).choice(np.arange(2, 24), number(10), replace=False)
    for call in calls.tolist():
        output, place = tmp_path / str(call), "before" if call % 2 else "after"
        killed = Forked(
            lambda output=output, call=call, place=place: killed_at(
                lambda: runs["ACDC"](output), call, place
            )
        ).ended()
        again = Forked(lambda output=output: runs["ACDC"](output)).ended()
        fault = same(output, expected) if again.status == 0 else again.said[-500:]
        left = list(output.rglob(".unfinished-*"))
        tally.note(
            killed.status == -signal.SIGKILL and not fault and not left,
            f"call {call}: {killed.status} {fault} {left}",
        )


def test_kills_of_a_registration(la_root, tmp_path, tally, number):
    def root_of(name):
        return Path(shutil.copytree(la_root, tmp_path / name))

    def labels(root):
        return {
            path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*p[xy].h5"))
        }

    def work(root):
        register([*REGISTER, "--root_path", str(root)])

    began = time.monotonic()
    good = root_of("whole")
    assert Forked(lambda: work(good)).ended(1200).status == 0
    seconds, rng, root = time.monotonic() - began, np.random.default_rng(SEED), root_of("killed")
    kills = number(4)
    for _ in range(kills):
        child = Forked(lambda: work(root))
        child.process.join(rng.uniform(0, seconds))
        child.kill()
    ended = Forked(lambda: work(root)).ended(1200)
    for _ in range(kills):
        tally.note(
            ended.status == 0
            and labels(root) == labels(good)
            and not list(root.rglob(".unfinished-*")),
            ended.said[-500:],
        )


def test_kills_between_the_renames_of_a_test(network, phantom_root, tmp_path, tally, number):
    """The result is the whole one, or is not there, or is refused; the same test again gives the
    whole one.
    """

    def work(output):
        flags = ["--root_path", str(phantom_root), "--checkpoint", str(network), "--device", "cpu"]
        evaluate(acdc.DATASET, [*flags, "--output_dir", str(output)])

    def files(output):
        return {path.name: path.read_bytes() for path in output.iterdir() if path.suffix != ".json"}

    assert Forked(lambda: work(tmp_path / "whole")).ended().status == 0
    expected = files(tmp_path / "whole")
    calls = range(2, 2 + 4 * len(expected))
    for call in list(calls)[: number(len(calls))]:
        output, place = tmp_path / str(call), "before" if call % 2 else "after"
        shutil.copytree(tmp_path / "whole", output)
        killed = Forked(
            lambda output=output, call=call, place=place: killed_at(
                lambda: work(output), call, place
            )
        ).ended()
        with suppress(UserError):
            assert read_result(output).cases == read_result(tmp_path / "whole").cases
        again = Forked(lambda output=output: work(output)).ended()
        left = list(output.rglob(".unfinished-*"))
        fine = again.status == 0 and files(output) == expected and not left
        tally.note(fine, f"call {call}: {killed.status} {left} {again.said[-300:]}")


def test_kills_of_a_preparation(raw, tmp_path, tally, number):
    flags = ["--dataset", "own", "--source", str(raw), "--dims", "2", "--workers", "2"]

    def work(root):
        return prepare([*flags, "--root_path", str(root)])

    def files(root):
        return {
            path.relative_to(root): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.suffix in (".h5", ".list")
        }

    began = time.monotonic()
    assert Forked(lambda: work(tmp_path / "whole")).ended().status == 0
    seconds, rng = time.monotonic() - began, np.random.default_rng(SEED)
    expected = files(tmp_path / "whole")
    for index in range(number(10)):
        root = tmp_path / str(index)
        child = Forked(lambda root=root: work(root))
        child.process.join(rng.uniform(0, seconds))
        child.kill()
        again = Forked(lambda root=root: work(root)).ended()
        left = list(root.rglob(".unfinished-*"))
        fine = again.status == 0 and files(root) == expected and not left
        tally.note(fine, f"{index}: {again.status} {left} {again.said[-300:]}")


def test_two_writers(runs, tmp_path, tally, number):
    expected, _ = whole(runs["ACDC"], tmp_path / "whole")
    for index in range(number(8)):
        output = tmp_path / str(index)
        both = [Forked(lambda output=output: runs["ACDC"](output)) for _ in range(2)]
        ended = [child.ended() for child in both]
        refused = [one for one in ended if one.status == 2 and "is writing to it" in one.said]
        fine = sorted(one.status for one in ended) in ([0, 2], [0, 0]) and len(refused) == sum(
            one.status == 2 for one in ended
        )
        tally.note(fine and not same(output, expected), str([one.said[-300:] for one in ended]))
