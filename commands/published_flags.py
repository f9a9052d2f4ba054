"""Flags of the published scripts: what each of them is here, or why it changes nothing."""

import os
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from utils.cli import program
from utils.errors import UserError
from utils.messages import message

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Translation:
    """Our words for a published flag, and a note to the user (may be empty)."""

    words: tuple[str, ...] = ()
    note: str = ""


Rule = Callable[[str, str | None], Translation]
"""Takes a flag as it was typed and its value, if it has one; raises UserError for a value that the
flag cannot have.
"""
Rules = Mapping[str, Rule]


def translated(rules: Rules, argv: Sequence[str]) -> list[str]:
    """Return a command line with published flags replaced by ours; report each that changes
    nothing.

    Flags without a rule stay as they are. Raises UserError for a value that a flag cannot have.
    """
    words = deque(argv)
    ours: list[str] = []
    while words:
        word = words.popleft()
        flag, equals, attached = word.partition("=")
        rule = None
        if flag.startswith("--"):
            rule = rules.get(flag[2:].replace("-", "_"))
        if rule is None:
            ours.append(word)
            continue
        value = attached if equals else _next_value(words)
        translation = rule(flag, value)
        ours += translation.words
        if translation.note and _is_first_process():
            message(translation.note)
    return ours


def _next_value(words: deque[str]) -> str | None:
    """Remove and return the next word if it is a value, not a flag."""
    if not words or words[0].startswith("--"):
        return None
    return words.popleft()


def _is_first_process() -> bool:
    """Return whether this is the first of a launcher's processes, which have not met yet."""
    return os.environ.get("RANK", "0") == "0"


def alias(ours: str, note: str = "") -> Rule:
    """Return the rule of another name of our flag `ours`. `note`: how it differs from the published
    one.
    """

    def rule(flag: str, value: str | None) -> Translation:
        if value is None:
            raise UserError(f"{flag}: takes a value, as --{ours} does")
        explanation = ""
        if note:
            explanation = f"{flag} {value}: {note}"
        return Translation((f"--{ours}", value), explanation)

    return rule


def switch(flag: str, value: str | None) -> Translation:
    """Translate one of our switches that may be followed by 0 or 1."""
    if value not in (None, "0", "1"):
        raise UserError(f"{flag} {value}: give 0 or 1, or only {flag}, which is 1")
    if value == "0":
        return Translation((f"--no_{flag[2:]}",))
    return Translation((flag,))


def ignored(reason: str = "it enters no loss") -> Rule:
    """Return the rule of a flag that takes a number and changes nothing, whatever its value."""

    def rule(flag: str, value: str | None) -> Translation:
        if value is None or not NUMBER.fullmatch(value):
            raise UserError(
                f"{_shown(flag, value)}: takes a number, and changes nothing: {reason}; remove it"
            )
        return Translation(note=f"{flag} {value}: accepted, changes nothing: {reason}")

    return rule


def fixed(
    only: str, reason: str, *, remedy: str = "remove it", number: float | None = None
) -> Rule:
    """Return the rule of a flag that has one possible value here.

    `number`: the value of `only`, for a flag that also takes it rounded to three or more digits.
    """

    def rule(flag: str, value: str | None) -> Translation:
        if value != only and not _is_rounded(value, number):
            raise UserError(f"{_shown(flag, value)}: must be {only}, because {reason}; {remedy}")
        return Translation(note=f"{flag} {value}: accepted, changes nothing: {reason}")

    return rule


def _is_rounded(value: str | None, number: float | None) -> bool:
    """Return whether the value is this number, up to an error of 0.001."""
    if value is None or number is None or not NUMBER.fullmatch(value):
        return False
    return abs(float(value) - number) < 1e-3


