"""The data of a run are part of it: what training notes of them in its checkpoints, and what resuming and testing hold against that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.agreement import Disagreement, disagreements, other_preparation
from dataloaders.copies import TRAINING, ScanCase, as_record, find_copies, merged, without_common
from dataloaders.dataset_info import DatasetInfo
from dataloaders.digest import (
    Digest,
    Named,
    Survey,
    difference,
    digest_of,
    hashed,
    seen_in_training,
    survey,
)
from dataloaders.splits import WHOLE, case_of, listed_path
from datasets.base import DatasetSpec
from training.checkpoint import Checkpoint
from training.distributed import any_process, from_main, is_main
from utils.errors import UserError

ANYWAY = "or continue all the same with --other_data"


@dataclass(frozen=True)
class RunData:
    """`facts` and `plan`: of the page; `digest`: of lists and files; `files` are what it was taken of; `read`: the splits that the
    run reads; `other`: whether checkpoints of other data are taken."""

    info: Mapping
    plan: Mapping | None
    digest: Digest
    files: Named
    read: Sequence[str]
    other: bool

    def about(self) -> dict:
        """What of it goes into a checkpoint."""
        return {
            "facts": dict(self.info),
            "data": self.digest,
            **({"plan": self.plan} if self.plan else {}),
        }

    def check(self, checkpoint: Checkpoint) -> None:
        """UserError for a checkpoint that was made with other data; what older ones do not record is accepted."""
        for key, value in self.info.items():
            if checkpoint.info.get(key, value) != value:
                raise UserError(
                    f"{checkpoint.path}: of other data ({key} {checkpoint.info[key]}, here {value}); use another --exp"
                )
        differing = disagreements(checkpoint, self.info, self.plan)
        for one in differing:
            if one.fatal:
                raise UserError(f"{checkpoint.path}: of other data ({one.what}); use another --exp")
        if self.other:
            return
        what = self._difference(checkpoint, differing)
        if what:
            raise UserError(
                f"{checkpoint.path}: of a run on other data: {what}; put them back, use another --exp, {ANYWAY}"
            )

    def _difference(self, checkpoint: Checkpoint, differing: Sequence[Disagreement]) -> str:
        """In words what is not as it was when the checkpoint was written; empty where all is."""
        if differing:
            return f"they were prepared otherwise: {differing[0].what}"
        if checkpoint.plan != self.plan:
            return "they were prepared otherwise"
        if not checkpoint.data:
            return ""
        return _compared(
            checkpoint, lambda data: difference(data, self.digest, self.files, self.read)
        )


def _compared(checkpoint: Checkpoint, compare: Callable[[Digest], str]) -> str:
    """What `compare` returns for the checkpoint's digest; UserError for a damaged one."""
    try:
        return compare(checkpoint.data)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{checkpoint.path}: what it records of its data is damaged; take another checkpoint"
        ) from None


def run_data(
    root: Path,
    dataset: DatasetSpec,
    labelled: Sequence[tuple[str, Path]],
    lists: Mapping[str, Sequence[str]],
    read: Sequence[str],
    other: bool,
    say: Callable[[str], None],
) -> RunData:
    """What is noted of a run's data. `labelled`: name and path of the files that are read of labelled cases; `lists`: names by split.

    UserError where a case to train on is also one to validate or test on, or one to validate on one to test on, under another name: names,
    files, formats and preparations may differ. Other copies are reported.
    """
    info = dataset.info
    named = {
        split: list(labelled)
        if split == "labelled"
        else [(name, listed_path(root, info, split, name)) for name in names]
        for split, names in lists.items()
    }
    if any_process(from_main(lists) != lists):
        raise UserError(
            f"{root}: not all processes read the same lists: every machine needs the same copy of the data set"
        )
    found = from_main(survey(root, info, named) if is_main() else None)
    cases = _cases(info, found, lists)
    leaks, copies = find_copies(cases)
    if leaks:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise UserError(f"{leaks[0]}; remove one of them from its list{more}")
    for line in copies[:3]:
        say(f"warning: {line}, so it counts twice")
    digest = _digest(info, found, lists, cases)
    return RunData(info.plain(), dataset.plan, digest, named, read, other)


def _cases(info: DatasetInfo, found: Survey, lists: Mapping[str, Sequence[str]]) -> list[ScanCase]:
    """The cases that the lists name; files that go with them, such as coarse labels, are none."""
    cases = []
    for split, names in lists.items():
        listed = set(names)
        for file in found[split]:
            if file.name in listed:
                case = case_of(info, split, file.name)
                cases.append(ScanCase(split, case, str(file.path), file.prints))
    return merged(cases)


def _digest(
    info: DatasetInfo,
    found: Survey,
    lists: Mapping[str, Sequence[str]],
    cases: Sequence[ScanCase],
) -> Digest:
    """What a checkpoint keeps: files by split, the names of the training cases, their scans, and how they were prepared."""
    names: dict[str, None] = {}
    for split, listed in lists.items():
        if split not in WHOLE:
            names |= dict.fromkeys(case_of(info, split, name) for name in listed)
    preparations = {
        file.preparation for split in TRAINING for file in found.get(split, ()) if file.preparation
    }
    return digest_of(found) | {
        "cases": [[hashed(name), ""] for name in names],
        "scans": as_record(without_common(cases)),
        "preparations": sorted(preparations),
    }


def check_tested(
    checkpoint: Checkpoint,
    root: Path,
    info: DatasetInfo,
    split: str,
    names: Sequence[str],
    other: bool,
) -> str:
    """Warnings about the cases of a split, one a line: what `other` allows. Empty where nothing is to be said.

    UserError, unless `other`, where a case was trained on (by name, file or scan), was prepared with other settings than the training
    cases, or where the run had another list or other files.
    """
    if not checkpoint.data:
        return ""
    files = {split: [(name, info.path(root, name)) for name in names]}
    found = survey(root, info, files)
    leaked = _compared(checkpoint, lambda data: seen_in_training(data, found[split], split))
    prepared = [file.preparation for file in found[split]]
    faults = [
        f"it was trained on {leaked}" if leaked else "",
        _compared(
            checkpoint, lambda data: other_preparation(data.get("preparations", ()), prepared)
        ),
        _compared(checkpoint, lambda data: difference(data, digest_of(found), files, (split,))),
    ]
    faults = [fault for fault in faults if fault]
    if faults and not other:
        raise UserError(f"{checkpoint.path}: {faults[0]}; test it on the data of its run, {ANYWAY}")
    return "\n".join(f"warning: {fault}; --other_data allows it" for fault in faults)
