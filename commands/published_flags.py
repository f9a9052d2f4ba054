"""Command lines as the published scripts take them, put in our terms: what each of their flags is here, or why it changes nothing."""

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from utils.errors import UserError
from utils.messages import message

Rule = Callable[
    [str, str | None], tuple[list[str], str]
]  # (flag as typed, its value) to (our words, a line to say or nothing)
Rules = Mapping[str, Rule]


def translated(
    rules: Rules, argv: Sequence[str] | None = None, say: Callable[[str], None] = message
) -> list[str]:
    """The words of a command line with published flags replaced by ours; says a line for each that changes nothing.

    Flags without a rule stay as they are, for `utils.cli.parse` to take or refuse. Raises UserError for a value that a flag cannot have.
    """
    words, ours = deque(sys.argv[1:] if argv is None else argv), []
    while words:
        word = words.popleft()
        flag, equals, value = word.partition("=")
        rule = rules.get(flag[2:].replace("-", "_")) if flag.startswith("--") else None
        if rule is None:
            ours.append(word)
            continue
        if not equals:
            value = words.popleft() if words and not words[0].startswith("--") else None
        new, line = rule(flag, value)
        ours += new
        if (
            line and os.environ.get("RANK", "0") == "0"
        ):  # one of a launcher's processes speaks; they have not met yet
            say(line)
    return ours


def alias(ours: str, note: str = "") -> Rule:
    """Another name of our flag `ours`; `note`: what it does otherwise than as published."""

    def rule(flag: str, value: str | None) -> tuple[list[str], str]:
        if value is None:
            raise UserError(f"{flag}: takes a value, as --{ours} does")
        return [f"--{ours}", value], f"{flag} {value}: {note}" if note else ""

    return rule


def switch(flag: str, value: str | None) -> tuple[list[str], str]:
    """A switch of ours that takes 0 or 1 too."""
    if value not in (None, "0", "1"):
        raise UserError(f"{flag} {value}: give 0 or 1, or {flag} alone, which is 1")
    return [flag if value != "0" else f"--no_{flag[2:]}"], ""


def ignored(why: str = "it enters no loss", number: bool = True) -> Rule:
    """A flag that changes nothing, whatever its value, a number unless `number` is False."""

    def rule(flag: str, value: str | None) -> tuple[list[str], str]:
        if value is None or (
            number and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.IGNORECASE)
        ):
            raise UserError(
                f"{flag}{_shown(value)}: takes a {'number' if number else 'word'}, and changes nothing: {why}; leave it out"
            )
        return [], f"{flag} {value}: accepted, changes nothing: {why}"

    return rule


def fixed(only: int, why: str) -> Rule:
    """A flag that has one right value here."""

    def rule(flag: str, value: str | None) -> tuple[list[str], str]:
        if value != str(only):
            raise UserError(f"{flag}{_shown(value)}: must be {only}, {why}; leave it out")
        return [], f"{flag} {value}: accepted, changes nothing: it is always {only}, {why}"

    return rule


def first_gpu(advice: str) -> Rule:
    """The first of a list of CUDA devices; `advice`: how to use all `{count}` of `{gpus}` with `{script}`."""

    def rule(flag: str, value: str | None) -> tuple[list[str], str]:
        gpus = (value or "").split(",")
        if not all(gpu.isdecimal() for gpu in gpus):
            raise UserError(
                f"{flag}{_shown(value)}: give the number of a CUDA device, as in --gpu 0"
            )
        if len(gpus) == 1:
            line = ""
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            line = f"{flag} {value}: each of the launched processes has a device of its own"
        else:
            line = f"{flag} {value}: the first alone is used; {advice.format(count=len(gpus), gpus=value, script=sys.argv[0])}"
        return ["--gpu", gpus[0]], line

    return rule


def _shown(value: str | None) -> str:
    return "" if value is None else f" {value}"


_TRAINING = {
    "deterministic": switch,
    "gpu": first_gpu(
        "for all {count}: CUDA_VISIBLE_DEVICES={gpus} torchrun --nproc_per_node {count} {script}"
    ),
    "local_rank": ignored("the launcher's environment says which process this is"),
}
_RAMP = dict.fromkeys(("consistency", "consistency_rampup", "magnitude"), ignored())
_ACDC_CLASSES = {"num_classes": fixed(4, "the classes of ACDC with the background")}
_LA_TRAINING = {
    **_TRAINING,
    **_RAMP,
    "pre_max_iteration": alias("pre_iterations"),
    "self_max_iteration": alias("max_iterations"),
    "max_samples": ignored("the training list says how many cases there are"),
    "mask_ratio": ignored("--mask and --box_end set the box"),
    **dict.fromkeys(("u_alpha", "loss_weight"), ignored()),
}
_HALF = (
    "all of them are made; the published loop stops after about half (--loop_lengths published_run)"
)

TRAINING: dict[str, Rules] = {  # by the name of the page
    "ACDC": {**_TRAINING, **_RAMP, **_ACDC_CLASSES, "s_param": ignored()},
    "LA": _LA_TRAINING,
    "CoGRNet": {
        **_LA_TRAINING,
        "pre_max_iteration": alias("pre_iterations", _HALF),
        "self_max_iteration": alias("max_iterations", _HALF),
        "mask_ratio": ignored("--focus sets the box"),
        **dict.fromkeys(("slice_weight", "slice_weight_step"), ignored()),
        "split": ignored("training reads the training list", number=False),
    },
}
_TEST = {"detail": switch, "gpu": first_gpu("a test runs on one")}
TEST: dict[str, Rules] = {"ACDC": {**_TEST, **_ACDC_CLASSES}, "LA": {**_TEST, "nms": switch}}


def training_rules(dataset: str, options: Collection[str] = ()) -> Rules:
    """The rules of the published training scripts of a page; a flag that is an option of the chosen method, network or page (`options`)
    is that option."""
    rules = TRAINING.get(dataset, _TRAINING)
    return {flag: rule for flag, rule in rules.items() if flag not in options}


def test_rules(dataset: str) -> Rules:
    return TEST.get(dataset, _TEST)
