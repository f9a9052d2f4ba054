"""Predict raw scans, each on its own grid.

A scan is prepared as the training data of its network were.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from commands.agreement import check_channels
from commands.predict_case import (
    CasePrediction,
    PreparedCase,
    is_picture,
    predict_case,
    prepare_case,
    write_case,
)
from commands.predict_files import Record, Records, output_name
from commands.predict_input import find_inputs, part_of
from commands.predict_memory import report_memory
from commands.predict_model import Model, read_model
from commands.predict_settings import ModelSettings, PredictSettings
from commands.runs import find_checkpoint
from commands.test_folder import USUAL
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import CroppedPreparation
from training.device import choose_device
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.lock import only_writer, only_writer_of_part
from utils.messages import error_message, message
from utils.names import printable
from utils.pipeline import Worker, ahead, worker
from utils.progress import progress
from utils.provenance import provenance
from utils.workers import terminated

AnySettings = TypeVar("AnySettings", bound=ModelSettings)
REMEDY = "name another folder with --output"


@dataclass(frozen=True)
class PredictResult:
    """What became of the scans, by the names of their cases.

    `output`: the folder of the predictions. `predicted`: files written now. `kept`: files of an
    earlier call. `failed`: what is wrong with each scan that could not be predicted. `ranking`: the
    cases by kind of uncertainty map, the most uncertain one first; those of earlier calls too.
    """

    output: Path
    predicted: Mapping[str, Path]
    kept: Mapping[str, Path]
    failed: Mapping[str, str]
    ranking: Mapping[str, Sequence[str]]


def run(settings: PredictSettings) -> PredictResult:
    """Predict scans. Raises UserError for what the user can correct.

    A scan that cannot be predicted is only reported.
    """
    settings.check()
    settings = with_checkpoints(settings)
    device = choose_device(settings.device, settings.gpu)
    model = read_model(settings, device).with_uncertainty(settings.uncertainty, settings.passes)
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
    message(f"precision: {model.speed}")
    if cases and not is_picture(cases[0]):
        warn_about_crop(model)
    report_memory(model, cases, settings.ahead)
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

    A finished case is kept, and one that cannot be predicted is reported. While the networks
    predict a case, one thread prepares the next one and another one writes the case before it.
    """
    output = settings.output
    _check_inputs_are_kept(output, cases)
    with writing(output, f"free space or {REMEDY}"):
        remove_unfinished(output)
        records = Records(
            output,
            settings.part,
            about=_about(model),
            made_with=_made_with(settings, model),
            overwrite=settings.overwrite,
        )
        outcome = _Outcome(output)
        with worker("preparing") as preparer, worker("writing") as writer:
            behind = _Writing(writer, partial(write_case, settings, records), outcome)
            prepare = partial(prepare_case, settings, model, records)
            prepared = ahead(preparer, prepare, cases, settings.ahead)
            with progress(prepared, total=len(cases), desc="predicting", unit="scan") as bar:
                for case, preparing in bar:
                    with outcome.faults_of(case):
                        _predict_case(settings, model, preparing, behind)
            behind.wait()
    result = outcome.result(cases, records.ranking())
    for name, fault in result.failed.items():
        error_message(printable(f"not predicted: {name}: {fault}"))
    message(
        f"{len(result.predicted)} predicted, {len(result.kept)} kept, {len(result.failed)} not "
        f"predicted; the folder is {output}"
    )
    return result


def _check_inputs_are_kept(output: Path, cases: Sequence[RawCase]) -> None:
    """Raise UserError if a prediction would replace a scan."""
    scans = {image.resolve(): image for case in cases for image in case.images}
    for case in cases:
        scan = scans.get((output / output_name(case)).resolve())
        if scan is not None:
            raise UserError(
                f"--output {output}: the prediction of {case.name} would replace the scan {scan}; "
                f"name another folder to write to"
            )


