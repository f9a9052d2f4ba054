"""Checkpoints that are damaged or forged: one line each, the one before is taken, and the good one
is never overwritten.
"""

import copy

import pytest
import torch
from helpers import Context, assert_same
from torch import nn

from commands.networks import load_network
from commands.run_data import RunData
from datasets.acdc import DATASET
from methods.edge_guided import DualTeacher
from training.checkpoint import FORMAT, Store, load, read, save
from training.checkpoint_content import check_fits
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow")

WEIGHT = "0.weight"


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


class Made:
    """A stage of two steps with a tiny network, and what a checkpoint of it holds after each of
    them.
    """

    def __init__(self) -> None:
        self.stage = DualTeacher(Context(network()))
        self.optimizer = torch.optim.SGD(
            self.stage.student.parameters(), 0.1, momentum=0.9, weight_decay=1e-4
        )
        self.steps, self.history, self.contents = 2, [], []
        for step in (1, 2):
            self.stage.student(torch.ones(2, 1, 5, 5)).square().sum().backward()
            self.optimizer.step()
            self.history.append({"step": step, "score": 0.25, "loss": 1.0})
            self.contents.append(copy.deepcopy(self.content(step)))

    @property
    def optimizers(self):
        return {"student": self.optimizer}

    def content(self, step):
        return {
            "format": FORMAT, "settings": {"patch_size": [32, 32], "model": "unet"}, "facts": DATASET.info.plain(), "selection": "best",
            "data": {}, "stage": "self_train", "losses": [], "student": self.stage.student.state_dict(), "phase": self.stage.state_dict(),
            "progress": {"step": step, "validated": step, "best_score": 0.25, "best_step": 1, "history": list(self.history)},
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def fits(self, checkpoint):
        check_fits(checkpoint, self)

    def store(self, folder):
        """The stage's folder after both steps."""
        store = Store(folder / "self_train", "best.pth", {}, {})
        for content in self.contents:
            store.save(content, best=content is self.contents[0])
        return store


@pytest.fixture(scope="module")
def made():
    return Made()


def at(content, path):
    """The container that holds the last of the keys, and that key."""
    *way, last = path
    for key in way:
        content = content[key]
    return content, last


def put(*path):
    """Put a value, the last of the arguments, to a place."""
    *path, value = path

    def change(content):
        container, key = at(content, path)
        container[key] = value(container[key]) if callable(value) else value

    return change


def drop(*path):
    def change(content):
        container, key = at(content, path)
        del container[key]

    return change


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def itself(content):
    content["phase"]["loop"] = content["phase"]


PARTS = (
    "settings",
    "facts",
    "stage",
    "selection",
    "progress",
    "losses",
    "student",
    "phase",
    "optimizer",
)
FORGED = {
    **{f"without {key}": drop(key) for key in PARTS},
    **{f"{key} a number": put(key, 3) for key in PARTS},
    "validated network gone": put("selected", "nobody"),
    "validated network a list": put("selected", ["student"]),
    "validated mean of nothing": put("selected", "mean"),
    "validated mean of nobody": lambda content: content.update(selected="mean", models={"student": "", "nobody": ""}),
    "network names of lists": put("models", {"student": ["unet"]}),
    "other optimisers a number": put("other_optimizers", 3),
    "another stage": put("stage", "pre_train"),
    "no data set": put("facts", {}),
    "patch of words": put("settings", "patch_size", "large"),
    "model a list": put("settings", "model", ["unet"]),
    "step -1": put("progress", "step", -1),
    "step a word": put("progress", "step", "2"),
    "step beyond the stage": put("progress", {"step": 9, "validated": 9, "best_step": 1, "best_score": 0.5, "history": []}),
    "validated after the step": put("progress", "validated", 9),
    "best score NaN": put("progress", "best_score", float("nan")),
    "no history": drop("progress", "history"),
    "history of words": put("progress", "history", ["a"]),
    "history backwards": put("progress", "history", lambda rows: rows[::-1]),
    "more progress": put("progress", "hope", 1),
    "losses of words": put("losses", ["low"]),
    "too many losses": put("losses", [1.0]),
    "a weight gone": drop("student", WEIGHT),
    "a weight more": put("student", "more", torch.ones(1)),
    "a weight of words": put("student", WEIGHT, "heavy"),
    "a weight of another shape": put("student", WEIGHT, lambda x: x[:3]),
    "a weight NaN": put("student", WEIGHT, lambda x: x * float("nan")),
    "a weight infinite": put("student", WEIGHT, lambda x: x / 0),
    "a weight double": put("student", WEIGHT, lambda x: x.double()),
    "a weight complex": put("student", WEIGHT, lambda x: x.to(torch.complex64)),
    "a weight in eight bits": put("student", WEIGHT, lambda x: x.to(torch.float8_e4m3fn)),
    "a weight in complex halves": put("student", WEIGHT, torch.zeros(2, dtype=torch.complex32)),
    "a weight nested": put("student", WEIGHT, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    "a weight nested, jagged": put("student", WEIGHT, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)),
    "a weight quantised": put("student", WEIGHT, lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
    "step of a thousand digits": put("progress", "step", 10**1000),
    "best score of ten thousand digits": put("progress", "best_score", 10**10000),
    "seed of a thousand digits": put("settings", "seed", 10**1000),
    "a key of a thousand digits": put("settings", 10**1000, 1),
    "settings in themselves": lambda content: put("settings", "all", content["settings"])(content),
    "facts in themselves": lambda content: put("facts", "all", [content["facts"]])(content),
    "a history in itself": lambda content: content["progress"]["history"].append(content["progress"]["history"]),
    "settings a hundred deep": put("settings", "deep", deep(100)),
    "a weight sparse": put("student", WEIGHT, lambda x: x.to_sparse()),
    "a weight of a petabyte": put("student", WEIGHT, torch.zeros(1).expand(2**48)),
    "a teacher gone": drop("phase", "ema_teacher"),
    "a teacher's weight gone": drop("phase", "static_teacher", WEIGHT),
    "a teacher NaN": put("phase", "ema_teacher", WEIGHT, lambda x: x * float("nan")),
    "a teacher of words": put("phase", "ema_teacher", "me"),
    "interval -1": put("phase", "interval", -1),
    "interval a word": put("phase", "interval", "long"),
    "counter gone": drop("phase", "counter"),
    "something more": put("phase", "more", 1),
    "itself inside": itself,
    "optimiser without groups": drop("optimizer", "param_groups"),
    "optimiser without state": put("optimizer", "state", {}),
    "optimiser of fewer parameters": put("optimizer", "param_groups", 0, "params", [0, 1]),
    "optimiser of another momentum": put("optimizer", "param_groups", 0, "momentum", 0.5),
    "momentum of another shape": put("optimizer", "state", 0, "momentum_buffer", torch.ones(2)),
    "momentum NaN": put("optimizer", "state", 0, "momentum_buffer", lambda x: x * float("nan")),
    "momentum of a parameter that is not": put("optimizer", "state", lambda state: {**state, 10**6: state[0]}),
    "momentum of Adam": put("optimizer", "state", 0, {"step": torch.tensor(1.0)}),
    "another version": put("format", "edge-guided-copy-paste/2"),
    "another format": put("format", ["x"]),
}  # fmt: skip
UNUSED = (
    *(
        "another stage",
        "step beyond",
        "a teacher gone",
        "a teacher's",
        "a teacher of",
        "interval",
        "counter",
        "something more",
    ),
    *("optimiser", "momentum of"),
)


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_checkpoint_is_one_line_and_the_one_before_is_taken(how, made, tmp_path):
    store = made.store(tmp_path)
    forged = copy.deepcopy(made.contents[1])
    FORGED[how](forged)
    torch.save(forged, store.last)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    said = []
    found = store.resume(said.append, made.fits)
    assert found.path == store.previous and found.progress["step"] == 1
    (line,) = said
    assert line.startswith(f"warning: {store.last}: ") and line.isprintable() and len(line) < 500, (
        line
    )
    store.save(made.contents[1], best=False)  # it goes nowhere near the good ones
    assert (
        store.previous.read_bytes() == before["previous.pth"]
        and store.best.read_bytes() == before["best.pth"]
    )
    assert store.last.with_name("last.pth.damaged").read_bytes() == before["last.pth"]
    assert store.resume(said.append, made.fits).progress["step"] == 2 and len(said) == 1


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_checkpoint_is_one_line_for_whoever_wants_its_network(how, made, tmp_path):
    """As test, prediction and export do; what they have no use for may be anything that could be
    loaded.
    """
    forged = copy.deepcopy(made.contents[1])
    FORGED[how](forged)
    torch.save(forged, tmp_path / "x.pth")
    try:
        load_network(network(), read(tmp_path / "x.pth"))
    except UserError as error:
        assert (
            str(error).startswith(str(tmp_path / "x.pth"))
            and str(error).isprintable()
            and len(str(error)) < 500
        ), error
    else:
        assert how.startswith(UNUSED), how


def test_a_single_flipped_bit_in_a_weight_is_told(tmp_path):
    """torch looks at no checksum: it loaded a wrong weight without a word."""
    path = tmp_path / "x.pth"
    torch.save({"weight": torch.ones(4096)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x.pth: damaged, or not a PyTorch checkpoint"):
        load(path)


def test_no_good_checkpoint_at_all_changes_nothing(made, tmp_path):
    store = made.store(tmp_path)
    for path in store.folder.iterdir():
        FORGED["a weight NaN"](forged := copy.deepcopy(made.contents[1]))
        torch.save(forged, path)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    with pytest.raises(
        UserError,
        match=r"last.pth: not usable, 'student.0.weight' holds NaN .*; no other file here",
    ):
        store.resume(fits=made.fits)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before


@pytest.mark.parametrize(
    "key, value", [("class_names", ["background", "a"]), ("axes", "xyz"), ("channels", 3)]
)
def test_a_checkpoint_of_other_facts_is_another_runs(made, tmp_path, key, value):
    run = RunData(DATASET.info.plain(), None, {}, {}, (), other=False)
    content = copy.deepcopy(made.contents[0])
    content["facts"][key] = value
    save(tmp_path / "last.pth", content)
    with pytest.raises(UserError, match=rf"trained on other data \({key} .*--exp"):
        run.check(read(tmp_path / "last.pth"))
    del content["facts"][key]  # as an older one has it
    save(tmp_path / "last.pth", content)
    run.check(read(tmp_path / "last.pth"))
    save(tmp_path / "last.pth", content | {"plan": {"version": 1}})
    with pytest.raises(UserError, match="prepared with different settings"):
        run.check(read(tmp_path / "last.pth"))


def test_the_first_save_on_a_full_disk_speaks_of_no_earlier_checkpoint(tmp_path, monkeypatch):
    def full(content, file):
        raise OSError(28, "No space left on device")

    save(tmp_path / "there.pth", {"x": 1})
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError, match=r"first.pth: could not be written \(No space left on device\); free space"
    ):
        save(tmp_path / "first.pth", {"x": 1})
    with pytest.raises(UserError, match="the earlier checkpoint is intact"):
        save(tmp_path / "there.pth", {"x": 1})


def test_a_published_checkpoint_that_is_no_number_or_of_another_type_is_told(made, tmp_path):
    """The test printed a table of zeros."""
    weights, path = made.contents[0]["student"], tmp_path / "published.pth"
    for value, says in (
        (weights[WEIGHT] * float("nan"), "'0.weight' holds NaN or infinite.*diverged"),
        (weights[WEIGHT].half(), r"'0.weight' holds torch.float16, expected torch.float32"),
    ):
        for content in ({**weights, WEIGHT: value}, {"net": {**weights, WEIGHT: value}}):
            torch.save(content, path)
            with pytest.raises(UserError, match=says):
                load_network(network(), read(path))
    torch.save(weights, path)
    load_network(net := network(), read(path))
    assert_same(dict(net.state_dict()), dict(weights))
