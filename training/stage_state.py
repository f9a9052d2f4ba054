"""The state of a stage in a checkpoint: what is saved, and how a stage continues from it."""

from typing import Any

from training.checkpoint import FORMAT, Checkpoint
from training.checkpoint_content import STATES, check_tensors
from training.distributed import gathered_buffers
from training.optimizers import saved_states, states_by_learner
from training.precision import Precision
from training.stage import Progress, Run, StageSetup
from utils.errors import UserError


def stage_content(
    run: Run, setup: StageSetup, progress: Progress, losses: list[float], precision: Precision
) -> dict[str, Any]:
    """Return the content of a checkpoint; every process must call this, though one saves it.

    `losses`: those since the last validation. Raises UserError if a number is not finite.
    """
    stage = setup.stage
    content = {
        "format": FORMAT,
        **run.about,
        "stage": stage.name,
        "progress": {**vars(progress), "history": list(progress.history)},
        "losses": list(losses),
        "student": stage.student.state_dict(),
        "selected": stage.selected,
        "models": {name: stage.models.get(name, "") for name in stage.learners},
        "phase": stage.state_dict(),
        **saved_states(setup.optimizers),
        "scaler": precision.state_dict(),
        "buffers": gathered_buffers(stage.networks),
    }
    # The loss of a step is computed before its gradients spoil the weights: checking losses would
    # come one step late.
    try:
        check_tensors({key: content.get(key) for key in STATES})
    except ValueError as error:
        raise UserError(
            f"{stage.name}, iteration {progress.step}: {error}; the last checkpoint is kept"
        ) from None
    return content


def restore_stage(checkpoint: Checkpoint, setup: StageSetup, precision: Precision) -> Progress:
    """Load a checkpoint into networks, method, optimisers and scaler; return its progress."""
    setup.stage.student.load_state_dict(checkpoint.student)
    setup.stage.load_state_dict(checkpoint.stage_state)
    for name, state in states_by_learner(checkpoint, setup.optimizers).items():
        setup.optimizers[name].load_state_dict(dict(state))
    precision.load_state_dict(checkpoint.scaler)
    return Progress(**checkpoint.progress)
