"""The data of a run: what training records of them in its checkpoints.

Resuming and testing compare their data with that record.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from commands.agreement import (
    Disagreement,
    disagreements,
    mixed_preparations,
    other_preparation,
)
from dataloaders.copies import TRAINING, ScanCase, as_record, find_copies, merged, without_common
from dataloaders.dataset_info import DatasetInfo, NamedFile
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
from training.distributed import from_main, is_main, largest_of_processes
from utils.errors import UserError
from utils.names import and_more

ANYWAY = "or continue with --other_data"
OTHERWISE = "the data were prepared with different settings"
MOST_COPIES = 3  # pairs of copies that are reported


@dataclass(frozen=True)
class RunData:
    """The data that a run reads.

    `info` and `plan`: of the data set. `digest`: of lists and files. `files`: the files of the
    digest. `read`: the splits that the run reads. `other`: whether checkpoints of other data are
    accepted.
    """

    info: Mapping[str, Any]
    plan: Mapping[str, Any] | None
    digest: Digest
    files: Named
    read: Sequence[str]
    other: bool

    def about(self) -> dict[str, Any]:
        """What a checkpoint records of the data."""
        about: dict[str, Any] = {"facts": dict(self.info), "data": self.digest}
        if self.plan:
            about["plan"] = self.plan
        return about

    def summary(self) -> dict[str, Any]:
        """A hash of all lists and files of the data, and the number of files by split."""
        return {
            "sha256": hashed(json.dumps(self.digest)),
            "cases": {split: len(files) for split, files in self.files.items()},
        }

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise UserError for a checkpoint of other data; what older ones do not record is
        accepted."""
        for key, value in self.info.items():
            recorded = checkpoint.info.get(key, value)
            if recorded != value:
                raise UserError(
                    f"{checkpoint.path}: was trained on other data ({key} was {recorded}, is now "
                    f"{value}); use another --exp"
                )
        differing = disagreements(checkpoint, self.info, self.plan)
        for one in differing:
            if one.fatal:
                raise UserError(
                    f"{checkpoint.path}: was trained on other data ({one.what}); use another --exp"
                )
        if self.other:
            return
        what = self._difference(checkpoint, differing)
        if what:
            raise UserError(
                f"{checkpoint.path}: was trained on other data: {what}; restore the data, use "
                f"another --exp, {ANYWAY}"
            )

    def _difference(self, checkpoint: Checkpoint, differing: Sequence[Disagreement]) -> str:
        """Describe what has changed since the checkpoint was written; empty if nothing has."""
        if differing:
            return f"{OTHERWISE}: {differing[0].what}"
        if checkpoint.plan != self.plan:
            return OTHERWISE

        def compare(recorded: Digest) -> str:
            return difference(recorded, self.digest, self.files, self.read)

        return _compared(checkpoint, compare)


def _compared(checkpoint: Checkpoint, compare: Callable[[Digest], str]) -> str:
    """The result of `compare` for the checkpoint's digest, empty if it has none. UserError for a
    damaged one."""
    if not checkpoint.data:
        return ""
    try:
        return compare(checkpoint.data)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{checkpoint.path}: its record of the data is damaged; use another checkpoint"
        ) from None


def run_data(
    root: Path,
    dataset: DatasetSpec,
    labelled: Sequence[NamedFile],
    lists: Mapping[str, Sequence[str]],
    read: Sequence[str],
    other: bool,
    say: Callable[[str], None],
) -> RunData:
    """Read what is recorded of a run's data.

    `labelled`: the files that are read of labelled cases. `lists`: names by split. `say` is called
    with each warning.

    Raises UserError if a training case is also a validation or test case under another name, or a
    validation case a test case. Names, files, formats and preparations may differ. Other copies are
    only reported.
    """
    info = dataset.info
    files: dict[str, Sequence[NamedFile]] = {}
    for split, names in lists.items():
        if split == "labelled":
            files[split] = list(labelled)
        else:
            files[split] = [NamedFile(name, listed_path(root, info, split, name)) for name in names]
    if largest_of_processes(from_main(lists) != lists):
        raise UserError(
            f"{root}: not all processes read the same lists: every machine needs the same copy of "
            f"the data set"
        )
    surveyed: Survey = {}
    if is_main():
        surveyed = survey(root, info, files)
    surveyed = from_main(surveyed)
    cases = _cases(info, surveyed, lists)
    leaks, copies = find_copies(cases)
    if leaks:
        raise UserError(f"{leaks[0]}{and_more(leaks)}; remove one of them from its list")
    for line in copies[:MOST_COPIES]:
        say(f"warning: {line}, so it counts twice")
    mixed = mixed_preparations(list(chain.from_iterable(surveyed.values())), dataset.plan)
    if mixed:
        say(mixed)
    digest = _digest(info, surveyed, lists, cases=cases)
    return RunData(info.plain(), dataset.plan, digest, files=files, read=read, other=other)


def _cases(
    info: DatasetInfo, surveyed: Survey, lists: Mapping[str, Sequence[str]]
) -> list[ScanCase]:
    """The cases that the lists name; files that accompany them, such as coarse labels, are none."""
    cases: list[ScanCase] = []
    for split, names in lists.items():
        listed = set(names)
        for file in surveyed[split]:
            if file.name in listed:
                name = case_of(info, split, file.name)
                cases.append(ScanCase(split, name, str(file.path), file.prints))
    return merged(cases)


def _digest(
    info: DatasetInfo,
    surveyed: Survey,
    lists: Mapping[str, Sequence[str]],
    cases: Sequence[ScanCase],
) -> Digest:
    """What a checkpoint holds: files by split, the training cases' names and scans, and their
    preparation."""
    names: dict[str, None] = {}
    for split, listed in lists.items():
        if split not in WHOLE:
            names |= dict.fromkeys(case_of(info, split, name) for name in listed)
    preparations: set[str] = set()
    for split in TRAINING:
        preparations.update(file.preparation for file in surveyed.get(split, ()))
    preparations.discard("")
    return digest_of(surveyed) | {
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
    """Return warnings about the cases of a split, one per line, for what `other` allows; empty if
    there are none.

    Without `other`, raises UserError if a case was trained on (by name, file or scan), if a case
    was prepared with settings different from those of the training cases, or if the run had another
    list or other files.
    """
    if not checkpoint.data:
        return ""
    files = {split: [NamedFile(name, info.path(root, name)) for name in names]}
    surveyed = survey(root, info, files)
    prepared = [file.preparation for file in surveyed[split]]
    leaked = _compared(checkpoint, lambda data: seen_in_training(data, surveyed[split], split))
    if leaked:
        leaked = f"it was trained on {leaked}"
    preparation = _compared(
        checkpoint, lambda data: other_preparation(data.get("preparations", ()), prepared)
    )
    changed = _compared(
        checkpoint, lambda data: difference(data, digest_of(surveyed), files, (split,))
    )
    faults = [fault for fault in (leaked, preparation, changed) if fault]
    if faults and not other:
        raise UserError(f"{checkpoint.path}: {faults[0]}; test it on the data of its run, {ANYWAY}")
    return "\n".join(f"warning: {fault}; --other_data allows it" for fault in faults)
