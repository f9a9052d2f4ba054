"""Edge-guided BCP with dual teachers: settings to stages. The recipe scripts state the numbers, this module only connects."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from dataloaders.acdc import ACDCSlices, collate, read_volumes
from dataloaders.facts import ACDC
from dataloaders.two_stream import TwoStreamSampler
from methods import objective
from methods.copy_paste import CopyPaste
from methods.copy_paste_pretrain import CopyPastePretrain
from methods.dual_teacher import DualTeacher, RefreshRule
from methods.supervised import Supervised
from recipes.networks import build_network, check_patch, load_network
from recipes.paths import best_name, data_root, run_folder
from training.checkpoint import is_ours, load
from training.device import choose_device, place, set_deterministic, use_bf16
from training.distributed import check_batch, from_main, is_main, process_group, rank, world
from training.evaluate import SlicePredictor, validate
from training.log import RunLog
from training.loop import Run, Stage, run_stages
from training.settings import Settings
from training.signals import leave_to_main_process
from utils.cli import parse
from utils.errors import UserError, writing

STAGE_NUMBERS = {Supervised.name: 0, CopyPastePretrain.name: 1, DualTeacher.name: 2}  # set apart what the stages draw from one seed


def settings_from_flags(recipe: Settings, argv: Sequence[str] | None = None, description: str | None = None) -> Settings:
    """The recipe's settings with the flags' changes; `--method` sets its baseline's values first, so that other flags override them."""
    method = parse(Settings, argv, recipe, description).method
    return parse(Settings, argv, recipe.with_method(method), description)


