"""Predict raw scans: each prepared as its network's training data were, and its prediction laid back onto its own grid."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from commands.agreement import check_channels
from commands.predict_back import WayBack, identical, way_back
from commands.predict_files import (
    FILE_HASH,
    PROBABILITIES_HASH,
    Records,
    is_probability_file,
    made_of,
    output_name,
    probabilities_path,
    probability_file,
    write_labels,
)
from commands.predict_input import PICTURES, find_inputs, part_of
from commands.predict_memory import say_memory
from commands.predict_model import Model, read_model
from commands.predict_settings import ModelSettings, PredictSettings
from commands.runs import find_checkpoint
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import CroppedPreparation
from training.device import choose_device
from utils.cli import parse
from utils.components import largest_component_per_class
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.lock import only_writer, only_writer_of_part
from utils.messages import error_message, message
from utils.most_probable import most_probable
from utils.names import printable
from utils.progress import progress
from utils.provenance import provenance, sha256
from utils.workers import terminated

AnySettings = TypeVar("AnySettings", bound=ModelSettings)


def predict(argv: Sequence[str] | None = None, description: str | None = None) -> int:
    """Predict the scans that the flags name; see `PredictSettings`. Returns 2 where one could not be predicted, else 0."""
    result = run(parse(PredictSettings, argv, description=description))
    return 2 if result.failed else 0


@dataclass(frozen=True)
class PredictResult:
    """What became of the scans, by the names of their cases.

    `output`: the folder of the predictions. `predicted`: files written now. `kept`: files of an earlier call.
    `failed`: what is wrong with each scan that could not be predicted.
    """

    output: Path
    predicted: Mapping[str, Path]
    kept: Mapping[str, Path]
    failed: Mapping[str, str]


def run(s: PredictSettings) -> PredictResult:
    """Predict scans. Raises UserError for what the user can correct; a scan that cannot be predicted is only reported."""
    s.check()
    s = with_checkpoints(s)
    device = choose_device(s.device, s.gpu)
    model = read_model(s, device)
    if model.plan is not None and (warning := check_channels(s.input, model.plan.channel_names)):
        message(printable(warning))
    cases = part_of(
        find_inputs(
            s.input, model.info.channels, model.info.dims == 2, s.output, model.plan is None
        ),
        s.part,
    )
    if s.box and len(cases) > 1:
        raise UserError(
            f"--box: there are {len(cases)} scans below {s.input}; give each its own, one --input file after another"
        )
    for member in model.members:
        message(f"checkpoint {member.about['path']}\nmethod: {member.about['method']}")
        message(f"selection: {member.about['selection']}")
    if cases and not _picture(cases[0]):
        warn_about_crop(model)
    say_memory(model, cases)
    with terminated(), _only_writer(s):
        return run_cases(s, model, cases)


def warn_about_crop(model: Model) -> None:
    """Warn where the network has only seen crops around the label, and no box says where the object lies."""
    if isinstance(model.preparation, CroppedPreparation) and model.box is None:
        message(
            f"warning: {model.info.name}'s training scans were cropped by the label, and networks have seen nothing else; "
            f"--box names the part of a scan to look at"
        )


def _only_writer(s: PredictSettings) -> AbstractContextManager[None]:
    """The lock of the output folder, or that of a part of it: several parts may be predicted at the same time."""
    remedy = "name another place with --output"
    if s.part is None:
        return only_writer(s.output, remedy)
    part, parts = map(int, s.part.split("/"))
    return only_writer_of_part(s.output, part, parts, remedy=remedy)


def with_checkpoints(s: AnySettings) -> AnySettings:
    """The settings with a file for each folder of a run or stage among the checkpoints; prints which."""
    files = []
    for place in s.checkpoint:
        file, notes = find_checkpoint(place)
        files.append(file)
        for note in notes:
            message(note)
    return replace(s, checkpoint=tuple(files))


def run_cases(s: PredictSettings, model: Model, cases: Sequence[RawCase]) -> PredictResult:
    """Predict the cases and write their files; a finished one is kept, one that cannot be predicted is reported."""
    predictions: dict[str, Path] = {}
    kept: dict[str, Path] = {}
    failed: dict[str, str] = {}
    with writing(s.output, "free space or name another place with --output"):
        remove_unfinished(s.output)
        records = Records(s.output, s.part, _about(model), _made_with(s, model), s.overwrite)
        with progress(cases, desc="predicting", unit="scan") as bar:
            for case in bar:
                warnings: list[str] = []
                try:
                    fault = case.fault
                    if not fault:
                        source = made_of(case, s.box)
                        if records.finished(s.output, case, source, s.probabilities):
                            kept[case.name] = s.output / output_name(case)
                            continue
                        predicted = predict_case(s, model, case, warnings)
                except (UserError, MemoryError, torch.OutOfMemoryError) as error:
                    fault = (
                        str(error)
                        if isinstance(error, UserError)
                        else f"{case.images[0]}: no memory left; try again with --batch 1"
                    )
                if fault:
                    failed[case.name] = fault
                    continue
                for line in warnings:
                    message(f"warning: {printable(line)}", over_bars=True)
                predicted.write(s.output, case, source, records)
                predictions[case.name] = s.output / output_name(case)
    for name, fault in failed.items():
        error_message(printable(f"not predicted: {name}: {fault}"))
    message(
        f"{len(predictions)} predicted, {len(kept)} kept, {len(failed)} not predicted; they lie below {s.output}"
    )
    return PredictResult(s.output, predicted=predictions, kept=kept, failed=failed)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Class numbers in the order of the source's indices, and what predict.json says of them."""

    labels: np.ndarray
    values: np.ndarray
    attributes: dict
    record: dict
    has_probabilities: bool

    def write(self, folder: Path, case: RawCase, source: dict, records: Records) -> None:
        """Write the label map, and its hash and that of the probabilities to the record.

        The record comes first, without hashes: a file without a record is somebody else's, one without its hash is not finished.
        """
        begin = time.perf_counter()
        earlier = records.known.get(case.name, {})
        record = source | self.record
        records.begin(case.name, record)
        path = folder / output_name(case)
        write_labels(path, self.values[self.labels], case.images[0], self.attributes)
        record |= {FILE_HASH: sha256(path)}
        probabilities = probabilities_path(folder, case)
        if self.has_probabilities:
            record |= {PROBABILITIES_HASH: sha256(probabilities)}
        elif not records.overwrite and PROBABILITIES_HASH in earlier:
            record |= {PROBABILITIES_HASH: earlier[PROBABILITIES_HASH]}
        elif is_probability_file(probabilities):
            probabilities.unlink()  # of an earlier prediction
        record["seconds"]["write"] = round(time.perf_counter() - begin, 3)
        records.add(case.name, record)


