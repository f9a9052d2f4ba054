"""Predict raw scans, each on its own grid.

A scan is prepared as the training data of its network were.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from commands.agreement import check_channels
from commands.predict_back import WayBack, identical, way_back
from commands.predict_files import (
    FILE_HASH,
    PROBABILITIES_HASH,
    Record,
    Records,
    is_probability_file,
    made_of,
    output_name,
    probabilities_path,
    probability_file,
    write_labels,
)
from commands.predict_input import PICTURES, find_inputs, part_of
from commands.predict_memory import report_memory
from commands.predict_model import Model, read_model
from commands.predict_settings import ModelSettings, PredictSettings
from commands.runs import find_checkpoint
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import CroppedPreparation
from training.device import choose_device
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.label_maps import largest_component_per_class, most_probable
from utils.lock import only_writer, only_writer_of_part
from utils.messages import error_message, message
from utils.names import printable
from utils.progress import progress
from utils.provenance import provenance, sha256
from utils.workers import terminated

AnySettings = TypeVar("AnySettings", bound=ModelSettings)
REMEDY = "name another place with --output"


@dataclass(frozen=True)
class PredictResult:
    """What became of the scans, by the names of their cases.

    `output`: the folder of the predictions. `predicted`: files written now. `kept`: files of an
    earlier call. `failed`: what is wrong with each scan that could not be predicted.
    """

    output: Path
    predicted: Mapping[str, Path]
    kept: Mapping[str, Path]
    failed: Mapping[str, str]


def run(settings: PredictSettings) -> PredictResult:
    """Predict scans. Raises UserError for what the user can correct.

    A scan that cannot be predicted is only reported.
    """
    settings.check()
    settings = with_checkpoints(settings)
    device = choose_device(settings.device, settings.gpu)
    model = read_model(settings, device)
    if model.plan is not None:
        warning = check_channels(settings.input, model.plan.channel_names)
        if warning:
            message(printable(warning))
    cases = find_inputs(
        settings.input,
        model.info.channels,
        pictures=model.info.dims == 2,
        output=settings.output,
        download=model.plan is None,
    )
    cases = part_of(cases, settings.part)
    if settings.box and len(cases) > 1:
        raise UserError(
            f"--box: there are {len(cases)} scans below {settings.input}; predict them one by one, "
            f"each with its --box"
        )
    for member in model.members:
        message(f"checkpoint {member.about['path']}")
        message(f"method: {member.about['method']}")
        message(f"selection: {member.about['selection']}")
    if cases and not _is_picture(cases[0]):
        warn_about_crop(model)
    report_memory(model, cases)
    with terminated(), _only_writer(settings):
        return run_cases(settings, model, cases)


def warn_about_crop(model: Model) -> None:
    """Warn if the training scans were cropped to the label, and no box selects the object."""
    if isinstance(model.preparation, CroppedPreparation) and model.box is None:
        message(
            f"warning: the training scans of {model.info.name} were cropped to the label, and "
            f"networks have seen nothing else; --box selects a part of a scan"
        )


def _only_writer(settings: PredictSettings) -> AbstractContextManager[None]:
    """The lock of the output folder, or of a part of it, so that parts can run at the same time."""
    if settings.part is None:
        return only_writer(settings.output, REMEDY)
    part, parts = (int(number) for number in settings.part.split("/"))
    return only_writer_of_part(settings.output, part, parts, remedy=REMEDY)


def with_checkpoints(settings: AnySettings) -> AnySettings:
    """Replace each folder of a run or stage among the checkpoints by a file, and report which."""
    files: list[Path] = []
    for path in settings.checkpoint:
        file, notes = find_checkpoint(path)
        files.append(file)
        for note in notes:
            message(note)
    return replace(settings, checkpoint=tuple(files))


def run_cases(settings: PredictSettings, model: Model, cases: Sequence[RawCase]) -> PredictResult:
    """Predict the cases and write their files.

    A finished case is kept, and one that cannot be predicted is reported.
    """
    output = settings.output
    predictions: dict[str, Path] = {}
    kept: dict[str, Path] = {}
    failed: dict[str, str] = {}
    with writing(output, f"free space or {REMEDY}"):
        remove_unfinished(output)
        records = Records(
            output, settings.part, _about(model), _made_with(settings, model), settings.overwrite
        )
        with progress(cases, desc="predicting", unit="scan") as bar:
            for case in bar:
                path = output / output_name(case)
                try:
                    is_new = _run_case(settings, model, case, records)
                except UserError as error:
                    failed[case.name] = str(error)
                except (MemoryError, torch.OutOfMemoryError):
                    failed[case.name] = (
                        f"{case.images[0]}: no memory left; try again with --batch 1"
                    )
                else:
                    if is_new:
                        predictions[case.name] = path
                    else:
                        kept[case.name] = path
    for name, fault in failed.items():
        error_message(printable(f"not predicted: {name}: {fault}"))
    message(
        f"{len(predictions)} predicted, {len(kept)} kept, {len(failed)} not predicted; the folder "
        f"is {output}"
    )
    return PredictResult(output, predicted=predictions, kept=kept, failed=failed)


def _run_case(settings: PredictSettings, model: Model, case: RawCase, records: Records) -> bool:
    """Predict a case and write its files, unless they are finished.

    Return whether it was predicted.
    """
    if case.fault:
        raise UserError(case.fault)
    source = made_of(case, settings.box)
    if records.finished(settings.output, case, source, settings.probabilities):
        return False
    warnings: list[str] = []
    prediction = predict_case(settings, model, case, warnings)
    for line in warnings:
        message(f"warning: {printable(line)}", over_bars=True)
    prediction.write(settings.output, case, source, records)
    return True


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """The prediction of one case.

    `labels`: class numbers in the order of the source's indices. `values`: the label value of each
    class. `attributes`: of the prepared scan. `record`: its entry in predict.json.
    """

    labels: np.ndarray
    values: np.ndarray
    attributes: Mapping[str, Any]
    record: Record
    has_probabilities: bool

    def write(self, folder: Path, case: RawCase, source: Record, records: Records) -> None:
        """Write the label map, and add its hash and that of the probabilities to the record.

        The record is written first, without hashes: a file without a record is somebody else's, one
        without its hash is not finished.
        """
        start = time.perf_counter()
        earlier = records.known.get(case.name, {})
        record = source | self.record
        records.begin(case.name, record)
        path = folder / output_name(case)
        write_labels(path, self.values[self.labels], case.images[0], self.attributes)
        record[FILE_HASH] = sha256(path)
        probabilities = probabilities_path(folder, case)
        if self.has_probabilities:
            record[PROBABILITIES_HASH] = sha256(probabilities)
        elif not records.overwrite and PROBABILITIES_HASH in earlier:
            record[PROBABILITIES_HASH] = earlier[PROBABILITIES_HASH]
        elif is_probability_file(probabilities):
            probabilities.unlink()  # of an earlier prediction
        record["seconds"]["write"] = round(time.perf_counter() - start, 3)
        records.add(case.name, record)


def predict_case(
    settings: PredictSettings, model: Model, case: RawCase, warnings: list[str]
) -> CasePrediction:
    """Prepare and predict one scan; its probabilities are written meanwhile if they are requested.

    Warnings about the scan are added to `warnings`.
    """
    start = time.perf_counter()
    image, attributes, back = _prepared(model, case, warnings)
    ready = time.perf_counter()
    path = settings.output / output_name(case)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = None
    if settings.probabilities:
        file = probabilities_path(settings.output, case)
    with probability_file(file, (model.info.classes, *back.shape)) as probabilities:
        labels = label_map(
            model,
            image,
            back=back,
            probabilities=probabilities,
            largest_component=settings.largest_component,
        )
    end = time.perf_counter()
    record: Record = {
        "file": output_name(case),
        "shape": list(back.shape),
        "seconds": {"prepare": round(ready - start, 3), "predict": round(end - ready, 3)},
        "classes": _volumes(model, labels, attributes),
        "warnings": warnings,
    }
    return CasePrediction(labels, model.values, attributes, record, settings.probabilities)


def _prepared(
    model: Model, case: RawCase, warnings: list[str]
) -> tuple[np.ndarray, Mapping[str, Any], WayBack]:
    """The prepared image (C, three axes), its attributes (none for a picture), and the way back."""
    if _is_picture(case):
        image = model.picture(case)
        return image, {}, identical(image.shape[1:])

    def warn(line: str | None) -> None:
        if line:
            warnings.append(line)

    image, attributes = model.prepared(case, warn)
    return image, attributes, way_back(image.shape[1:], attributes, model.info.dims, model.box)


def _volumes(model: Model, labels: np.ndarray, attributes: Mapping[str, Any]) -> Record:
    """The size of each foreground class: voxels, and ml if the spacing is known."""
    counts = np.bincount(labels.ravel(), minlength=model.info.classes)
    volumes: Record = {}
    for name, count in zip(model.info.class_names[1:], counts[1:], strict=True):
        ml = None
        if attributes:
            voxel_ml = float(np.prod(attributes["source_spacing_mm"])) / 1000
            ml = round(float(count * voxel_ml), 4)
        volumes[name] = {"voxels": int(count), "ml": ml}
    return volumes


def label_map(
    model: Model,
    image: np.ndarray,
    back: WayBack,
    probabilities: np.ndarray | None,
    largest_component: bool,
) -> np.ndarray:
    """Class numbers (uint8) of a prepared image (C, three axes), on the grid of its source.

    `probabilities` (classes first, on that grid) is filled where the image is.
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


def _is_picture(case: RawCase) -> bool:
    return case.images[0].name.lower().endswith(PICTURES)


def _about(model: Model) -> Record:
    """What predict.json records of the networks."""
    return {
        "dataset": model.info.name,
        "label_values": dict(zip(model.info.class_names, model.values.tolist(), strict=True)),
        "checkpoints": [member.about for member in model.members],
        **provenance(),
    }


def _made_with(settings: PredictSettings, model: Model) -> Record:
    """Everything except the scan that predictions depend on."""
    preparation = None
    if model.preparation is not None:
        preparation = model.preparation.settings
    made_with: Record = {
        "checkpoints": [member.about["sha256"] for member in model.members],
        "preparation": preparation,
        "patch_size": [member.predictor.patch_size for member in model.members],
        "stride": [getattr(member.predictor, "stride", None) for member in model.members],
        "tta": settings.tta,
        "largest_component": settings.largest_component,
    }
    if settings.network is not None:
        made_with["network"] = settings.network
    return made_with
