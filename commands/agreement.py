"""Whether a checkpoint and the data have the same classes, channels and preparation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataloaders.digest import FileFound
from training.checkpoint import Checkpoint
from utils.errors import UserError
from utils.json_file import read_json
from utils.names import and_more

# Entries of the data set's info without which a network's output means something else, and their
# names in messages. Entries that older checkpoints lack are accepted.
DECISIVE = {
    "dims": "dimensions",
    "channels": "number of channels",
    "channel_axis": "channel axis",
    "zscore": "normalisation at reading (zscore)",
    "file_classes": "number of label values",
    "foreground": "label values of the object",
}
# keys of a plan that decide how a scan looks to the network
PREPARED = {
    "label_values": "label values",
    "channel_names": "channel names",
    "normalisation": "normalisation",
    "spacing_mm": "spacing in mm",
    "axes": "stored axes",
    "orientation": "orientation",
}
LONGEST = 150  # characters of a value in a message


@dataclass(frozen=True)
class Disagreement:
    """What differs, with both values, in words.

    `fatal`: scores would be those of another class or channel, so no flag allows it.
    """

    what: str
    fatal: bool


def disagreements(
    checkpoint: Checkpoint, info: Mapping[str, Any], plan: Mapping[str, Any] | None
) -> list[Disagreement]:
    """Compare what a checkpoint records of its data with the data's `info` and `plan`.

    Fatal differences come first; entries that the checkpoint lacks are accepted. Raises UserError
    for a checkpoint whose record is damaged.
    """
    try:
        differing = _differing_classes(checkpoint.info, info)
        differing += _differing_info(checkpoint.info, info)
        if checkpoint.plan and plan:
            differing += _differing_plans(checkpoint.plan, plan)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{checkpoint.path}: its record of the data is damaged; use another checkpoint"
        ) from None
    return sorted(differing, key=lambda one: not one.fatal)


def check_agreement(
    checkpoint: Checkpoint,
    info: Mapping[str, Any],
    plan: Mapping[str, Any] | None,
    other_data: bool,
) -> list[str]:
    """Return warnings about differences that `--other_data` allows; raise UserError for others."""
    warnings: list[str] = []
    for one in disagreements(checkpoint, info, plan):
        problem = f"{checkpoint.path}: does not fit the data: {one.what}"
        if one.fatal:
            raise UserError(f"{problem}; prepare data with the same dataset.json as the run's")
        if not other_data:
            raise UserError(
                f"{problem}; prepare the data as the run's (put its plan.json into --root_path "
                f"first), or continue with --other_data"
            )
        warnings.append(f"warning: {checkpoint.path}: {one.what}; --other_data allows it")
    return warnings


def check_channels(source: Path, channel_names: Sequence[str]) -> str:
    """Compare the channels in the dataset.json of the scans in `source` with the trained ones.

    Returns a warning if their names differ, otherwise an empty string. Raises UserError if it
    numbers the same channels in another order, because files are assigned to channels by number.
    """
    folder = source.resolve()
    if not source.is_dir():
        folder = folder.parent
    path = folder.parent / "dataset.json"
    names = _declared_channels(path)
    trained = list(channel_names)
    if not names or names == trained:
        return ""
    difference = (
        f"{path}: its channels are {_listed(names)}, but the network was trained on "
        f"{_listed(trained)}"
    )
    if sorted(names) == sorted(trained):
        raise UserError(
            f"{difference}, in that order; copy the scans to another folder with the channel "
            f"numbers of the training"
        )
    return f"warning: {difference}"


def _declared_channels(path: Path) -> list[str]:
    """The channel names of a dataset.json in the order of their numbers.

    Empty if the file is missing or not understood.
    """
    try:
        content = read_json(path)
        channels = content.get("channel_names") or content.get("modality")
        return [str(channels[str(number)]) for number in range(len(channels))]
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return []


def other_preparation(trained: Sequence[str], tested: Sequence[str]) -> str:
    """Describe how the preparation of files to test differs from that of the training files.

    Both are given as JSON. Empty if they do not differ, or if one of them is not known.
    """
    if not trained:
        return ""
    for text in tested:
        if text and text not in trained:
            return f"prepared with different settings ({_first_difference(trained[0], text)})"
    return ""


def mixed_preparations(files: Sequence[FileFound], plan: Mapping[str, Any] | None) -> str:
    """A warning about files that were prepared with settings different from those of the rest;
    empty if there are none.

    The settings are those of the `plan` or, without one, those of the first file that has a record.
    Files without a record, such as the public ones, are accepted.
    """
    recorded = [file for file in files if file.preparation]
    if not recorded:
        return ""
    if plan:
        expected = {key: plan[key] for key in PREPARED if key in plan}
        what = "plan.json"
    else:
        expected = _settings(recorded[0].preparation)
        what = str(recorded[0].path)
    differing: dict[str, str] = {}  # the first setting that differs, by the record
    for text in {file.preparation for file in recorded}:
        key = _first_differing(_settings(text), expected)
        if key:
            differing[text] = key
    others = [file for file in recorded if file.preparation in differing]
    if not others:
        return ""
    first = others[0]
    settings = _settings(first.preparation)
    key = differing[first.preparation]
    return (
        f"warning: {first.path}{and_more(others)}: prepared with settings different from those of "
        f"{what} ({key} {_shown(settings[key])}, there {_shown(expected[key])}); prepare all cases "
        "again with --redo"
    )


def _settings(text: str) -> dict[str, Any]:
    """The settings in the record of a preparation; none if it is damaged."""
    try:
        settings = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(settings, dict):
        return {}
    return settings


def _first_differing(settings: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first setting that both have with different values, empty if there is none."""
    for key, value in settings.items():
        if key in expected and expected[key] != value:
            return key
    return ""


def _differing_classes(trained: Mapping[str, Any], info: Mapping[str, Any]) -> list[Disagreement]:
    before = list(trained.get("class_names", info["class_names"]))
    now = list(info["class_names"])
    if before == now:
        return []
    what = f"the run's classes are {_listed(before)}, the data's {_listed(now)}"
    if sorted(before) == sorted(now):
        what += " in another order"
    return [Disagreement(what, fatal=True)]


def _differing_info(trained: Mapping[str, Any], info: Mapping[str, Any]) -> list[Disagreement]:
    differing: list[Disagreement] = []
    for key, words in DECISIVE.items():
        if key in info and trained.get(key, info[key]) != info[key]:
            what = _both(words, trained[key], info[key])
            differing.append(Disagreement(what, fatal=True))
    return differing


def _differing_plans(trained: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Disagreement]:
    differing: list[Disagreement] = []
    for key, words in PREPARED.items():
        if key not in trained or key not in plan or trained[key] == plan[key]:
            continue
        what = _both(words, trained[key], plan[key])
        is_exchanged = key == "channel_names" and sorted(trained[key]) == sorted(plan[key])
        if is_exchanged:
            what += " (another order)"
        differing.append(Disagreement(what, fatal=is_exchanged))
    return differing


def _both(words: str, trained: object, now: object) -> str:
    return f"{words} {_shown(trained)} in the run, {_shown(now)} in the data"


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


def _shown(value: object) -> str:
    """A value in one line, lists without brackets, shortened."""
    if value is None:
        text = "the scan's own"
    elif isinstance(value, (list, tuple)):
        text = ", ".join(_shown(one) for one in value)
    elif isinstance(value, Mapping):
        text = " ".join(f"{key} {_shown(one)}" for key, one in value.items() if one is not None)
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = str(value)
    if len(text) > LONGEST:
        return f"{text[: LONGEST - 3]}..."
    return text
