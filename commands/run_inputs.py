"""What a training run reads: its lists, training data, pseudo labels and validation cases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from commands.batches import build_sampler, move_to_device, on_device
from commands.run_data import RunData, run_data
from dataloaders.augment import INTENSITIES, SPATIAL, Augmentation
from dataloaders.cases import read_cases
from dataloaders.contents import foreground_classes
from dataloaders.dataset_info import DatasetInfo, NamedFile
from dataloaders.samples import Samples
from dataloaders.splits import check_lists
from datasets.base import DatasetSpec, data_root
from datasets.pseudo_labels import PseudoLabels, find_pseudo_labels
from training.class_watch import WatchedClasses
from training.config import AnyConfig, DataOptions
from utils.case import Case
from utils.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class RunInputs:
    """What a training run has read.

    `root`: the folder of the data. `selection`: how the best checkpoint is selected, in words.
    `validation_cases`: none where the last checkpoint is selected. `pseudo_labels`: those of
    --pseudo_labels. `run_data`: what checkpoints record of the data.
    """

    root: Path
    data: Samples
    selection: str
    validation_cases: Sequence[Case]
    pseudo_labels: PseudoLabels | None
    run_data: RunData

    def watched_classes(self, class_names: Sequence[str]) -> WatchedClasses:
        """Return the foreground classes that the labelled and the validation cases have."""
        validated: set[int] = set()
        for case in self.validation_cases:
            validated |= foreground_classes(case.label)
        return WatchedClasses(
            {number: class_names[number] for number in sorted(self.data.labelled_classes)},
            [class_names[number] for number in sorted(validated)],
        )


@dataclass(frozen=True)
class _Lists:
    """Case names by split, and the splits that the run reads."""

    names: Mapping[str, Sequence[str]]
    read: Sequence[str]


def read_inputs(
    dataset: DatasetSpec,
    config: AnyConfig,
    *,
    uses_unlabelled: bool,
    device: torch.device,
    say: Callable[[str], None],
) -> RunInputs:
    """Read lists, training data and validation volumes; raise UserError if they do not fit.

    `uses_unlabelled`: whether the run's stages use unlabelled cases. `say` gets the warnings.
    """
    info = dataset.info
    root = data_root(info.name, config.experiment.root_path)
    split, selection = dataset.selection(config.optimization.select)
    names, labelled = dataset.cases(root, info, config.experiment.labelnum)
    reads_unlabelled = uses_unlabelled or config.data.pseudo_labels is not None
    lists = _read_lists(
        dataset,
        root,
        names=names,
        labelled=labelled,
        validation=split,
        reads_unlabelled=reads_unlabelled,
    )
    pseudo_labels = _find_pseudo_labels(
        dataset,
        config,
        root=root,
        names=names[labelled:],
        uses_unlabelled=uses_unlabelled,
        say=say,
    )
    if not reads_unlabelled:
        names = names[:labelled]
    data = _read_training_data(
        dataset,
        config,
        root=root,
        names=names,
        labelled=labelled,
        pseudo_labels=pseudo_labels,
        say=say,
    )
    _check_counts(dataset, config, data=data, uses_unlabelled=uses_unlabelled)
    record = run_data(
        root,
        dataset,
        labelled=_labelled_files(data, pseudo_labels),
        lists=lists.names,
        read=lists.read,
        other=config.data.other_data,
        say=say,
    )
    if on_device(config.data):
        move_to_device(data, config.data, device=device)
    validation_cases = _read_validation(info, root, split=split, say=say)
    if split:
        selection += f" ({len(validation_cases)} volumes, empty prediction = 0)"
    return RunInputs(
        root=root,
        data=data,
        selection=selection,
        validation_cases=validation_cases,
        pseudo_labels=pseudo_labels,
        run_data=record,
    )


def _read_lists(
    dataset: DatasetSpec,
    root: Path,
    names: Sequence[str],
    labelled: int,
    validation: str,
    *,
    reads_unlabelled: bool,
) -> _Lists:
    """Return the lists of the run; raise UserError where lists or files do not fit.

    `names`: of the training cases, of which the first `labelled` are labelled. `validation`: the
    split that the best checkpoint is selected on, empty if nothing is validated.
    `reads_unlabelled`: whether cases without a label of their own are read.
    """
    info = dataset.info
    lists = {"labelled": names[:labelled], "unlabelled": names[labelled:]}
    if validation:
        lists[validation] = info.read_list(root, info.list_name(validation))
    splits = list(lists)
    if not reads_unlabelled:
        splits.remove("unlabelled")
    if validation != "test":
        lists["test"] = info.held_out(root, "test")
    check_lists(root, info, lists, unread=lists.keys() - splits)
    return _Lists(lists, read=splits)


def _find_pseudo_labels(
    dataset: DatasetSpec,
    config: AnyConfig,
    root: Path,
    names: Sequence[str],
    *,
    uses_unlabelled: bool,
    say: Callable[[str], None],
) -> PseudoLabels | None:
    """Return the labels of --pseudo_labels for the unlabelled cases; None without that flag.

    `names`: of the unlabelled cases. Raises UserError where the method cannot use them.
    """
    folder = config.data.pseudo_labels
    if folder is None:
        return None
    if uses_unlabelled:
        raise UserError(
            f"--pseudo_labels {folder}: leaves no unlabelled cases, and "
            f"--method {config.experiment.method} needs them; use --method supervised"
        )
    return find_pseudo_labels(folder, root, dataset=dataset, names=names, say=say)


def _read_training_data(
    dataset: DatasetSpec,
    config: AnyConfig,
    root: Path,
    names: Sequence[str],
    labelled: int,
    pseudo_labels: PseudoLabels | None,
    say: Callable[[str], None],
) -> Samples:
    """Read the training cases `names`, of which the first `labelled` are labelled."""
    read_data = dataset.data(config)
    if pseudo_labels is not None:
        read_data = partial(read_data, pseudo_label_of=pseudo_labels)
    return read_data(
        dataset.info,
        root,
        names=names,
        labelled=labelled,
        augment=_augmentations(dataset, config.data),
        say=say,
    )


def _labelled_files(data: Samples, pseudo_labels: PseudoLabels | None) -> list[NamedFile]:
    """Return the files of the labelled cases, and those of the pseudo labels."""
    files = data.labelled_files
    if pseudo_labels is not None:
        for path in pseudo_labels.files.values():
            files.append(NamedFile(path.name, path))
    return files


def _read_validation(
    info: DatasetInfo, root: Path, split: str, say: Callable[[str], None]
) -> list[Case]:
    """Read the cases of the split; none if it is empty, which means that nothing is validated."""
    if not split:
        return []
    return read_cases(info, root, split=split, say=say)


def _augmentations(dataset: DatasetSpec, options: DataOptions) -> tuple[Augmentation, Augmentation]:
    """Return the augmentations of labelled and of unlabelled cases."""
    intensity = tuple(INTENSITIES[name] for name in options.intensity)
    spatial = tuple(SPATIAL[name] for name in options.spatial)
    of_labelled, of_unlabelled = dataset.spatial(options.patch_size)
    return (
        Augmentation((*of_labelled, *spatial), intensity),
        Augmentation((*of_unlabelled, *spatial), intensity),
    )


def _check_counts(
    dataset: DatasetSpec, config: AnyConfig, data: Samples, *, uses_unlabelled: bool
) -> None:
    """Raise UserError if there are too few cases for a batch."""
    labelnum = config.experiment.labelnum
    counted = dataset.counted
    if uses_unlabelled and not data.unlabelled:
        remedy = "add unlabelled cases"
        if labelnum > 1:
            remedy = "choose fewer"
        raise UserError(
            f"--labelnum {labelnum}: leaves no unlabelled {counted} in the training list; "
            f"{remedy}, or --method supervised, which needs none"
        )
    unlabelled_count = 0
    unlabelled_words = ""
    if uses_unlabelled:
        unlabelled_count = data.unlabelled
        unlabelled_words = f" and {data.unlabelled} unlabelled ones"
    sampler = build_sampler(
        dataset.sampler(config),
        config.data,
        labelled=data.labelled,
        unlabelled=unlabelled_count,
        seed=(0,),
        steps=range(1),
    )
    if sampler.epoch < 1:
        raise UserError(
            f"--labeled_bs {config.data.labeled_bs}: the training list has "
            f"{data.labelled} labelled {counted} of --labelnum {labelnum}{unlabelled_words}, "
            f"too few; lower it, and --batch_size"
        )
