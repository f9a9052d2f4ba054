"""Prepare, predict and write one scan; predict.py does the three steps in different threads."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from commands.predict_back import WayBack, identical, way_back
from commands.predict_files import (
    FILE_HASH,
    IMAGES,
    MAP_HASH,
    PROBABILITIES_HASH,
    ProbabilityFile,
    Record,
    Records,
    feature_name,
    is_probability_file,
    made_of,
    map_files,
    map_name,
    output_name,
    probabilities_path,
    write_feature,
    write_labels,
    write_map,
)
from commands.predict_input import PICTURES
from commands.predict_model import Model
from commands.predict_settings import PredictSettings
from commands.predict_uncertainty import (
    FEATURES,
    MAPS,
    PASSES,
    UNCERTAINTY,
    Uncertainty,
    UncertaintyMaps,
)
from datasets.prepare.prepared_files import RawCase
from evaluation.features import MeanFeature
from utils.errors import UserError
from utils.label_maps import largest_component_per_class, most_probable
from utils.provenance import sha256


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A scan as the networks see it.

    `image`: (C, three axes) float32. `attributes`: of the prepared scan, none for a picture.
    `source`: what predict.json records of the scan. `warnings`: lines about the scan. `seconds`:
    time that the preparation took.
    """

    case: RawCase
    image: np.ndarray
    attributes: Mapping[str, Any]
    back: WayBack
    source: Record
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """The prediction of one case, which is not yet written.

    `labels`: class numbers in the order of the source's indices. `values`: the label value of each
    class. `attributes`: of the prepared scan. `record`: its entry in predict.json. `probabilities`:
    their file, None if they are not requested. `maps`: of uncertainty, by kind. `feature`: the mean
    of the network's deepest feature, None if there are no maps or the network has none.
    """

    case: RawCase
    labels: np.ndarray
    values: np.ndarray
    attributes: Mapping[str, Any]
    record: Record
    probabilities: ProbabilityFile | None
    maps: UncertaintyMaps
    feature: np.ndarray | None

    def discard(self) -> None:
        """Delete what is on disk of a prediction that will not be written."""
        if self.probabilities is not None:
            self.probabilities.discard()


def is_picture(case: RawCase) -> bool:
    """Whether a case is a picture, not a scan."""
    return case.images[0].name.lower().endswith(PICTURES)


def prepare_case(
    settings: PredictSettings, model: Model, records: Records, case: RawCase
) -> PreparedCase | None:
    """Read and prepare a scan; return None if its prediction is already finished.

    Raises UserError for a scan that cannot be predicted.
    """
    if case.fault:
        raise UserError(case.fault)
    source = made_of(case, settings.box)
    is_finished = records.finished(
        settings.output,
        case,
        made_of=source,
        probabilities=settings.probabilities,
        uncertainty=model.uncertainty,
    )
    if is_finished:
        return None
    start = time.perf_counter()
    warnings: list[str] = []
    image, attributes, back = _prepared(model, case, warnings)
    seconds = time.perf_counter() - start
    return PreparedCase(
        case,
        image,
        attributes=attributes,
        back=back,
        source=source,
        warnings=tuple(warnings),
        seconds=seconds,
    )


def _prepared(
    model: Model, case: RawCase, warnings: list[str]
) -> tuple[np.ndarray, Mapping[str, Any], WayBack]:
    """The prepared image (C, three axes), its attributes (none for a picture), and the way back."""
    if is_picture(case):
        image = model.picture(case)
        return image, {}, identical(image.shape[1:])

    def warn(line: str | None) -> None:
        if line:
            warnings.append(line)

    image, attributes = model.prepared(case, warn)
    return image, attributes, way_back(image.shape[1:], attributes, model.info.dims, model.box)


