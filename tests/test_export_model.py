"""Exported networks, run by ONNX Runtime and torch without this repository's networks."""

import json

import numpy as np
import pytest
import torch
from helpers import narrowed
from reference import fill_module
from scipy.ndimage import gaussian_filter
from scripts import main_of
from threshold import info_of, plan, write_checkpoint

import fewlabels
from commands import export_model as command
from commands import model_formats
from datasets import acdc, la, pancreas
from networks.mean import MeanOfNetworks
from networks.operations import Operation
from networks.registry import NETWORKS, build
from utils.errors import UserError

export_model = main_of("export_model")
INFO = {"unet": acdc.INFO, "VNet": la.INFO, "VNet_pancreas": pancreas.INFO}
SMALLEST = {"unet": (80, 80), "VNet": (32, 16, 16), "VNet_pancreas": (48, 32, 32)}
EDGE_GUIDED = [
    ("unet", "published"),
    ("unet", "corrected"),
    ("VNet", "published"),
    ("VNet", "corrected"),
    ("VNet_pancreas", "published"),
]
TOLERANCE = 1e-5


@pytest.fixture
def narrow_network():
    with narrowed():
        yield


def network(name, egm="none"):
    torch.manual_seed(0)
    net = build(name, 1, INFO[name].classes, {"egm": egm})
    if name == "VNet_pancreas":
        train(net, SMALLEST[name])
    else:
        fill_module(net, "")
    return net.eval()


def train(net, sides):
    """Train for a few steps: the instance norm of an untrained network amplifies rounding.

    With the weights of `fill_module`, torch in float32 differs from torch in float64 by up to 5e-5.
    """
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(5):
        image = blobs(1, sides, seed=step)
        label = (image[:, 0] > 0.5).long()
        loss = torch.nn.functional.cross_entropy(net(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def blobs(count, sides, seed):
    """Smooth random images (count, 1, ...) with noise."""
    noise = np.random.default_rng(seed).standard_normal((count, 1, *sides))
    smooth = gaussian_filter(noise, [0, 0] + [2] * len(sides))
    return torch.as_tensor(smooth / smooth.std() + 0.3 * noise, dtype=torch.float32)


def checkpoint(folder, name, egm="none", **settings):
    """A checkpoint of filled weights, and its network."""
    net = network(name, egm)
    path = folder / "model.pth"
    settings = {"model": name, "egm": egm, "patch_size": list(SMALLEST[name]), **settings}
    write_checkpoint(path, INFO[name], net, settings)
    return path, net


def other_images(name):
    """Three images whose sides differ from those of the patch."""
    return blobs(3, [side + 16 for side in SMALLEST[name]], seed=100)


def onnx_session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def onnx_difference(folder, name, egm):
    """Largest difference of a probability, for another batch of other sides."""
    pytest.importorskip("onnx")
    path, net = checkpoint(folder, name, egm)
    result = fewlabels.export_model(path, "onnx")
    images = other_images(name)
    (logits,) = onnx_session(result.file).run(["logits"], {"image": images.numpy()})
    return largest_difference(net, images, torch.as_tensor(logits))


def torchscript_difference(folder, name, egm):
    """The same of a TorchScript file."""
    path, net = checkpoint(folder, name, egm)
    result = fewlabels.export_model(path, "torchscript")
    images = other_images(name)
    with torch.no_grad():
        logits = torch.jit.load(result.file)(images)
    return largest_difference(net, images, logits)


def exported_program_difference(folder, name, egm):
    """The same of a torch.export file, for another batch of the patch's size."""
    path, net = checkpoint(folder, name, egm)
    result = fewlabels.export_model(path, "torch")
    images = blobs(3, SMALLEST[name], seed=100)
    with torch.no_grad():
        logits = torch.export.load(result.file).module()(images)
    return largest_difference(net, images, logits)


def largest_difference(net, images, logits):
    with torch.no_grad():
        expected = net(images).softmax(1)
    assert expected.std() > 0.01
    return (logits.softmax(1) - expected).abs().max()


@pytest.mark.parametrize("name, egm", EDGE_GUIDED)
def test_onnx_runtime_agrees_with_torch_with_edge_guidance(tmp_path, name, egm):
    assert onnx_difference(tmp_path, name, egm) < TOLERANCE


@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize("name", INFO)
def test_onnx_runtime_agrees_with_torch_without_edge_guidance(tmp_path, name):
    assert onnx_difference(tmp_path, name, "none") < TOLERANCE


@pytest.mark.parametrize("name, egm", EDGE_GUIDED)
def test_torchscript_agrees_with_torch_with_edge_guidance(tmp_path, name, egm):
    assert torchscript_difference(tmp_path, name, egm) < TOLERANCE


@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize("name", INFO)
def test_torchscript_agrees_with_torch_without_edge_guidance(tmp_path, name):
    assert torchscript_difference(tmp_path, name, "none") < TOLERANCE


@pytest.mark.usefixtures("narrow_network")
def test_an_exported_program_agrees_with_torch_for_another_batch(tmp_path):
    assert exported_program_difference(tmp_path, "unet", "none") < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("egm", ["published", "none"])
@pytest.mark.parametrize("name", INFO)
def test_exported_programs_of_all_networks_agree_with_torch(tmp_path, name, egm):
    assert exported_program_difference(tmp_path, name, egm) < TOLERANCE


@pytest.mark.usefixtures("narrow_network")
def test_the_mean_of_several_networks_is_exported_as_one_network():
    pytest.importorskip("onnx")
    net = MeanOfNetworks([network("unet"), build("resunet", 1, 4, {})]).eval()
    images = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    program = model_formats.program("onnx", net, images, "")
    larger = torch.randn(1, 1, 48, 32, generator=torch.Generator().manual_seed(1))
    assert largest_difference(net, larger, program.run(larger)) < TOLERANCE


@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(INFO)))
def test_torchscript_agrees_with_torch_for_the_networks_of_other_methods(tmp_path, name):
    dims = NETWORKS[name].dims
    sides = {2: (32, 48), 3: (32, 16, 16)}[dims]
    net = build(name, 1, 2, {})
    fill_module(net, "")
    path = tmp_path / "model.pth"
    info = info_of(plan(dims))
    write_checkpoint(path, info, net, {"model": name, "patch_size": list(sides)}, plan(dims))
    result = fewlabels.export_model(path, "torchscript")
    images = torch.randn(3, 1, *[side + 16 for side in sides])
    with torch.no_grad():
        logits = torch.jit.load(result.file)(images)
    assert largest_difference(net.eval(), images, logits) < TOLERANCE