class _Outcome:
    """What becomes of each case."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._predicted: set[str] = set()
        self._failed: dict[str, str] = {}

    @contextmanager
    def faults_of(self, case: RawCase) -> Iterator[None]:
        """Within the context, an error that concerns only this case is recorded."""
        try:
            yield
        except UserError as error:
            self._failed[case.name] = str(error)
        except (MemoryError, torch.OutOfMemoryError):
            self._failed[case.name] = (
                f"{case.images[0]}: no memory left; try again with --batch 1 --ahead 0"
            )

    def add(self, case: RawCase) -> None:
        """Record that a case was predicted and written."""
        self._predicted.add(case.name)

    def result(
        self, cases: Sequence[RawCase], ranking: Mapping[str, Sequence[str]]
    ) -> PredictResult:
        """All cases in their order; those that neither failed nor were predicted were kept."""
        predicted: dict[str, Path] = {}
        kept: dict[str, Path] = {}
        failed: dict[str, str] = {}
        for case in cases:
            path = self._output / output_name(case)
            if case.name in self._failed:
                failed[case.name] = self._failed[case.name]
            elif case.name in self._predicted:
                predicted[case.name] = path
            else:
                kept[case.name] = path
        return PredictResult(
            self._output, predicted=predicted, kept=kept, failed=failed, ranking=ranking
        )


class _Writing:
    """Writes predictions in another thread, one at a time."""

    def __init__(
        self, writer: Worker, write: Callable[[CasePrediction], None], outcome: _Outcome
    ) -> None:
        self._writer = writer
        self._write = write
        self._outcome = outcome
        self._current: tuple[RawCase, Future[None]] | None = None

    def start(self, prediction: CasePrediction) -> None:
        """Start to write a prediction, after the one before it."""
        try:
            self.wait()
        except BaseException:
            prediction.discard()
            raise
        self._current = (prediction.case, self._writer.submit(self._write, prediction))

    def wait(self) -> None:
        """Wait for the current prediction, and record what became of it."""
        if self._current is None:
            return
        case, future = self._current
        self._current = None
        with self._outcome.faults_of(case):
            future.result()
            self._outcome.add(case)


def _predict_case(
    settings: PredictSettings,
    model: Model,
    preparing: Future[PreparedCase | None],
    behind: _Writing,
) -> None:
    """Predict a case unless it is finished, and start to write it."""
    prepared = preparing.result()
    if prepared is None:
        return
    prediction = predict_case(settings, model, prepared)
    for line in prepared.warnings:
        message(f"warning: {printable(line)}", over_bars=True)
    behind.start(prediction)
    if settings.ahead == 0:
        behind.wait()


def _about(model: Model) -> Record:
    """What predict.json records of the networks."""
    return {
        "dataset": model.info.name,
        "label_values": dict(zip(model.info.class_names, model.values.tolist(), strict=True)),
        "checkpoints": [member.about for member in model.members],
        "precision": model.speed,
        **provenance(),
    }


def _made_with(settings: PredictSettings, model: Model) -> Record:
    """Everything except the scan that predictions depend on."""
    preparation = None
    if model.preparation is not None:
        preparation = model.preparation.settings
    predictors = [member.predictor for member in model.members]
    made_with: Record = {
        "checkpoints": [member.about["sha256"] for member in model.members],
        "preparation": preparation,
        "patch_size": [predictor.patch_size for predictor in predictors],
        "stride": [getattr(predictor, "stride", None) for predictor in predictors],
        "tta": settings.tta,
        "largest_component": settings.largest_component,
    }
    # predictions of versions without these flags have the values that are omitted here
    if settings.network is not None:
        made_with["network"] = settings.network
    if predictors[0].amp is not None:
        made_with["amp"] = str(predictors[0].amp).removeprefix("torch.")
    for key in ("blend", "interpolation"):
        value = getattr(predictors[0], key, USUAL[key])
        if value != USUAL[key]:
            made_with[key] = value
    return made_with
