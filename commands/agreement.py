"""Whether a checkpoint and data speak of the same classes, channels and preparation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.checkpoint import Checkpoint
from utils.errors import UserError
from utils.json_file import read_json

DECISIVE = {
    "dims": "dimensions",
    "channels": "number of channels",
    "channel_axis": "channel axis",
    "zscore": "normalisation at reading (zscore)",
    "file_classes": "number of label values",
    "foreground": "label values of the object",
}
"""Facts without which a network's output means something else, and how a message names them. What older checkpoints lack is accepted."""
PREPARED = {
    "label_values": "label values",
    "channel_names": "channel names",
    "normalisation": "normalisation",
    "spacing_mm": "spacing in mm",
    "axes": "stored axes",
    "orientation": "orientation",
}
"""Keys of a plan that decide how a scan looks to the network."""


@dataclass(frozen=True)
class Disagreement:
    """`what` differs, with both values. `fatal`: scores would be those of another class or channel, so no flag allows it."""

    what: str
    fatal: bool


def disagreements(
    checkpoint: Checkpoint, info: Mapping[str, Any], plan: Mapping[str, Any] | None
) -> list[Disagreement]:
    """What a checkpoint records differently than the data's `facts` and `plan`, the worst first; what it lacks is accepted.

    UserError for a checkpoint whose record is damaged.
    """
    try:
        found = [*_classes(checkpoint.info, info), *_decisive(checkpoint.info, info)]
        if checkpoint.plan and plan:
            found += _plans(checkpoint.plan, plan)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{checkpoint.path}: what it records of its data is damaged; take another checkpoint"
        ) from None
    return sorted(found, key=lambda one: not one.fatal)


def check_agreement(
    checkpoint: Checkpoint,
    info: Mapping[str, Any],
    plan: Mapping[str, Any] | None,
    other_data: bool,
) -> list[str]:
    """Warnings for what `--other_data` allows to differ; UserError for the rest."""
    warnings = []
    for one in disagreements(checkpoint, info, plan):
        if one.fatal:
            raise UserError(
                f"{checkpoint.path}: does not fit the data: {one.what}; prepare data with the same dataset.json as the run's"
            )
        if not other_data:
            raise UserError(
                f"{checkpoint.path}: does not fit the data: {one.what}; prepare the data as the run's (put its plan.json into "
                "--root_path first), or continue with --other_data"
            )
        warnings.append(f"warning: {checkpoint.path}: {one.what}; --other_data allows it")
    return warnings


def check_channels(source: Path, channel_names: Sequence[str]) -> str:
    """A warning where the dataset.json of the scans in `source` names other channels than the network was trained on; else empty.

    UserError where it numbers the same channels in another order: files are assigned to channels by these numbers.
    """
    folder = source.resolve() if source.is_dir() else source.resolve().parent
    path = folder.parent / "dataset.json"
    names = _declared_channels(path)
    trained = list(channel_names)
    if not names or names == trained:
        return ""
    if sorted(names) == sorted(trained):
        raise UserError(
            f"{path}: its channels are {_listed(names)}, but the network was trained on {_listed(trained)}, in that order; "
            "copy the scans to another folder with the channel numbers of the training"
        )
    return f"warning: {path}: its channels are {_listed(names)}, but the network was trained on {_listed(trained)}"


def _declared_channels(path: Path) -> list[str]:
    """The channel names of a dataset.json in the order of their numbers; none where it is missing or not understood."""
    try:
        content = read_json(path)
        channels = content.get("channel_names") or content.get("modality")
        return [str(channels[str(number)]) for number in range(len(channels))]
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return []


def other_preparation(trained: Sequence[str], tested: Sequence[str]) -> str:
    """In words how files to test were prepared otherwise than those that were trained on, both as JSON; empty where they were not, or
    where one of the two is not known."""
    if not trained:
        return ""
    for text in tested:
        if text and text not in trained:
            return f"prepared with other settings ({_first_difference(trained[0], text)})"
    return ""


def _classes(trained: Mapping[str, Any], info: Mapping[str, Any]) -> list[Disagreement]:
    before = list(trained.get("class_names", info["class_names"]))
    now = list(info["class_names"])
    if before == now:
        return []
    order = " in another order" if sorted(before) == sorted(now) else ""
    what = f"the run's classes are {_listed(before)}, the data's {_listed(now)}{order}"
    return [Disagreement(what, fatal=True)]


def _decisive(trained: Mapping[str, Any], info: Mapping[str, Any]) -> list[Disagreement]:
    found = []
    for key, words in DECISIVE.items():
        if key in info and trained.get(key, info[key]) != info[key]:
            what = f"{words} {_shown(trained[key])} in the run, {_shown(info[key])} in the data"
            found.append(Disagreement(what, fatal=True))
    return found


def _plans(trained: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Disagreement]:
    found = []
    for key, words in PREPARED.items():
        if key not in trained or key not in plan or trained[key] == plan[key]:
            continue
        exchanged = key == "channel_names" and sorted(trained[key]) == sorted(plan[key])
        order = " (another order)" if exchanged else ""
        what = f"{words} {_shown(trained[key])} in the run, {_shown(plan[key])} in the data{order}"
        found.append(Disagreement(what, fatal=exchanged))
    return found


def _first_difference(trained: str, tested: str) -> str:
    try:
        before = json.loads(trained)
        now = json.loads(tested)
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return f"{key} {_shown(before.get(key))} in training, here {_shown(now.get(key))}"
    except (AttributeError, TypeError, ValueError):
        pass
    return "damaged records"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(name) for name in names)


def _shown(value: Any) -> str:
    """A value in one line, lists without brackets, shortened."""
    if isinstance(value, (list, tuple)):
        text = ", ".join(_shown(one) for one in value)
    elif isinstance(value, Mapping):
        text = " ".join(f"{key} {_shown(one)}" for key, one in value.items() if one is not None)
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = "the scan's own" if value is None else str(value)
    return text if len(text) <= 150 else f"{text[:147]}..."