def test_no_fast_operation_takes_part_in_an_export(monkeypatch):
    def fail(*arguments):
        raise AssertionError("a fast operation was called")

    net = network("unet", "published")
    images = torch.zeros(2, 1, *SMALLEST["unet"])
    for operation in Operation.all.values():
        monkeypatch.setattr(operation, "fast", fail)
    program = model_formats.program("torchscript", net, images, "")
    assert program.content


# the description in the file


def torchscript_description(path):
    files = {"fewlabels": ""}
    torch.jit.load(path, _extra_files=files)
    return json.loads(files["fewlabels"])


def own_checkpoint(path, **other):
    own_plan = plan(3, (None, 1.5, 2.0), (0, 1, 4), **other)
    info = info_of(own_plan)
    net = build("VNet", info.channels, info.classes, {"egm": "none"})
    settings = {"model": "VNet", "patch_size": [32, 16, 16]}
    write_checkpoint(path, info, net, settings, own_plan)
    return path


@pytest.mark.usefixtures("narrow_network")
def test_the_file_holds_classes_patch_size_spacing_and_normalisation(tmp_path):
    path = own_checkpoint(tmp_path / "own.pth", channels=("MR", "T2"))
    result = fewlabels.export_model(path, "torchscript")
    content = torchscript_description(result.file)
    assert content == result.description
    assert content["format"] == "fewlabels-model/1"
    assert content["classes"] == ["background", "organ 1", "organ 4"]
    assert content["label_values"] == [0, 1, 4]
    assert content["input"]["axes"] == ["batch", "channel", "x", "y", "z"]
    assert content["input"]["channel_names"] == ["MR", "T2"]
    assert content["input"]["patch_size"] == [32, 16, 16]
    assert content["input"]["spacing_mm"] == [None, 1.5, 2.0]
    assert content["input"]["orientation"] == "RAS"
    assert content["input"]["steps"] == (
        "axes turned to RAS; MR: (v - mean) / standard deviation over the volume; "
        "T2: (v - mean) / standard deviation over the volume; "
        "y resampled to 1.5 mm; z resampled to 2 mm"
    )


@pytest.mark.usefixtures("narrow_network")
def test_an_exported_program_has_its_description_as_an_extra_file(tmp_path):
    path, _ = checkpoint(tmp_path, "unet")
    result = fewlabels.export_model(path, "torch")
    files = {"fewlabels": ""}
    torch.export.load(result.file, extra_files=files)
    assert json.loads(files["fewlabels"]) == result.description


