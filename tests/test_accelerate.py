"""Compiled passes, losses and teachers: one graph without a break, the same losses and gradients;
and what bfloat16 keeps in float32.
"""

import pytest
import torch
from helpers import LOSS_2D, LOSS_3D, Context, step_loss

from benchmarks.counts import BareRun, runner
from commands.stage_context import RunStageContext
from datasets.registry import all_datasets
from methods.registry import METHODS
from methods.stage_networks import CompiledCalls, add_scalars
from methods.supervised import Supervised
from networks.egm import BATCH_NORM, CONV, EdgeGuidedBase
from networks.registry import build
from training.accelerate import accelerated, check_accelerate
from utils.errors import UserError

CPU = torch.device("cpu")
TWO_SLICES = ("cogrnet", "desco")
SIZES = {"unet": (2, 1, 80, 80), "VNet": (2, 1, 32, 16, 16), "VNet_pancreas": (2, 1, 32, 16, 16)}


def case(name, egm="published"):
    """A supervised phase whose network has no dropout (draws differ between kernels), and a batch."""
    torch.manual_seed(0)
    net = build(name, 1, 2, {"egm": egm})
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout3d):
            module.p = 0.0
    image = torch.rand(SIZES[name])
    phase = Supervised(Context(net, LOSS_2D if image.ndim == 4 else LOSS_3D))
    return phase, {"image": image, "label": (image[:, 0] > 0.5).long()}


def both_ways(phase, batch, backend, step=0):
    """What a step computes, as it is and compiled in whole graphs: its scalars, the learners'
    gradients, all networks' states.
    """
    state = {
        name: {key: value.clone() for key, value in net.state_dict().items()}
        for name, net in phase.networks.items()
    }
    results = []
    for faster in (None, accelerated(phase, "compile", backend=backend)):
        for name, net in phase.networks.items():
            net.load_state_dict(state[name])
            net.zero_grad()
        phase.compiled = faster
        torch.manual_seed(1)
        scalars = {}
        for loss in phase.losses(batch, step):
            loss.total.backward()
            add_scalars(scalars, {"loss": loss.total, **loss.scalars})
        scalars |= phase.take_logged()
        gradients = {
            f"{name}.{key}": p.grad
            for name, net in phase.learners.items()
            for key, p in net.named_parameters()
            if p.grad is not None
        }
        after = {
            f"{name}.{key}": value.clone()
            for name, net in phase.networks.items()
            for key, value in net.state_dict().items()
        }
        results.append(
            (scalars, {key: gradient.clone() for key, gradient in gradients.items()}, after)
        )
    return results


