"""The description of a data set: everything that preparation, training, test and prediction need of
it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataloaders.augment import SpatialDraw
from dataloaders.dataset_info import DatasetInfo
from dataloaders.samples import ReadSamples
from dataloaders.two_stream import StreamSampler, TwoStreamSampler
from datasets.prepare.published import PublishedPreparation
from datasets.published_tags import PublishedTags
from evaluation.settings import EvaluationSettings
from evaluation.validation import Predictor
from methods.copy_paste import Pasting
from training.config import AnyConfig, DataOptions
from utils.ema import EmaScope
from utils.label_maps import Connectivity
from utils.losses import Term

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "code" / "model"


def unchanged(config: AnyConfig) -> AnyConfig:
    """Return the configuration unchanged."""
    return config


def labelled_folder(family: str, dataset: str) -> Callable[[Path | None, str, int], Path]:
    """Name the folder of a run as the published README does: code/model/<family>/<data
    set>_<exp>_<labelnum>_labeled.
    """
    return lambda output_root, exp, labelnum: (
        (output_root or MODEL) / family / f"{dataset}_{exp}_{labelnum}_labeled"
    )


def data_root(dataset: str, root_path: Path | None) -> Path:
    """Folder of the data: `--root_path`, by default data_split/<data set> in the repository."""
    return root_path or REPOSITORY / "data_split" / dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSpec:
    """A data set for training and test.

    `datasets.templates` has the values that 2-D and 3-D data sets share.

    `defaults`: the published protocol, by the names of the flags, of all methods, networks and
    options. `label_defaults`: more of them for a number of labelled cases (--labelnum), for the
    published method. `methods`: values of a method that apply only to this data set.
    """

    info: DatasetInfo
    # how raw scans become the files that are read; its fields are the options of prepare_data.py
    # that the data set has
    preparation: type[PublishedPreparation] | None = None
    # the script that uses prepared data first, and its flags, which messages name: the training
    # script with the fewest labels
    script: tuple[str, ...] = ()
    # reading: what --labelnum counts; the cases and how many of them are labelled; the training
    # data set of a run
    counted: str = "volumes"
    cases: Callable[[Path, DatasetInfo, int], tuple[list[str], int]]
    data: Callable[[AnyConfig], ReadSamples]
    sampler: Callable[[AnyConfig], type[StreamSampler]] = lambda config: TwoStreamSampler
    # spatial augmentation of labelled and of unlabelled images, to the patch size
    spatial: Callable[[tuple[int, ...]], tuple[tuple[SpatialDraw, ...], tuple[SpatialDraw, ...]]]
    # learning: the loss term `dice`, which image is pasted into which, what the EMA teacher
    # averages
    dice: Callable[[Any], Term]
    pasting: Pasting
    ema_scope: EmaScope = "parameters"
    keeps_optimizer: bool = False  # self-training continues with the optimiser of pre-training
    # settings: the options of its `data` group, defaults, what follows from other options
    options: type[DataOptions] = DataOptions
    defaults: Mapping[str, Any] = field(default_factory=dict)
    label_defaults: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settled: Callable[[AnyConfig], AnyConfig] = unchanged
    # methods whose published code on this data set stores the best validation Dice rounded to 4
    # digits
    rounded_best: tuple[str, ...] = ()
    # prediction: (patch size, stride, device, connectivity, progress) -> predictor; the published
    # test's stride, and the connectivity of the components of which it keeps the largest
    predictor: Callable[..., Predictor]
    stride: Sequence[int] = ()
    connectivity: Connectivity | None = None
    test_settings: type[EvaluationSettings] = EvaluationSettings
    test_defaults: Mapping[str, Any] = field(default_factory=dict)
    # files: a run's folder from --output_root, --exp and --labelnum; the name of a stage's best
    # checkpoint from the stage, --model and --labelnum; where a published pre-training may be; the
    # layout of published checkpoints; the methods whose published weights have names that start
    # with `module.` (trained with DataParallel)
    folder: Callable[[Path | None, str, int], Path]
    best_name: Callable[[str, str, int], str] = lambda stage, model, labelnum: (
        f"{model}_best_model.pth"
    )
    published_pretraining: str | None = None
    published_layout: str = "plain"
    module_prefix: Literal["always", "edge_guided", "never"] = "never"
    # own data: how scans were prepared; stored in checkpoints
    plan: Mapping[str, Any] | None = None
    published_tags: PublishedTags  # names of scalars in the published code (--tags published)
    commands: str = ""  # published command lines that are accepted (commands/published_flags.py)

    def script_defaults(self, labelnum: int) -> dict[str, Any]:
        """Return the defaults of the training script for that many labelled cases."""
        return {"labelnum": labelnum, **self.label_defaults.get(labelnum, {})}

    def best(self, folder: Path, stage: str, model: str, labelnum: int) -> Path:
        """Path of the best checkpoint of a stage of the run in `folder`: ours, else a published one
        if it exists.
        """
        ours = folder / stage / self.best_name(stage, model, labelnum)
        if stage == "pre_train" and self.published_pretraining and not ours.exists():
            published = folder / self.published_pretraining.format(labelnum=labelnum)
            if published.is_file():
                return published
        return ours

    def selection(self, select: str) -> tuple[str, str]:
        """The split whose score selects the best checkpoint, and the rule in words.

        The split is empty if there is no validation and the last network is taken.
        """
        if select == "published":
            select = self.defaults.get("select", "val")
        if select == "last":
            return "", "the last network of the stage, without validation (--select last)"
        rule = f"best mean Dice on {self.info.list_name(select)}"
        if select == "test":
            rule += ", as published: its test results are too good"
        return select, rule
