"""Suggest which predicted cases are worth annotating next, and write the files for it."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from commands.png_files import read_png
from commands.predict_files import IMAGES, Record, read_records
from commands.predict_model import read_picture
from commands.predict_uncertainty import FEATURES, FOREGROUND, MAPS, UNCERTAINTY, Kind
from commands.suggest_choice import Candidate, Strategy, best_slice, choose
from evaluation.results import write_json
from scans.geometry import to_canonical
from scans.nifti_writer import write_nifti
from scans.reading import read_scan
from utils.errors import UserError, writing
from utils.files import replacing
from utils.lock import only_writer
from utils.messages import message
from utils.names import printable

PLANES = (2, 1)  # CoGRNet's planes as axes to the right, front and head: axial and coronal


@dataclass(frozen=True, kw_only=True)
class SuggestSettings:
    """Settings of suggest.py."""

    predictions: Positional[Annotated[tuple[Path, ...], arg(metavar="PREDICTIONS ...")]] = ()
    """Folders that predict.py wrote with --uncertainty."""
    output: Path = Path("suggestions")
    """Folder for suggest.json, suggest.csv and a folder with the files of each case."""
    count: int = 3
    """Number of cases to suggest."""
    strategy: Strategy = "random"
    """random: drawn with --seed; on real ACDC scans better than uncertainty and combined, while
    diverse was not tried (docs/results/active.md).
    uncertainty: the most uncertain cases. diverse: cases that differ from each other and from
    the labelled ones, by the network's deepest feature and the predicted volumes of the classes.
    combined: diverse ones among the most uncertain."""
    labelled: tuple[str, ...] = ()
    """Names of cases in PREDICTIONS that are already annotated; they are not suggested. Or a text
    file with a name per line."""
    kind: Kind | None = None
    """The uncertainty map that counts. Default: entropy, or else the first one of predict.json."""
    two_slices: bool = False
    """For CoGRNet: suggest an axial and a coronal slice of each case too."""
    seed: int = 1337
    """Seed of --strategy random."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        if not self.predictions:
            raise UserError(
                "name a folder of predictions, as in: suggest.py PREDICTIONS --output suggestions"
            )
        if self.count < 1:
            raise UserError(f"--count {self.count}: suggest at least 1 case")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: use a number from 0 to 2^63 - 1")
        if (self.output / "suggest.json").exists():
            raise UserError(
                f"--output {self.output}: has suggestions of an earlier call; name another folder, "
                f"or remove it"
            )