def train_acdc(recipe: Settings, argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Train on ACDC as `recipe` says, changed by the flags in `argv`; resumes what an earlier call began."""
    settings = settings_from_flags(recipe, argv, description)
    with process_group(choose_device(settings.device, settings.gpu)) as device:
        _ACDCTraining(settings, device).run()


class _ACDCTraining:
    def __init__(self, settings: Settings, device: torch.device):
        self.settings, self.device = settings, device
        check_patch(settings.patch_size, settings.egm)
        check_batch(settings.batch_size, settings.labeled_bs)
        check_numbers(settings)
        bf16 = use_bf16(settings.amp, device)
        set_deterministic(settings.deterministic)
        self.folder = run_folder(ACDC.name, settings.exp, settings.labelnum, settings.output_root)
        self.root = data_root(ACDC.name, settings.root_path)
        unlabelled = settings.method != "supervised" and settings.run_mode != "pretrain"
        self.data = ACDCSlices(self.root, settings.labelnum, settings.patch_size, unlabelled)
        if self.data.labelled < settings.labeled_bs:
            raise UserError(
                f"--labeled_bs {settings.labeled_bs}: the {settings.labelnum} labelled patients have "
                f"{self.data.labelled} slices; lower it, and --batch_size"
            )
        if unlabelled and not self.data.unlabelled:
            raise UserError(
                f"--labelnum {settings.labelnum}: leaves no unlabelled slices in the training list; "
                "choose fewer, or --method supervised, which needs none"
            )
        self.validation_cases = read_volumes(self.root, "val")
        if settings.fresh and is_main():
            move_aside(self.folder / DualTeacher.name if unlabelled and settings.run_mode == "selftrain" else self.folder)
        from_main(None)  # the other processes wait until the folder is ready
        about = {"settings": settings.computed(), "facts": asdict(ACDC) | {"class_names": list(ACDC.class_names)}}
        about["selection"] = f"best mean Dice on val.list ({len(self.validation_cases)} volumes, empty prediction = 0)"
        log = RunLog(self.folder)
        self.info = Run(self.folder, best_name(settings.model), about, device, ACDC.dims, bf16, settings.val_every, log)

    def run(self) -> None:
        s, data = self.settings, self.data
        self.info.log.say(
            f"ACDC, {s.labelnum} labelled patients: {data.labelled} labelled and {data.unlabelled} unlabelled slices, "
            f"{len(self.validation_cases)} validation volumes; {s.method}, egm {s.egm}, mask {s.mask}, teachers {s.teachers}; "
            f"{self.device} x {world()}; TensorBoard: tensorboard --logdir {self.folder}"
        )
        pretrain, selftrain = {CopyPastePretrain.name: self.pretrain}, {DualTeacher.name: self.selftrain}
        stages = {"pretrain": pretrain, "selftrain": selftrain, "pretrain_then_selftrain": pretrain | selftrain}
        run_stages(self.info, {Supervised.name: self.supervised} if s.method == "supervised" else stages[s.run_mode])

    def supervised(self) -> Stage:
        s = self.settings
        return self._stage(Supervised(self._student(), objective.ACDC), s.pre_iterations + s.max_iterations)

    def pretrain(self) -> Stage:
        s = self.settings
        return self._stage(
            CopyPastePretrain(self._student(), objective.ACDC, self._box(CopyPastePretrain.name, s.pre_iterations)), s.pre_iterations
        )

    def selftrain(self) -> Stage:
        s = self.settings
        refresh = RefreshRule(s.static_start, s.static_step, *s.static_range) if s.teachers == "dual" else None
        phase = DualTeacher(
            self._student(),
            objective.ACDC,
            self._box(DualTeacher.name, s.max_iterations),
            s.u_weight,
            s.ema_decay,
            "state",
            refresh,
        )
        stage = self._stage(phase, s.max_iterations)
        stage.begin = partial(self._begin_from_pretraining, stage)
        return stage

    def _student(self) -> torch.nn.Module:
        torch.manual_seed(self.settings.seed)
        return place(build_network(ACDC, self.settings.model, self.settings.egm, self.settings.upsampling), self.device, ACDC.dims)

    def _box(self, stage: str, steps: int) -> CopyPaste:
        return CopyPaste(self.settings.mask, self.settings.box_end, steps, (self.settings.seed, STAGE_NUMBERS[stage], 1))

    def _stage(self, phase, steps: int) -> Stage:
        s, seed = self.settings, (self.settings.seed, STAGE_NUMBERS[phase.name])
        predict = SlicePredictor(s.patch_size, self.device)
        return Stage(
            phase=phase,
            optimizer=torch.optim.SGD(phase.student.parameters(), lr=s.base_lr, momentum=0.9, weight_decay=s.weight_decay),
            steps=steps,
            batches=partial(self._batches, seed, phase.name == DualTeacher.name),
            validate=lambda net, stopped: validate(net, stopped, self.validation_cases, predict, ACDC.class_names),
            learning_rate=lambda step: s.base_lr,
            seed=(*seed, 2),
        )

    def _batches(self, seed: tuple[int, int], unlabelled: bool, steps: range) -> DataLoader:
        s, workers = self.settings, self.settings.num_workers
        if workers < 0:
            workers = 4 if self.device.type == "cuda" else 0
        sampler = TwoStreamSampler(
            self.data.labelled,
            self.data.unlabelled if unlabelled else 0,
            s.labeled_bs,
            s.batch_size - s.labeled_bs if unlabelled else 0,
            (*seed, 0),
            steps,
            rank(),
            world(),
        )
        return DataLoader(
            self.data,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=leave_to_main_process,
            pin_memory=self.device.type == "cuda",
        )

    def _begin_from_pretraining(self, stage: Stage) -> None:
        """Student, teachers and optimiser take over from the best pre-training checkpoint, ours or a published one."""
        path = self.folder / CopyPastePretrain.name / best_name(self.settings.model)
        if not path.is_file():
            raise UserError(f"{path}: no pre-trained network; run with --run_mode pretrain first, or put a published one there")
        content = load(path)
        load_network(stage.phase.student, content, path)
        stage.phase.reset_teachers()
        if is_ours(content):
            stage.optimizer.load_state_dict(content["optimizer"])
        self.info.log.say(f"{stage.phase.name}: starting from {path}" + ("" if is_ours(content) else ", its momentum left behind"))


def check_numbers(settings: Settings) -> None:
    """Raise UserError for numbers that no run can have."""
    for name in ("pre_iterations", "max_iterations", "val_every", "static_start"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} {getattr(settings, name)}: must be at least 1")
    for name in ("base_lr", "weight_decay", "u_weight", "static_step", "seed"):
        if not 0 <= getattr(settings, name) < 2**63:
            raise UserError(f"--{name} {getattr(settings, name)}: must be at least 0, and below 2^63")
    shortest, longest = settings.static_range
    if not 1 <= shortest <= longest:
        raise UserError(f"--static_range {shortest} {longest}: give the shortest interval, at least 1, then the longest")
    if max(settings.patch_size) == 16 and settings.labeled_bs == 2 * world():
        raise UserError(
            "--patch_size 16 16: batch normalisation needs more than one pixel of one image; use 32 32 or a larger --labeled_bs"
        )
    if not 0 <= settings.ema_decay <= 1:
        raise UserError(f"--ema_decay {settings.ema_decay}: must lie between 0 and 1")
    if not 0 < settings.box_end <= 2 / 3:
        raise UserError(f"--box_end {settings.box_end}: must lie above 0 and at most at 2/3, where the box starts")


def move_aside(folder: Path) -> None:
    """Rename an earlier run's folder, so that a fresh one starts and nothing is lost."""
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        with writing(aside, "move it by hand or use another --exp"):
            folder.rename(aside)
        print(f"the earlier run is now {aside}")