def assert_alike(plain, compiled):
    (scalars, gradients, after), (other_scalars, others, other_after) = plain, compiled
    assert other_scalars.keys() == scalars.keys()
    for key, value in scalars.items():
        torch.testing.assert_close(other_scalars[key], value, rtol=1e-5, atol=1e-7, msg=key)
    assert others.keys() == gradients.keys() != set()
    scale = max(gradient.norm() for gradient in gradients.values())
    for key, gradient in gradients.items():
        assert (others[key] - gradient).norm() <= 1e-5 * scale, key
    for key, value in after.items():
        torch.testing.assert_close(other_after[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    "name, backend", [("unet", "aot_eager"), ("VNet", "eager"), ("VNet_pancreas", "eager")]
)
@pytest.mark.long
def test_a_pass_with_its_loss_is_one_graph_with_the_same_gradients(name, backend):
    phase, batch = case(name)
    if (
        name != "unet"
    ):  # float32's rounding moves gradients of the V-Nets by 1e-4 on some processors
        phase.student.double()
        batch["image"] = batch["image"].double()
    plain, compiled = both_ways(phase, batch, backend)
    assert_alike(plain, compiled)
    counters = [value for key, value in compiled[2].items() if key.endswith("num_batches_tracked")]
    assert counters and all(value == 1 for value in counters)


class Tiny(torch.nn.Module):
    """Two layers, for methods whose network does not matter; `auxiliary`: what
    `networks.base.Network` calls its outputs.
    """

    feature_channels = 3

    def __init__(self, dims, classes, auxiliary="none") -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.layers = torch.nn.Sequential(
            CONV[dims](1, 3, 3, padding=1), BATCH_NORM[dims](3), CONV[dims](3, classes, 1)
        )

    def forward(self, x, auxiliary=False):
        feature = self.layers[:2](x)
        logits = self.layers[2](feature)
        if not auxiliary:
            return logits
        if self.auxiliary == "feature":
            return logits, feature
        if self.auxiliary == "distance":
            return logits, logits[:, 1:].tanh()
        return logits, 2 * logits  # of another decoder, level or dropout


class TinyContext(RunStageContext):
    def _build(self, model):
        auxiliary = METHODS[self.config.experiment.method].auxiliary
        return Tiny(self.dims, self.classes, auxiliary)


@pytest.mark.parametrize(
    "dataset, method",
    [
        ("LA", "edge_guided"),
        *(("LA", method) for method in TWO_SLICES),
        *(("ACDC", method) for method in METHODS if method not in ("bcp", *TWO_SLICES)),
    ],
)
def test_every_method_computes_the_same_compiled(dataset, method):
    """Every stage: passes with their losses, teachers, losses alone as whole graphs, and the next
    step needs no others. BCP's phases are the edge-guided method's.
    """
    dataset_spec = all_datasets("TWO_SLICES" if method in TWO_SLICES else "DATASET")[dataset]
    size = (16,) * dataset_spec.info.dims
    frame = BareRun(
        dataset_spec,
        CPU,
        TinyContext,
        method=method,
        patch_size=size,
        batch_size=8,
        labeled_bs=4,
        intensity=(),
    )
    for spec in METHODS[method].stages:
        phase = spec.stage(frame.context(spec))
        image = torch.rand(8 if spec.uses_unlabelled else 4, 1, *size)
        batch = {"image": image, "label": (image[:4, 0] * dataset_spec.info.classes).long()}
        assert_alike(*both_ways(phase, batch, "eager"))
        with torch._dynamo.config.patch(error_on_recompile=True):
            list(phase.losses(batch, 1))


def test_the_first_step_is_made_as_it_is():
    """A graph's memory must not hold what networks keep from their first pass, matrices of resizes
    for one.
    """
    loop, batch = runner(
        all_datasets()["ACDC"],
        CPU,
        method="supervised",
        egm="none",
        patch_size=(80, 80),
        batch_size=4,
        labeled_bs=2,
    )
    steps = []

    def forward_with_loss(x, function, *targets):
        steps.append(loop.progress.step)
        logits = loop.stage.student(x)
        return logits, function(logits, *targets)

    loop.compiled = CompiledCalls(
        {}, forward_with_loss, lambda function, *targets: function(*targets)
    )
    for _ in range(3):
        loop._train_step(batch)
    assert steps == [1, 2]


def test_a_compiler_that_loses_gradients_is_told():
    """All but the last convolution's, with the right losses, as torch 2.13.0 did in bfloat16 on the
    CPU.
    """
    loop, batch = runner(
        all_datasets()["ACDC"],
        CPU,
        method="supervised",
        egm="none",
        patch_size=(80, 80),
        batch_size=4,
        labeled_bs=2,
    )
    net = loop.stage.student

    def forward_with_loss(x, function, *targets):
        with net.decoder.out_conv.register_forward_pre_hook(
            lambda module, inputs: (inputs[0].detach(),)
        ):
            logits = net(x)
        return logits, function(logits, *targets)

    loop.compiled = CompiledCalls(
        {}, forward_with_loss, lambda function, *targets: function(*targets)
    )
    loop._train_step(batch)
    with pytest.raises(
        UserError,
        match=r"22 of 23 convolutions learn nothing \(student\.decoder\.up1.*--accelerate off",
    ):
        loop._train_step(batch)


def test_what_cannot_be_accelerated_is_told():
    with pytest.raises(
        UserError, match=r"--accelerate compile: cannot be combined with --recompute"
    ):
        check_accelerate("compile", CPU, recompute=True)
    with pytest.raises(UserError, match=r"--accelerate graph: not for cpu"):
        check_accelerate("graph", CPU, recompute=False)
    with pytest.raises(
        UserError, match=r"--accelerate compile: not with half precision on the CPU.*--amp off"
    ):
        check_accelerate("compile", CPU, recompute=False, amp=torch.bfloat16)
    check_accelerate("off", CPU, recompute=True, amp=torch.bfloat16)


@pytest.mark.parametrize("name", ["unet", "VNet"])
def test_bfloat16_stays_bfloat16_but_where_it_must_not(name):
    """Features stay in bfloat16 through the edge-guided modules; the edge map is float32; the loss
    is that of float32 to 1e-2.
    """
    phase, batch = case(name)
    seen, losses = [], []
    for module in phase.student.modules():
        if isinstance(module, EdgeGuidedBase):
            module.register_forward_hook(
                lambda module, inputs, output: seen.append(
                    (inputs[0].dtype, inputs[1].dtype, output.dtype)
                )
            )
            module.fusion_conv.register_forward_pre_hook(
                lambda module, inputs: seen.append(inputs[0].dtype)
            )
    with torch.no_grad():
        for enabled in (False, True):
            seen.clear()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses.append(step_loss(phase, batch))
    half, whole = torch.bfloat16, torch.float32
    assert len(seen) == 8 and set(seen) == {half, (half, whole, half)}
    assert losses[1].dtype == whole
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=0)
