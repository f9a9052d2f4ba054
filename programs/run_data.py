"""The data of a run are part of it: what training notes of them in its checkpoints, and what resuming and testing hold against that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataloaders.digest import Digest, Named, difference, hashed, seen_in_training, take, twins
from dataloaders.facts import DatasetFacts
from dataloaders.splits import WHOLE, case_of, listed_path
from recipes.page import Page
from training.checkpoint import Checkpoint
from training.distributed import any_process, from_main, is_main
from utils.errors import UserError

ANYWAY = "or go on all the same with --other_data"


@dataclass(frozen=True)
class RunData:
    """`facts` and `plan`: of the page; `digest`: of lists and files; `files` are what it was taken of; `read`: the splits that the
    run reads; `other`: whether checkpoints of other data are taken."""

    facts: Mapping
    plan: Mapping | None
    digest: Digest
    files: Named
    read: Sequence[str]
    other: bool

    def about(self) -> dict:
        """What of it goes into a checkpoint."""
        return {
            "facts": dict(self.facts),
            "data": self.digest,
            **({"plan": self.plan} if self.plan else {}),
        }

    def check(self, checkpoint: Checkpoint) -> None:
        """UserError for a checkpoint that was made with other data; what older ones do not say is taken."""
        for key, value in self.facts.items():
            if checkpoint.facts.get(key, value) != value:
                raise UserError(
                    f"{checkpoint.path}: of other data ({key} {checkpoint.facts[key]}, here {value}); use another --exp"
                )
        if self.other:
            return
        said = "" if checkpoint.plan == self.plan else "they were prepared otherwise"
        if not said and checkpoint.data:
            said = _told(
                checkpoint, lambda data: difference(data, self.digest, self.files, self.read)
            )
        if said:
            raise UserError(
                f"{checkpoint.path}: of a run on other data: {said}; put them back, use another --exp, {ANYWAY}"
            )


def _told(checkpoint: Checkpoint, compare: Callable[[Digest], str]) -> str:
    """What comparing says; UserError for a digest that is none."""
    try:
        return compare(checkpoint.data)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{checkpoint.path}: what it says of its data is damaged; take another checkpoint"
        ) from None


def run_data(
    root: Path,
    page: Page,
    labelled: Sequence[tuple[str, Path]],
    lists: Mapping[str, Sequence[str]],
    read: Sequence[str],
    other: bool,
    say: Callable[[str], None],
) -> RunData:
    """What is noted of a run's data. `labelled`: name and path of the files that are read of labelled cases; `lists`: names by split.

    UserError where a case to train on is one to validate or test on under another name; copies beyond that are told.
    """
    facts = page.facts
    named = {
        split: list(labelled)
        if split == "labelled"
        else [(name, listed_path(root, facts, split, name)) for name in names]
        for split, names in lists.items()
    }
    if any_process(from_main(lists) != lists):
        raise UserError(
            f"{root}: not all processes read the same lists: every machine needs the same copy of the data set"
        )
    digest = from_main(_taken(root, facts, named, lists) if is_main() else None)
    leaks, copies = twins(digest, named)
    if leaks:
        raise UserError(leaks[0] + (f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""))
    for line in copies[:3]:
        say(f"warning: {line}")
    return RunData(facts.plain(), page.plan, digest, named, read, other)


def _taken(
    root: Path, facts: DatasetFacts, named: Named, lists: Mapping[str, Sequence[str]]
) -> Digest:
    cases: dict[str, None] = {}
    for split, names in lists.items():
        if split not in WHOLE:
            cases |= dict.fromkeys(case_of(facts, split, name) for name in names)
    return take(root, named) | {"cases": [[hashed(case), ""] for case in cases]}


def check_tested(
    checkpoint: Checkpoint,
    root: Path,
    facts: DatasetFacts,
    split: str,
    names: Sequence[str],
    other: bool,
) -> str:
    """What is to be said of the cases of a split beside those that the checkpoint knows: nothing, or a warning where `other` allows it;
    else UserError. They are others where the run found another list or other files, and were trained on where a name or a content was."""
    if not checkpoint.data:
        return ""
    files = {split: [(name, facts.path(root, name)) for name in names]}
    now = take(root, files)
    said = _told(checkpoint, lambda data: seen_in_training(data, now, files, split))
    said = (
        f"it was trained on {said}"
        if said
        else _told(checkpoint, lambda data: difference(data, now, files, (split,)))
    )
    if said and not other:
        raise UserError(f"{checkpoint.path}: {said}; test it on the data of its run, {ANYWAY}")
    return f"warning: {said}; --other_data allows it" if said else ""