def predict_case(settings: PredictSettings, model: Model, prepared: PreparedCase) -> CasePrediction:
    """Predict a prepared scan; its probabilities go to disk meanwhile if they are requested.

    Uncertainty maps, and the network's mean feature with them, stay in memory.
    """
    start = time.perf_counter()
    case = prepared.case
    path = settings.output / output_name(case)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = None
    array = None
    if settings.probabilities:
        shape = (model.info.classes, *prepared.back.shape)
        file = ProbabilityFile(probabilities_path(settings.output, case), shape)
        array = file.array
    maps = UncertaintyMaps(model.uncertainty, model.info.classes, prepared.back)
    feature = MeanFeature(model.members[0].fast_net)
    try:
        with feature.collected(enabled=bool(maps.arrays)):
            labels = label_map(
                model,
                prepared.image,
                back=prepared.back,
                probabilities=array,
                maps=maps,
                largest_component=settings.largest_component,
            )
    except BaseException:
        if file is not None:
            file.discard()
        raise
    seconds = time.perf_counter() - start
    record = prepared.source | {
        "file": output_name(case),
        "shape": list(prepared.back.shape),
        "seconds": {"prepare": round(prepared.seconds, 3), "predict": round(seconds, 3)},
        "classes": _volumes(model, labels, prepared.attributes),
        "warnings": list(prepared.warnings),
        IMAGES: [str(path.absolute()) for path in case.images],
    }
    if maps.arrays:
        record[UNCERTAINTY] = _about_maps(model.uncertainty, case, maps.means(labels))
    return CasePrediction(
        case,
        labels,
        values=model.values,
        attributes=prepared.attributes,
        record=record,
        probabilities=file,
        maps=maps,
        feature=feature.mean(),
    )


def _about_maps(
    uncertainty: Uncertainty, case: RawCase, means: Mapping[str, Mapping[str, float | None]]
) -> Record:
    """What predict.json records of the maps; hashes follow when they are written."""
    maps: Record = {}
    for kind, values in means.items():
        maps[kind] = {"file": map_name(case, kind), **values}
    return {PASSES: uncertainty.extra.dropout_passes, MAPS: maps}


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
    maps: UncertaintyMaps,
    largest_component: bool,
) -> np.ndarray:
    """Class numbers (uint8) of a prepared image (C, three axes), on the grid of its source.

    `probabilities` (classes first, on that grid) and `maps` are filled where the image is.
    """
    labels = np.zeros(back.shape, np.uint8)
    part = back.view(labels)
    for index, plane in back.planes(model.planes(image)):
        probability = plane[: model.info.classes]
        part[index] = most_probable(probability).numpy()
        if probabilities is not None:
            back.view(probabilities)[:, index] = probability.numpy()
        maps.fill(index, plane)
    if largest_component:
        labels = largest_component_per_class(labels[None], model.info.classes, 26)[0]
    return labels


def write_case(settings: PredictSettings, records: Records, prediction: CasePrediction) -> None:
    """Write a prediction, and add its hash and that of the probabilities to its record.

    The record is written first, without hashes: a file without a record is somebody else's, one
    without its hash is not finished.
    """
    try:
        _write(settings, records, prediction)
    finally:
        prediction.discard()


def _write(settings: PredictSettings, records: Records, prediction: CasePrediction) -> None:
    start = time.perf_counter()
    case = prediction.case
    earlier = records.known.get(case.name, {})
    record = prediction.record
    path = settings.output / output_name(case)
    probabilities = probabilities_path(settings.output, case)
    if prediction.probabilities is not None:
        prediction.probabilities.write()
    records.begin(case.name, record)
    labels = prediction.values[prediction.labels]
    write_labels(path, labels, case.images[0], prediction.attributes)
    record[FILE_HASH] = sha256(path)
    if prediction.probabilities is not None:
        record[PROBABILITIES_HASH] = sha256(probabilities)
    elif not records.overwrite and PROBABILITIES_HASH in earlier:
        record[PROBABILITIES_HASH] = earlier[PROBABILITIES_HASH]
    elif is_probability_file(probabilities):
        probabilities.unlink()  # of an earlier prediction
    _write_maps(settings.output, prediction)
    if not prediction.maps.arrays:
        _keep_or_delete_maps(settings.output, earlier, record=record, overwrite=records.overwrite)
    record["seconds"]["write"] = round(time.perf_counter() - start, 3)
    records.add(case.name, record)


def _write_maps(output: Path, prediction: CasePrediction) -> None:
    """Write the uncertainty maps and the mean feature, and add them to the record."""
    case = prediction.case
    for kind, array in prediction.maps.arrays.items():
        path = output / map_name(case, kind)
        write_map(path, array, case.images[0], prediction.attributes)
        prediction.record[UNCERTAINTY][MAPS][kind][MAP_HASH] = sha256(path)
    if prediction.feature is not None:
        path = output / feature_name(case)
        write_feature(path, prediction.feature)
        prediction.record[UNCERTAINTY][FEATURES] = path.relative_to(output).as_posix()


def _keep_or_delete_maps(output: Path, earlier: Record, record: Record, overwrite: bool) -> None:
    """Keep the record of the maps of an earlier prediction, or delete them with --overwrite."""
    if UNCERTAINTY not in earlier:
        return
    if not overwrite:
        record[UNCERTAINTY] = earlier[UNCERTAINTY]
        return
    for name in map_files(earlier):
        (output / name).unlink(missing_ok=True)