@dataclass(frozen=True)
class Suggestion:
    """A case to annotate.

    `uncertainty`: the mean over the predicted foreground with its border, None without foreground
    or map. `slices`: the axis of the file and the number (from 0) of both slices, in CoGRNet's
    order, if they were asked for. `files`: below the output folder.
    """

    name: str
    uncertainty: float | None
    voxels: Mapping[str, int]
    slices: tuple[tuple[int, int], ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class SuggestResult:
    """The suggested cases, the first one to annotate first, and the folder of their files."""

    output: Path
    cases: tuple[Suggestion, ...]


@dataclass(frozen=True, eq=False)
class _Case:
    """A predicted case: its folder, its record in predict.json, and the map that counts."""

    name: str
    folder: Path
    record: Record
    kind: str | None

    @property
    def uncertainty(self) -> float | None:
        if self.kind is None:
            return None
        return self.record[UNCERTAINTY][MAPS][self.kind][FOREGROUND]

    @property
    def voxels(self) -> dict[str, int]:
        return {name: about["voxels"] for name, about in self.record["classes"].items()}


def run(settings: SuggestSettings) -> SuggestResult:
    """Suggest cases and write their files.

    Raises UserError for predictions that lack what the strategy needs.
    """
    settings.check()
    cases = _read_cases(settings)
    labelled = _labelled(settings, cases)
    candidates = [_candidate(case, settings) for case in cases.values()]
    chosen = choose(
        [case for case in candidates if case.name not in labelled],
        [case for case in candidates if case.name in labelled],
        count=settings.count,
        strategy=settings.strategy,
        seed=settings.seed,
    )
    if len(chosen) < settings.count:
        message(f"warning: only {len(chosen)} cases are not labelled; all are suggested")
    remedy = "name another folder with --output"
    suggestions: list[Suggestion] = []
    with writing(settings.output, f"free space or {remedy}"), only_writer(settings.output, remedy):
        for candidate in chosen:
            suggestion = _write_case(settings, cases[candidate.name])
            suggestions.append(suggestion)
            message(printable(f"{len(suggestions)}. {_in_words(suggestion)}"))
        _write_lists(settings, suggestions)
    message(f"the folder is {settings.output}")
    return SuggestResult(settings.output, tuple(suggestions))


def _read_cases(settings: SuggestSettings) -> dict[str, _Case]:
    """The predicted cases of all folders by name."""
    cases: dict[str, _Case] = {}
    checkpoints: list[str] | None = None
    for folder in settings.predictions:
        files = sorted(folder.glob("predict*.json"))
        if not files:
            raise UserError(
                f"{folder}: no predict.json in it; name a folder that code/predict.py wrote"
            )
        for path in files:
            content = read_records(path)
            made_with = content["made_with"].get("checkpoints", [])
            if checkpoints not in (None, made_with):
                raise UserError(
                    f"{path}: was predicted with other checkpoints than the folder before it; name "
                    f"folders of the same checkpoints"
                )
            checkpoints = made_with
            for name, record in content["cases"].items():
                case = _Case(name, folder, record, _kind(settings, record, path, name))
                other = cases.setdefault(name, case)
                if other.folder != folder:
                    raise UserError(
                        f"{name}: is in {other.folder} and in {folder}; name one of the two"
                    )
    return cases


def _kind(settings: SuggestSettings, record: Record, path: Path, name: str) -> str | None:
    """The map of a case that counts; None if there is none and none is needed."""
    maps = record.get(UNCERTAINTY, {}).get(MAPS, {})
    kind = settings.kind
    if kind is None:
        kind = next(iter(maps), None)
        if "entropy" in maps:
            kind = "entropy"
    if kind in maps:
        return kind
    if kind is None and settings.strategy == "random" and not settings.two_slices:
        return None
    raise UserError(
        f"{path}: {name} has no uncertainty map; predict it with --uncertainty {kind or 'entropy'}"
    )


def _lines(path: Path) -> list[str]:
    """The lines of a text file; raises UserError if it is not text."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before it
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--labelled {path}: not a readable text file ({error}); save it as UTF-8, with one "
            "case name per line"
        ) from None
    return [line.strip() for line in text.splitlines()]


def _labelled(settings: SuggestSettings, cases: Mapping[str, _Case]) -> set[str]:
    """The names of the labelled cases, all of which are predicted."""
    names: list[str] = []
    for word in settings.labelled:
        path = Path(word)
        if word not in cases and path.is_file():
            names += _lines(path)
        else:
            names.append(word)
    labelled = {name for name in names if name}
    unknown = sorted(labelled - cases.keys())
    if unknown:
        raise UserError(
            f"--labelled {unknown[0]}: no such case in {settings.predictions[0]}; cases are "
            f"named as in predict.json, such as {next(iter(cases), 'CASE')}"
        )
    if len(labelled) == len(cases):
        raise UserError(
            f"{settings.predictions[0]}: all cases are labelled; predict others with "
            f"code/predict.py"
        )
    return labelled


def _candidate(case: _Case, settings: SuggestSettings) -> Candidate:
    feature = None
    if settings.strategy in ("combined", "diverse"):
        name = case.record.get(UNCERTAINTY, {}).get(FEATURES)
        if name is None or not (case.folder / name).is_file():
            raise UserError(
                f"{case.folder}: {case.name} has no mean feature of its network; use --strategy "
                f"uncertainty, or predict with --uncertainty and a network of this project"
            )
        feature = np.load(case.folder / name)
    uncertainty = case.uncertainty
    if uncertainty is None:
        uncertainty = float("inf")
    return Candidate(case.name, uncertainty, volumes=tuple(case.voxels.values()), feature=feature)


def _write_case(settings: SuggestSettings, case: _Case) -> Suggestion:
    """Write image, prediction, uncertainty map and slices of a case as NIfTI files."""
    folder = settings.output / case.name
    folder.mkdir(parents=True, exist_ok=True)
    names = ["labels.nii.gz"]
    labels, _ = _write_copy(case.folder / case.record["file"], folder / names[0])
    slices: tuple[tuple[int, int], ...] = ()
    if case.kind is not None:
        names.append(f"uncertainty_{case.kind}.nii.gz")
        path = case.folder / case.record[UNCERTAINTY][MAPS][case.kind]["file"]
        uncertainty, affine = _write_copy(path, folder / names[-1])
        if settings.two_slices:
            slices = _two_slices(labels, uncertainty, path)
            names.append("slices.nii.gz")
            write_nifti(folder / names[-1], _marks(labels.shape, slices).T, affine=affine)
    names += _write_images(case, folder)
    return Suggestion(
        case.name,
        case.uncertainty,
        voxels=case.voxels,
        slices=slices,
        files=tuple(f"{case.name}/{name}" for name in sorted(names)),
    )


def _write_copy(source: Path, target: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write a label map or an uncertainty map as NIfTI; return its array and affine (4, 4)."""
    if not source.exists():
        raise UserError(f"{source}: is missing; predict it again with code/predict.py")
    if source.suffix == ".png":
        array = read_png(source).T[..., None]
        affine = np.eye(4)
    else:
        scan = read_scan(source)
        array = scan.array
        affine = scan.geometry.affine
    write_nifti(target, array.T, affine=affine)
    return array, affine


def _write_images(case: _Case, folder: Path) -> list[str]:
    """Write the scan of a case, image.nii.gz, or a file for each of several channels."""
    channels: list[tuple[np.ndarray, np.ndarray]] = []
    for image in case.record.get(IMAGES, ()):
        path = Path(image)
        if not path.exists():
            raise UserError(
                f"{path}: is missing; move the scan back, or predict {case.name} again from its "
                "new location"
            )
        if path.suffix.lower() == ".png":
            channels += [(channel.T[..., None], np.eye(4)) for channel in read_picture(path)]
        else:
            scan = read_scan(path)
            channels.append((scan.array, scan.geometry.affine))
    names: list[str] = []
    for number, (array, affine) in enumerate(channels):
        name = "image.nii.gz"
        if len(channels) > 1:
            name = f"image_{number:04d}.nii.gz"
        if array.dtype.kind == "u" and array.dtype.itemsize > 2:
            array = array.astype(np.float32)  # more than NIfTI's int32 holds
        write_nifti(folder / name, array.T, affine=affine)
        names.append(name)
    return names


def _two_slices(
    labels: np.ndarray, uncertainty: np.ndarray, path: Path
) -> tuple[tuple[int, int], ...]:
    """The axis and number of the axial and of the coronal slice; `path`: a file with the grid."""
    if path.suffix == ".png" or min(labels.shape) < 2:
        raise UserError(f"{path}: not a volume; --two_slices is for volumes, remove it")
    axes, _ = to_canonical(read_scan(path).geometry)
    slices: list[tuple[int, int]] = []
    for plane in PLANES:
        axis = axes[plane]
        slices.append((axis, best_slice(labels, uncertainty, axis)))
    return tuple(slices)


def _marks(shape: Sequence[int], slices: Sequence[tuple[int, int]]) -> np.ndarray:
    """A label map that is 1 on the first slice and 2 on the second."""
    marks = np.zeros(tuple(shape), np.uint8)
    for value, (axis, number) in enumerate(slices, start=1):
        np.moveaxis(marks, axis, 0)[number] = value
    return marks


def _in_words(suggestion: Suggestion) -> str:
    words = suggestion.name
    if suggestion.uncertainty is not None:
        words += f", uncertainty {suggestion.uncertainty:.4g}"
    for axis, number in suggestion.slices:
        words += f", slice {number} along axis {axis}"
    return words


def _write_lists(settings: SuggestSettings, suggestions: Sequence[Suggestion]) -> None:
    """Write suggest.csv and suggest.json."""
    with (
        replacing(settings.output / "suggest.csv") as unfinished,
        open(unfinished, "w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        classes = list(suggestions[0].voxels)
        voxels = [f"{name} voxels" for name in classes]
        writer.writerow(["rank", "case", "uncertainty", *voxels, "slices"])
        for rank, suggestion in enumerate(suggestions, start=1):
            slices = " ".join(f"{axis}:{number}" for axis, number in suggestion.slices)
            counts = list(suggestion.voxels.values())
            writer.writerow([rank, suggestion.name, suggestion.uncertainty, *counts, slices])
    content: dict[str, Any] = {
        "predictions": [str(folder) for folder in settings.predictions],
        "strategy": settings.strategy,
        "seed": settings.seed,
        "labelled": list(settings.labelled),
        "cases": [asdict(suggestion) for suggestion in suggestions],
    }
    write_json(settings.output / "suggest.json", content)