def predict_case(s: PredictSettings, model: Model, case: RawCase, warnings: list[str]) -> Predicted:
    """Prepare, predict and lay back one scan, its probabilities being written meanwhile where they are wanted."""
    begin = time.perf_counter()
    if _picture(case):
        image, attributes = model.picture(case), {}
        back, voxel = identical(image.shape[1:]), None
    else:
        image, attributes = model.prepared(
            case, lambda line: warnings.append(line) if line else None
        )
        back = way_back(image.shape[1:], attributes, model.info.dims, model.box)
        voxel = float(np.prod(attributes["source_spacing_mm"])) / 1000
    ready = time.perf_counter()
    path = s.output / output_name(case)
    path.parent.mkdir(parents=True, exist_ok=True)
    with probability_file(
        probabilities_path(s.output, case) if s.probabilities else None,
        (model.info.classes, *back.shape),
    ) as kept:
        labels = label_map(
            model, image, back=back, probabilities=kept, largest_component=s.largest_component
        )
    end = time.perf_counter()
    counts = np.bincount(labels.ravel(), minlength=model.info.classes)
    classes = {
        name: {
            "voxels": int(count),
            "ml": None if voxel is None else round(float(count * voxel), 4),
        }
        for name, count in list(zip(model.info.class_names, counts, strict=True))[1:]
    }
    seconds = {"prepare": round(ready - begin, 3), "predict": round(end - ready, 3)}
    record = {
        "file": output_name(case),
        "shape": list(back.shape),
        "seconds": seconds,
        "classes": classes,
        "warnings": warnings,
    }
    return Predicted(labels, model.values, attributes, record, s.probabilities)


def label_map(
    model: Model,
    image: np.ndarray,
    back: WayBack,
    probabilities: np.ndarray | None,
    largest_component: bool,
) -> np.ndarray:
    """Class numbers (uint8) of a prepared image (C, three axes), on the grid of its source.

    `probabilities` (classes first, on that grid) is filled where the image lies.
    """
    labels = np.zeros(back.shape, np.uint8)
    part = back.view(labels)
    for index, plane in back.planes(model.planes(image)):
        part[index] = most_probable(plane).numpy()
        if probabilities is not None:
            back.view(probabilities)[:, index] = plane.numpy()
    if largest_component:
        labels = largest_component_per_class(labels[None], model.info.classes, 26)[0]
    return labels


def _picture(case: RawCase) -> bool:
    return case.images[0].name.lower().endswith(PICTURES)


def _about(model: Model) -> dict:
    return {
        "dataset": model.info.name,
        "label_values": dict(zip(model.info.class_names, model.values.tolist(), strict=True)),
        "checkpoints": [member.about for member in model.members],
        **provenance(),
    }


def _made_with(s: PredictSettings, model: Model) -> dict:
    """What of the settings decides about predictions."""
    return {
        "checkpoints": [member.about["sha256"] for member in model.members],
        "preparation": None if model.preparation is None else model.preparation.settings,
        "patch_size": [member.predictor.patch_size for member in model.members],
        "stride": [getattr(member.predictor, "stride", None) for member in model.members],
        "tta": s.tta,
        "largest_component": s.largest_component,
    }