def first_gpu(advice: str) -> Rule:
    """Return the rule of a list of CUDA devices, of which the first is used.

    `advice`: how to use all `{count}` of `{gpus}` with `{script}`.
    """

    def rule(flag: str, value: str | None) -> Translation:
        gpus = (value or "").split(",")
        if not all(gpu.isdecimal() for gpu in gpus):
            raise UserError(
                f"{_shown(flag, value)}: give the number of a CUDA device, as in --gpu 0"
            )
        note = ""
        if len(gpus) > 1:
            how = advice.format(count=len(gpus), gpus=value, script=program())
            note = f"{flag} {value}: only the first is used; {how}"
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                note = f"{flag} {value}: each of the launched processes has a device of its own"
        return Translation(("--gpu", gpus[0]), note)

    return rule


def _shown(flag: str, value: str | None) -> str:
    if value is None:
        return flag
    return f"{flag} {value}"


EVERY_TRAINING: Rules = {
    "deterministic": switch,
    "gpu": first_gpu(
        "for all {count}: CUDA_VISIBLE_DEVICES={gpus} torchrun --nproc_per_node {count} {script}"
    ),
    "local_rank": ignored("the launcher's environment defines which process this is"),
    "stride": alias("val_stride"),
}
"""Rules of every training script."""
_RAMP = dict.fromkeys(("consistency", "consistency_rampup", "magnitude"), ignored())
_ACDC_CLASSES = {"num_classes": fixed("4", "ACDC has 4 classes with the background")}
_LA_TRAINING: Rules = {
    **_RAMP,
    "pre_max_iteration": alias("pre_iterations"),
    "self_max_iteration": alias("max_iterations"),
    "max_samples": fixed(
        "80",
        "all cases of the training list are used",
        remedy="remove it, and shorten train.list in --root_path to use fewer",
    ),
    "mask_ratio": ignored("--mask and --box_end set the box"),
    "u_alpha": ignored(),
    "loss_weight": ignored(),
}
_HALF = (
    "all iterations are run; the published loop stops after about half of them "
    "(--loop_lengths published_run)"
)

PUBLISHED_TRAINING: Mapping[str, Rules] = {
    "ACDC": {**_RAMP, **_ACDC_CLASSES, "s_param": ignored()},
    "LA": _LA_TRAINING,
    "CoGRNet": {
        **_LA_TRAINING,
        "pre_max_iteration": alias("pre_iterations", _HALF),
        "self_max_iteration": alias("max_iterations", _HALF),
        "mask_ratio": fixed(
            "2/3", "the box of pre-training has 2/3 of the patch's sides", number=2 / 3
        ),
        "slice_weight": ignored(),
        "slice_weight_step": ignored(),
        "split": fixed("train", "training reads the training list"),
    },
}
"""Further rules of the published training scripts, by `DatasetSpec.commands`."""
PUBLISHED_METHODS: Mapping[tuple[str, str], Rules] = {
    ("LA", "bcp"): {
        "mask_ratio": fixed("2/3", "BCP's box has 2/3 of the patch's sides", number=2 / 3)
    }
}
"""Rules that differ for a method, by `DatasetSpec.commands` and the method."""
EVERY_TEST: Rules = {
    "detail": switch,
    "gpu": first_gpu("a test runs on one"),
    "val_stride": alias("stride"),
}
PUBLISHED_TESTS: Mapping[str, Rules] = {"ACDC": _ACDC_CLASSES, "LA": {"nms": switch}}


def training_rules(
    commands: str, method: str, options: Collection[str], *, published: bool
) -> Rules:
    """Return the rules of a training script, those of the published scripts `commands` for this
    method if `published`.

    A flag that is an option of the chosen method, network or data set (`options`) is that option.
    """
    rules = dict(EVERY_TRAINING)
    if published:
        rules.update(PUBLISHED_TRAINING.get(commands, {}))
        rules.update(PUBLISHED_METHODS.get((commands, method), {}))
    return {flag: rule for flag, rule in rules.items() if flag not in options}


def test_rules(commands: str) -> Rules:
    """Return the rules of the test scripts of a data set; see `DatasetSpec.commands`."""
    return {**EVERY_TEST, **PUBLISHED_TESTS.get(commands, {})}
