"""Compare strategies of code/suggest.py by active learning on slices of patients, such as ACDC's.

    python benchmarks/active_learning.py --root_path ACDC --output RUNS

For each seed a network is trained with the first patients of the training list, and predicts all
training patients. Each strategy chooses patients to label next, and a new network is trained with
them. All networks are scored on val.list. Finished steps are kept, so the same command continues.
Writes results.json and table.md.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels

# isort: split
import h5py
import numpy as np

from commands.predict_files import UNCERTAINTY, Record
from commands.predict_uncertainty import FEATURES, FOREGROUND, MAPS
from commands.suggest_choice import Candidate, Strategy, choose
from evaluation.speed import Amp
from scans.nifti_writer import write_nifti
from utils.cli import parse, run
from utils.errors import UserError
from utils.files import replacing
from utils.json_file import read_json
from utils.messages import message
from utils.progress import progress

START: Literal["start"] = "start"
LIST = "train_slices.list"


@dataclass(frozen=True)
class Flags:
    """Flags of active_learning.py."""

    root_path: Path
    """Folder of ACDC, or of a phantom of it."""
    output: Path
    """Folder for runs, predictions and results."""
    strategies: tuple[Strategy, ...] = ("random", "uncertainty", "combined")
    """Strategies to compare."""
    seeds: tuple[int, ...] = (7, 1337, 5)
    """Seeds of training and of the random strategy."""
    start: int = 3
    """Labelled patients at the beginning: the first of the training list."""
    more: int = 3
    """Patients that are labelled in each round."""
    rounds: int = 1
    """Number of rounds."""
    method: str = "averaged_copy_paste"
    """Method of training."""
    patch_size: tuple[int, int] = (128, 128)
    """Size of the network's input."""
    pre_iterations: int = 600
    """Iterations of pre-training."""
    max_iterations: int = 1200
    """Iterations of self-training."""
    val_every: int = 200
    """Iterations between validations."""
    amp: Amp = "bf16"
    """Precision of training and prediction."""


@dataclass(frozen=True)
class Cell:
    """One network: its seed, its strategy, "start" before the first round, and its round."""

    seed: int
    strategy: Strategy | Literal["start"]
    round: int

    @property
    def name(self) -> str:
        """Name of its folders."""
        return f"seed{self.seed}_{self.strategy}_{self.round}"

    @property
    def before(self) -> "Cell":
        """The network whose predictions its new patients were chosen from."""
        if self.round == 1:
            return Cell(self.seed, START, 0)
        return Cell(self.seed, self.strategy, self.round - 1)


def patient_of(name: str) -> str:
    """The patient of a slice or frame."""
    return name.split("_")[0]


def cells(flags: Flags) -> list[Cell]:
    """All networks, each after those that it depends on; whole seeds first."""
    networks: list[Cell] = []
    for seed in flags.seeds:
        networks.append(Cell(seed, START, 0))
        for number in range(1, flags.rounds + 1):
            networks += [Cell(seed, strategy, number) for strategy in flags.strategies]
    return networks


def export_scans(flags: Flags, slices: Sequence[str]) -> Path:
    """Write the training slices as volumes of NIfTI, a file for each frame."""
    folder = flags.output / "scans"
    folder.mkdir(parents=True, exist_ok=True)
    frames: dict[str, list[int]] = {}
    for name in slices:
        frame, _, number = name.rpartition("_slice_")
        frames.setdefault(frame, []).append(int(number))
    for frame, numbers in progress(frames.items(), desc="exporting", unit="frame"):
        path = folder / f"{frame}.nii.gz"
        if path.exists():
            continue
        images = []
        for number in sorted(numbers):
            slice_path = flags.root_path / "data" / "slices" / f"{frame}_slice_{number}.h5"
            with h5py.File(slice_path) as file:
                images.append(np.asarray(file["image"]))
        write_nifti(path, np.stack(images), spacing_mm=(10, 1.5, 1.5))
    return folder


def data_folder(flags: Flags, cell: Cell, slices: Sequence[str], labelled: Sequence[str]) -> Path:
    """A folder with the same data and a training list that begins with the labelled patients."""
    root = flags.output / "data" / cell.name
    root.mkdir(parents=True, exist_ok=True)
    data = root / "data"
    if not data.exists():
        data.symlink_to((flags.root_path / "data").resolve())
    for name in ("val.list", "test.list"):
        (root / name).write_bytes((flags.root_path / name).read_bytes())
    first = [name for name in slices if patient_of(name) in labelled]
    rest = [name for name in slices if patient_of(name) not in labelled]
    (root / LIST).write_text("\n".join([*first, *rest]) + "\n", encoding="utf-8")
    return root