@pytest.mark.usefixtures("narrow_network")
def test_metadata_of_an_onnx_file_are_its_description_and_opset(tmp_path):
    pytest.importorskip("onnx")
    path, _ = checkpoint(tmp_path, "unet")
    result = fewlabels.export_model(path, "onnx")
    session = onnx_session(result.file)
    metadata = session.get_modelmeta().custom_metadata_map
    content = json.loads(metadata["fewlabels"])
    assert content == result.description
    assert content["opset"] == 17
    assert content["input"]["steps"] == "(v - min) / (max - min) over the volume; not resampled"
    assert [node.shape for node in session.get_inputs()] == [["batch", 1, "side_1", "side_2"]]


@pytest.mark.usefixtures("narrow_network")
def test_a_published_checkpoint_is_exported_with_the_name_of_its_data_set(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(network("VNet_pancreas").state_dict(), path)
    result = fewlabels.export_model(
        path, "torchscript", dataset="Pancreas", variant="mcnet", patch_size=(48, 32, 32)
    )
    assert result.description["preparation"]["variant"] == "mcnet"


@pytest.mark.usefixtures("narrow_network")
def test_the_steps_end_with_the_z_score_that_reading_applies(tmp_path):
    path = tmp_path / "kits.pth"
    torch.save(build("VNet", 1, 2, {"egm": "none"}).state_dict(), path)
    result = fewlabels.export_model(
        path, "torchscript", dataset="KiTS19", size=(64, 64, 32), patch_size=(32, 16, 16)
    )
    assert result.description["input"]["steps"] == (
        "HU from -160 to 240 to 0..1; 0 outside the body; crop to the body and the labelled slices; "
        "resized to 64 x 64 x 32 (x, y, z); "
        "each channel: (v - mean) / standard deviation over the volume"
    )


@pytest.mark.usefixtures("narrow_network")
def test_exported_labels_are_those_of_predict(tmp_path):
    """A caller who follows the description gets the same labels as with this repository."""
    path, _ = checkpoint(tmp_path, "unet")
    result = fewlabels.export_model(path, "torchscript")
    scan = np.random.default_rng(0).integers(0, 500, (80, 80, 3)).astype(np.int16)
    expected = fewlabels.load_model(path, "cpu", amp="off").predict(
        scan, (1.5, 1.5, 8.0), progress=False
    )
    scaled = (scan - scan.min()) / (scan.max() - scan.min())
    slices = torch.as_tensor(scaled.transpose(2, 1, 0)[:, None].astype(np.float32))
    with torch.no_grad():
        labels = torch.jit.load(result.file)(slices).argmax(1).numpy().transpose(2, 1, 0)
    assert (labels == expected.labels).mean() > 0.9999


# what the user can correct


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(model_formats.PACKAGES, "onnx", ("no_such_package",))
    with pytest.raises(
        UserError,
        match=r"^--format onnx: the package no_such_package is not installed; "
        r"run pip install no_such_package, or choose another --format$",
    ):
        fewlabels.export_model(tmp_path, "onnx")


def test_a_path_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such run; give a run's folder"):
        fewlabels.export_model(tmp_path / "nowhere", "torchscript")


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"invalid choice 'onxx' for argument '--format'"):
        export_model([str(tmp_path), "--format", "onxx"])


@pytest.mark.usefixtures("narrow_network")
def test_an_existing_file_is_kept_unless_overwrite_is_given(tmp_path):
    path, _ = checkpoint(tmp_path, "unet")
    output = tmp_path / "model.pt"
    output.write_text("mine")
    with pytest.raises(UserError, match=r"model\.pt: exists; .* --overwrite"):
        fewlabels.export_model(path, "torchscript")
    assert output.read_text() == "mine"
    fewlabels.export_model(path, "torchscript", overwrite=True)
    assert torchscript_description(output)["network"] == "UNet"


@pytest.mark.usefixtures("narrow_network")
def test_the_checkpoint_itself_is_not_overwritten(tmp_path):
    path, _ = checkpoint(tmp_path, "unet")
    with pytest.raises(UserError, match="the checkpoint to export itself"):
        fewlabels.export_model(path, "torchscript", path, overwrite=True)


@pytest.mark.usefixtures("narrow_network")
def test_a_patch_that_the_network_cannot_take_is_refused(tmp_path):
    path, _ = checkpoint(tmp_path, "unet")
    with pytest.raises(UserError, match="multiples of 16"):
        fewlabels.export_model(path, "torchscript", patch_size=(80, 81))


@pytest.mark.usefixtures("narrow_network")
def test_a_network_that_predicts_otherwise_is_not_written(tmp_path, monkeypatch):
    path, _ = checkpoint(tmp_path, "unet")
    wrong = model_formats.Program(b"", lambda images: torch.ones(1, 4, *images.shape[2:]))
    monkeypatch.setattr(command, "program", lambda *arguments: wrong)
    with pytest.raises(UserError, match=r"different probabilities .* nothing was written"):
        fewlabels.export_model(path, "torchscript")
    assert not (tmp_path / "model.pt").exists()
