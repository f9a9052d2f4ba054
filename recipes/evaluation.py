"""Testing a saved or published checkpoint: predictions, metrics and a summary that says where everything came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataloaders.acdc import read_volumes
from dataloaders.facts import ACDC
from recipes.networks import build_network, check_patch, load_network
from recipes.paths import best_name, data_root, run_folder
from training.checkpoint import is_ours, load
from training.device import choose_device, place
from training.evaluate import SlicePredictor, predictions, score_case
from training.results import summarise, table, write_json, write_metrics_csv
from utils.cli import parse
from utils.errors import UserError, writing
from utils.nifti import write_nifti
from utils.progress import progress
from utils.provenance import provenance, sha256


@dataclass(frozen=True)
class EvaluationSettings:
    """What to test. Network, patch size and edge-guided module come from the checkpoint, or for a published one from its weights."""

    root_path: Path | None = None
    """Folder of the data set; default: data_split/ACDC in the repository."""
    output_root: Path | None = None
    """Folder below which runs are kept; default: code/model in the repository."""
    exp: str = "BCP"
    """Name of the experiment, part of the run's folder."""
    labelnum: int = 3
    """Labelled patients of the run to test."""
    model: str = "unet"
    """Network, by its factory's name."""
    stage_name: Literal["self_train", "pre_train", "supervised"] = "self_train"
    """Which stage's checkpoint."""
    which: Literal["best", "last"] = "best"
    """The best checkpoint on the validation list, or the last one."""
    checkpoint: Path | None = None
    """A checkpoint file, instead of the run's own."""
    split: Literal["test", "val"] = "test"
    """The case list to test on."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input; default: the checkpoint's, 256 256 for a published one."""
    output_dir: Path | None = None
    """Where predictions, metrics.csv and summary.json go; default: <run>/<model>_predictions."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    gpu: str | None = None
    """Number of the CUDA device to use."""


def checkpoint_path(s: EvaluationSettings) -> Path:
    """The checkpoint that the flags name; raises UserError where it is missing."""
    folder = run_folder(ACDC.name, s.exp, s.labelnum, s.output_root) / s.stage_name
    path = s.checkpoint or folder / (best_name(s.model) if s.which == "best" else "last.pth")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, put a published one there, or name one with --checkpoint")
    return path


def describe_selection(content: Mapping, path: Path) -> str:
    """In words: how the checkpoint was chosen among those of its run."""
    if not is_ours(content):
        return "a published state dict; the file does not say how it was selected (its authors: the best validation Dice)"
    progress = content["progress"]
    where = f"iteration {progress['step']} of {content['stage']}"
    if path.name in ("last.pth", "previous.pth"):
        return f"not selected: {where}, where the run stood last"
    return f"{content['selection']}: {progress['best_score']:.4f} at {where}"


def evaluate_acdc(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Test a checkpoint on ACDC volumes; see `EvaluationSettings`."""
    s = parse(EvaluationSettings, argv, description=description)
    path = checkpoint_path(s)
    content = load(path)
    settings, egm, model = _about(content, path)
    patch_size = s.patch_size or tuple(settings.get("patch_size", (256, 256)))
    check_patch(patch_size, egm)
    device = choose_device(s.device, s.gpu)
    net = build_network(ACDC, model or s.model, egm, settings.get("upsampling", "published"))
    load_network(net, content, path)
    net = place(net, device, ACDC.dims)
    selection = describe_selection(content, path)
    print(f"checkpoint {path}\nselected: {selection}")

    output = s.output_dir or (path.parent.parent if s.checkpoint is None else path.parent) / f"{s.model}_predictions"
    cases, scores = read_volumes(data_root(ACDC.name, s.root_path), s.split), []
    with (
        writing(output, "free space or name another place with --output_dir"),
        progress(predictions(net, cases, SlicePredictor(patch_size, device)), total=len(cases), desc="testing", unit="case") as bar,
    ):
        output.mkdir(parents=True, exist_ok=True)
        for case, prediction in bar:
            spacing = None if case.affine is not None else case.spacing_mm
            write_nifti(output / f"{case.name}_pred.nii.gz", prediction, spacing, case.affine)
            scores += score_case(case, prediction, ACDC.class_names)
    summary = {
        "dataset": ACDC.name,
        "split": f"{s.split}.list",
        "cases": len(cases),
        "patch_size": list(patch_size),
        **summarise(scores),
        "checkpoint": {"path": str(path), "sha256": sha256(path), "selection": selection, "settings": settings or None},
        **provenance(),
    }
    with writing(output, "free space or name another place with --output_dir"):
        write_metrics_csv(output / "metrics.csv", scores)
        write_json(output / "summary.json", summary)
    print(table(summary))
    print(f"predictions, metrics.csv and summary.json are in {output}")


def _about(content: Mapping, path: Path) -> tuple[dict, str, str | None]:
    """Settings, EGM and network of a checkpoint; a published state dict tells by its keys whether it has edge-guided modules."""
    if is_ours(content):
        if content["facts"]["name"] != ACDC.name:
            raise UserError(f"{path}: a checkpoint of {content['facts']['name']}, expected one of {ACDC.name}")
        return content["settings"], content["settings"]["egm"], content["settings"]["model"]
    weights = content["net"] if isinstance(content.get("net"), Mapping) else content
    return {}, "published" if any(".ega." in str(key) for key in weights) else "none", None