def train_and_score(flags: Flags, cell: Cell, root: Path, labelled: Sequence[str]) -> Record:
    """Train a network and score it on val.list; return its result."""
    trained = fewlabels.train(
        dataset="ACDC",
        root_path=root,
        method=flags.method,
        labelnum=len(labelled),
        exp=cell.name,
        output_root=flags.output / "runs",
        patch_size=flags.patch_size,
        batch_size=12,
        labeled_bs=6,
        pre_iterations=flags.pre_iterations,
        max_iterations=flags.max_iterations,
        val_every=flags.val_every,
        select="val",
        seed=cell.seed,
        device="cpu",
        amp=flags.amp,
    )
    scores = fewlabels.test(
        trained.folder, root_path=root, split="val", patch_size=flags.patch_size, device="cpu"
    )
    classes = {name: means["dice"] for name, means in scores.class_means.items()}
    return {
        "seed": cell.seed,
        "strategy": cell.strategy,
        "round": cell.round,
        "labelled": list(labelled),
        "run": trained.folder.name,
        "dice": scores.mean["dice"],
        "hd95_voxel": scores.mean["hd95_voxel"],
        "classes": classes,
    }


def candidates(folder: Path) -> list[Candidate]:
    """The patients of a folder of predictions: means over both frames, and summed volumes."""
    frames: dict[str, list[Record]] = {}
    for name, record in read_json(folder / "predict.json")["cases"].items():
        frames.setdefault(patient_of(name), []).append(record)
    patients: list[Candidate] = []
    for patient, records in frames.items():
        uncertainties: list[float] = []
        volumes: list[list[int]] = []
        features = []
        for record in records:
            uncertainty = record[UNCERTAINTY][MAPS]["entropy"][FOREGROUND]
            if uncertainty is None:
                uncertainty = float("inf")
            uncertainties.append(uncertainty)
            volumes.append([about["voxels"] for about in record["classes"].values()])
            features.append(np.load(folder / record[UNCERTAINTY][FEATURES]))
        candidate = Candidate(
            patient,
            statistics.fmean(uncertainties),
            volumes=tuple(sum(of_class) for of_class in zip(*volumes, strict=True)),
            feature=np.mean(features, axis=0),
        )
        patients.append(candidate)
    return patients


def next_patients(
    flags: Flags, cell: Cell, strategy: Strategy, scans: Path, before: Record
) -> list[str]:
    """The labelled patients of a cell: those of the network before it, and the chosen ones."""
    predictions = flags.output / "predictions" / cell.before.name
    fewlabels.predict(
        flags.output / "runs" / "BCP" / before["run"],
        scans,
        predictions,
        "cpu",
        amp=flags.amp,
        uncertainty=("entropy",),
    )
    labelled = before["labelled"]
    patients = candidates(predictions)
    chosen = choose(
        [patient for patient in patients if patient.name not in labelled],
        [patient for patient in patients if patient.name in labelled],
        count=flags.more,
        strategy=strategy,
        seed=cell.seed,
    )
    names = [patient.name for patient in chosen]
    message(f"{cell.name}: {', '.join(names)} are labelled next")
    return [*labelled, *names]


def table(flags: Flags, results: Mapping[str, Any]) -> str:
    """The mean Dice of each seed and strategy as a table of Markdown."""
    columns = [f"seed {seed}" for seed in flags.seeds]
    lines = [f"| strategy | labelled patients | {' | '.join(columns)} | mean |"]
    lines.append("|" + "---|" * (len(columns) + 3))
    for row in cells(flags)[: 1 + flags.rounds * len(flags.strategies)]:  # those of one seed
        texts: list[str] = []
        values: list[float] = []
        for seed in flags.seeds:
            result = results.get(replace(row, seed=seed).name)
            if result is None:
                texts.append("")
                continue
            values.append(result["dice"])
            texts.append(f"{result['dice']:.3f}")
        mean = ""
        if len(values) == len(flags.seeds):
            mean = f"{statistics.fmean(values):.3f}"
        count = flags.start + row.round * flags.more
        lines.append(f"| {row.strategy} | {count} | {' | '.join(texts)} | {mean} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Run all cells that are not finished."""
    flags = parse(Flags, argv, description=__doc__)
    list_path = flags.root_path / LIST
    if not list_path.is_file():
        raise UserError(f"--root_path {flags.root_path}: has no {LIST}; name a folder of ACDC")
    slices = list_path.read_text(encoding="utf-8").split()
    patients = list(dict.fromkeys(patient_of(name) for name in slices))
    scans = export_scans(flags, slices)
    path = flags.output / "results.json"
    results: dict[str, Any] = {}
    if path.exists():
        results = read_json(path)
    with progress(cells(flags), desc="networks", unit="network") as bar:
        for cell in bar:
            if cell.name in results:
                continue
            labelled = patients[: flags.start]
            if cell.strategy != START:
                before = results[cell.before.name]
                labelled = next_patients(
                    flags, cell, strategy=cell.strategy, scans=scans, before=before
                )
            root = data_folder(flags, cell, slices=slices, labelled=labelled)
            results[cell.name] = train_and_score(flags, cell, root=root, labelled=labelled)
            with replacing(path) as unfinished:
                unfinished.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            text = table(flags, results)
            (flags.output / "table.md").write_text(text, encoding="utf-8")
    message(table(flags, results))


if __name__ == "__main__":
    run(main)
