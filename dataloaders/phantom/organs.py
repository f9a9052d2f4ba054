"""Synthetic organs like those of the public 3-D data sets.

An atrium in MR; a pancreas, kidneys and a liver in CT. Lengths are mm in a scene whose origin is
the volume's centre: x to the patient's left, y to the back, z to the head. The organ lies among
others of nearly the same intensity, so intensity is not enough to segment it. Every function paints
the scene and returns the label (uint8, the image's shape); the random numbers come from the scene's
generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from dataloaders.phantom.paint import Scene, Vector, bias, curve, merged, rician
from utils.label_maps import largest_component


def _by(place: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """The point (or points) `place` moved by x, y and z mm."""
    return place + np.array([x, y, z])


def _mask(inside: np.ndarray) -> np.ndarray:
    """The largest component of a solid; on a coarse grid thin parts may break off."""
    return largest_component(inside > 0, 6)


def _chamber(
    scene: Scene, inside: np.ndarray, wall: float, tissue: float, blood: np.ndarray | float
) -> None:
    scene.paint(inside + wall, tissue)
    scene.paint(inside, blood)


def atrium(scene: Scene) -> np.ndarray:
    """Late-gadolinium MR of the left atrium, z-scored.

    0 background, 1 cavity with the roots of its veins and the appendage.
    """
    rng = scene.rng
    u = rng.uniform
    wall = u(0.4, 0.62)
    scar = u(0.95, 1.25)
    blood = scene.textured(u(0.66, 0.8), 14, 0.04)
    scene.image[:] = scene.textured(u(0.18, 0.42), 12, 0.3)
    at = np.array([u(-4, 4), u(-3, 5), u(0, 3)])
    half = np.array([u(27, 33), u(16, 20), u(21.5, 23.5)])
    # lungs on both sides and spine behind
    for side in (-1, 1):
        lung = scene.ellipsoid(
            (side * u(62, 72), u(28, 42), u(-10, 10)), (u(30, 38), u(34, 42), 70), bumps=0.06
        )
        scene.paint(lung, scene.textured(u(0.05, 0.12), 8, 0.3), 1.5)
    spine = scene.ellipsoid(
        (u(-12, -2), at[1] + half[1] + u(23, 27), 0), (u(17, 21), u(15, 18), 90), power=2.6
    )
    scene.paint(spine + 2.5, u(0.3, 0.5))
    scene.paint(spine, scene.textured(u(0.08, 0.2), 9, 0.2))
    # the other blood of the heart: intensity as in the atrium, a thin wall between
    muscle = u(0.12, 0.3)
    ventricle = scene.ellipsoid(
        _by(at, u(16, 24), -half[1] - u(17, 22), u(-18, -8)),
        (u(22, 27), u(20, 24), u(26, 32)),
        bumps=0.05,
    )
    _chamber(scene, ventricle, u(7, 10), muscle, blood * u(0.94, 1.06))
    right = scene.ellipsoid(
        _by(at, -half[0] - u(0, 6), -half[1] - u(4, 9), u(-12, -4)),
        (u(16, 21), u(15, 20), u(22, 28)),
        bumps=0.08,
    )
    _chamber(scene, right, 1.8, wall, blood * u(0.94, 1.06))
    root = np.array([at[0] + u(-14, -6), at[1] - half[1] - u(11, 15), 0])
    for start, end, radius in (
        (_by(root, 8, 0, -16), _by(root, -6, -3, 50), u(11, 13.5)),  # ascending aorta
        (_by(root, 24, -8, -2), _by(root, 34, 8, 40), u(9, 12)),  # pulmonary artery
        (
            (at[0] + u(20, 26), at[1] + half[1] + u(12, 15), -60),
            (at[0] + u(16, 24), at[1] + half[1] + u(12, 15), 60),
            u(9, 11.5),
        ),
    ):
        vessel = scene.tube(np.array([start, end], float), (radius, radius))
        _chamber(scene, vessel, 1.8, wall, blood * u(0.94, 1.06))
    body = scene.ellipsoid(at, half, rng.normal(0, (0.06, 0.1, 0.12)), bumps=0.035)
    ear = _by(at, half[0] * u(0.75, 0.9), -half[1] * u(0.6, 0.9), u(0, 6))
    appendage = scene.tube(
        curve([at, ear, _by(ear, u(4, 9), -u(6, 12), u(-2, 6))], 5),
        np.linspace(u(9, 11), u(4, 6), 5),
    )
    cavity = merged(body, appendage, 4)
    vein = np.full_like(cavity, -np.inf)
    for side in (-1, 1):
        for height, rise in ((u(6, 9), u(0, 5)), (u(-9, -3), u(-6, 2))):
            mouth = _by(at, side * half[0] * u(0.62, 0.72), half[1] * u(0.15, 0.4), height)
            outside = _by(mouth, side * u(42, 52), u(14, 26), rise * 3)
            bend = _by(mouth, side * 22, u(0, 4), rise)
            tube = scene.tube(curve([mouth, bend, outside], 5), np.full(5, u(4.6, 6.4)))
            vein = np.maximum(vein, tube)
    # readers annotate a vein for about a centimetre; its blood continues without a border
    roots = np.minimum(vein, scene.ellipsoid(at, half + u(9, 13), power=2.5))
    label = _mask(merged(cavity, roots, 3))
    cavity = merged(cavity, vein, 3)
    around = cavity + u(1.8, 2.6)
    is_scar = scene.field(16) > u(0.5, 1.3)
    scene.paint(around, np.where(is_scar, scar, wall).astype(np.float32))
    scene.paint(cavity, blood)
    image = scene.blurred(u(0.5, 0.8)) * bias(
        rng.normal(0, 0.1, 9), scene.x / 60, scene.y / 60, scene.z / 60
    )
    image = rician(rng, image, u(0.05, 0.1))
    scene.image = ((image - image.mean()) / image.std()).astype(np.float32)
    return label.astype(np.uint8)


def _hounsfield(scene: Scene, window: tuple[float, float]) -> None:
    """Turn the scene into a CT image: `window` (lowest, highest HU) is scaled to 0..1."""
    image = scene.blurred(scene.rng.uniform(0.6, 1.1))
    # the noise of CT has a grain, that of thick slices is less
    image += (
        scene.rng.uniform(13, 22)
        * (scene.field(6) + scene.rng.standard_normal(image.shape))
        / np.sqrt(2)
    )
    low, high = window
    scene.image = np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def _abdomen(scene: Scene, half: Sequence[float], vessels: float) -> np.ndarray:
    """A trunk in air, HU: fat, muscle, ribs, spine, gut, great vessels (`vessels` HU).

    Returns `inside` of the space that remains for organs.
    """
    u = scene.rng.uniform
    scene.image[:] = -1000
    trunk = scene.ellipsoid((0, 0, 0), (*half[:2], 1e4), power=2.4)
    scene.paint(trunk, scene.textured(-100, 20, 0.08))
    inner = trunk - u(10, 18)
    scene.paint(inner, scene.textured(u(52, 70), 15, 0.12))
    cavity = inner - u(9, 13)
    angle = np.arctan2(scene.y, np.abs(scene.x))
    ribs = np.minimum(6 - np.abs(inner - 7), 9 * np.cos(8 * angle + scene.z / 9 + u(0, 6)) - 4)
    scene.paint(ribs, u(230, 330))
    scene.paint(cavity, scene.textured(-95, 20, 0.1))
    back = 0.5 * half[1]
    for side in (-1, 1):
        psoas = scene.tube(
            np.array([(side * u(30, 36), back + 4, 40), (side * u(40, 48), back + 2, -160)]),
            (8, 24),
        )
        scene.paint(np.minimum(psoas, cavity + 3), u(50, 62))
    spine = scene.ellipsoid((0, back + 18, 0), (24, 22, 1e4), power=2.6)
    scene.paint(spine, scene.textured(u(150, 210), 9, 0.25))
    scene.paint(spine - 19, 30)
    for x, hu in ((u(8, 14), vessels), (-u(14, 20), vessels * u(0.75, 0.95))):
        scene.paint(
            scene.tube(
                np.array([(x, back - 14, -300), (x + u(-4, 4), back - 14, 300)], float), (10, 11)
            ),
            hu,
        )
    free = np.minimum(cavity - 3, -scene.ellipsoid((-3, back + 4, 0), (36, 40, 1e4), power=3))
    for _ in range(7):
        place = (u(-0.5, 0.6) * half[0], u(-0.72, 0.1) * half[1], u(-0.9, 0.5) * half[2])
        gut = np.minimum(scene.ellipsoid(place, u(14, 30, 3), u(-1, 1, 3), bumps=0.08), free)
        scene.paint(gut, u(40, 120))
        scene.paint(gut - 4, scene.textured(u(0, 90), 10, 0.2))
    return free


def _lesion(
    scene: Scene,
    where: Vector,
    radius: float,
    hu: float,
    within: np.ndarray | float = np.inf,
) -> np.ndarray:
    lesion = np.minimum(
        scene.ellipsoid(where, radius * scene.rng.uniform(0.85, 1.15, 3), bumps=0.06), within
    )
    scene.paint(lesion, scene.textured(hu, 7, 0.15), 1.5)
    return lesion > 0


def kidneys(scene: Scene) -> np.ndarray:
    """CT of the upper abdomen, window -160..240 HU.

    0 background, 1 kidney (two, bean-shaped), 2 tumour (in three of four cases).
    """
    rng = scene.rng
    u = rng.uniform
    bright = u(150, 200)
    free = _abdomen(scene, (u(152, 168), u(104, 114), 100), u(170, 230))
    liver = scene.ellipsoid((-78, u(-30, -20), 72), (u(70, 82), u(62, 72), u(62, 80)), bumps=0.04)
    spleen = scene.ellipsoid(
        (u(92, 102), u(10, 22), u(58, 72)), (u(26, 34), u(34, 42), u(36, 48)), bumps=0.05
    )
    for organ, hu in ((liver, u(95, 135)), (spleen, bright * u(0.75, 0.95))):
        scene.paint(np.minimum(organ, free), scene.textured(hu, 10, 0.06))
    label = np.zeros(scene.image.shape, np.uint8)
    sick = 0
    if u() < 0.75:
        sick = rng.choice((-1, 1))
    for side in (-1, 1):
        # both reach over the middle of the volume in y and z: that is where a slice is annotated by
        # default
        at = np.array([side * u(62, 70), u(8, 13), u(-10, 10)])
        half = np.array([u(23, 27), u(26, 31), u(48, 58)])
        turn = (u(-0.12, 0.12), side * u(0.1, 0.25), side * u(0, 0.4))
        bean = scene.ellipsoid(at, half, turn, bumps=0.025)
        hilum = at + Rotation.from_rotvec(turn).apply((-side * half[0], -5, 0))
        bean = np.minimum(bean, -scene.ellipsoid(hilum, (13, 11, 20), turn))
        fat = scene.ellipsoid(at, half + 14)  # around the kidney
        scene.paint(fat, scene.textured(-98, 15, 0.08), 2)
        artery = scene.tube(np.array([(0, 0.4 * at[1] + 22, at[2]), hilum]), (4, 5))
        scene.paint(artery, bright)
        scene.paint(bean, scene.textured(bright, 10, 0.07))
        pelvis = scene.ellipsoid(_by(hilum, side * 9, 2, 0), (9, 8, u(18, 26)), turn)
        scene.paint(np.minimum(pelvis, bean - 5), bright * u(0.6, 0.75), 2)
        label[_mask(bean)] = 1
        if side == sick:
            radius = u(12, 24)
            outward = Rotation.from_rotvec(turn).apply(
                (side * half[0] * u(0.3, 0.9), -half[1] * u(-0.3, 0.5), half[2] * u(-0.6, 0.6))
            )
            label[_lesion(scene, at + outward, radius, bright * u(0.45, 0.8))] = 2
    _hounsfield(scene, (-160, 240))
    return label


def liver(scene: Scene) -> np.ndarray:
    """CT of the upper abdomen, window -100..200 HU.

    0 background, 1 liver, 2 tumour (none to four).
    """
    rng = scene.rng
    u = rng.uniform
    hu = u(75, 115)
    vessels = hu * u(1.25, 1.6)
    free = _abdomen(scene, (u(152, 166), u(106, 114), 110), vessels)
    for place, half, value in (
        (
            (u(70, 82), u(-35, -20), u(5, 25)),
            (u(38, 46), u(32, 42), u(48, 60)),
            hu * u(0.6, 1),
        ),  # stomach
        (
            (u(94, 104), u(24, 36), u(0, 20)),
            (u(26, 32), u(34, 42), u(40, 52)),
            hu * u(0.95, 1.2),
        ),  # spleen
        (
            (u(60, 68), u(36, 44), u(-70, -50)),
            (u(22, 26), u(24, 28), u(46, 54)),
            hu * u(1, 1.4),
        ),  # left kidney
    ):
        scene.paint(
            np.minimum(scene.ellipsoid(place, half, bumps=0.05), free),
            scene.textured(value, 10, 0.06),
        )
    at = np.array([u(-68, -60), u(-6, 4), u(0, 10)])
    half = np.array([u(66, 76), u(80, 88), u(66, 78)])
    right = scene.ellipsoid(at, half, rng.normal(0, 0.1, 3), bumps=0.03, power=2.3)
    left = scene.ellipsoid(
        _by(at, u(62, 76), -u(34, 44), u(12, 22)),
        (u(52, 64), u(26, 34), u(30, 42)),
        (0, u(0, 0.3), u(0, 0.3)),
        bumps=0.05,
    )
    below = scene.ellipsoid(
        _by(at, u(36, 48), u(28, 40), -u(62, 76)), (u(50, 60), u(44, 54), u(48, 60)), bumps=0.05
    )
    # everything inside the ribs, hollow where the kidney and the gut lie below it
    inside = np.minimum(np.minimum(merged(right, left, 14), -below - 2), free)
    organ = _mask(inside)
    scene.paint(inside, scene.textured(hu, 12, 0.04))
    kidney = scene.ellipsoid(
        _by(at, u(4, 10), u(44, 52), -u(62, 70)), (u(22, 26), u(24, 28), u(38, 46)), bumps=0.03
    )
    scene.paint(np.minimum(kidney, -inside - 2), scene.textured(hu * u(1.2, 1.6), 9, 0.06))
    gate = _by(at, u(28, 36), u(-6, 6), u(-14, -4))
    for _ in range(5):
        twig = curve([gate, gate + rng.normal(0, 30, 3), at + 0.75 * half * u(-1, 1, 3)], 5)
        scene.paint(np.minimum(scene.tube(twig, np.linspace(u(5, 7), 1.5, 5)), inside - 2), vessels)
    label = organ.astype(np.uint8)
    for _ in range(rng.integers(0, 5)):
        place = at + 0.6 * half * u(-1, 1, 3)
        radius = u(7, 22)
        tumour_hu = hu * 1.35
        if u() < 0.85:
            tumour_hu = hu * u(0.4, 0.8)
        lesion = _lesion(scene, place, radius=radius, hu=tumour_hu, within=inside)
        label[lesion & organ] = 2
    _hounsfield(scene, (-100, 200))
    return label


def pancreas(scene: Scene) -> np.ndarray:
    """CT around the pancreas, window -125..275 HU: 0 background, 1 pancreas."""
    u = scene.rng.uniform
    hu = u(80, 120)

    def near() -> float:
        """HU of a neighbour that is hard to distinguish from the pancreas."""
        return hu * u(0.88, 1.12)

    scene.image[:] = scene.textured(-98, 16, 0.1)
    at = u(-4, 4, 3)
    head = _by(at, -u(28, 33), u(0, 8), -u(12, 20))
    tail = _by(at, u(34, 40), u(10, 20), u(12, 22))
    line = curve(
        [
            head,
            _by(at, -u(22, 30), -u(20, 32), u(0, 8)),
            _by(at, u(0, 16), -u(16, 28), u(-4, 10)),
            tail,
        ],
        13,
    )
    t = np.linspace(0, 1, 13)
    thick = (
        u(12, 15) * (1 - t) ** 2
        + u(7.5, 9.5) * 2 * t * (1 - t)
        + u(8, 10.5) * t**2
        + u(0, 2) * np.sin(np.pi * t) ** 2
    )
    hook = scene.tube(
        curve([head, _by(head, 4, 6, -12), _by(head, u(12, 18), 6, -u(12, 16))], 4), (12, 10, 8, 6)
    )
    inside = merged(scene.tube(line, thick), hook, 4) + scene.field(11)  # lobules
    # what lies around it: liver, stomach, bowel, spleen, left kidney, muscle and spine
    spine = scene.ellipsoid(_by(at, 0, u(58, 66), 0), (u(20, 24), u(20, 24), 200), power=2.6)
    for place, half, value in (
        ((-u(62, 72), u(-30, -10), u(14, 34)), (u(34, 42), u(42, 54), u(40, 52)), near()),
        ((u(14, 34), -u(44, 54), u(12, 30)), (u(34, 44), u(20, 27), u(26, 36)), u(30, 70)),
        ((u(60, 70), u(26, 40), u(20, 36)), (u(18, 24), u(24, 32), u(26, 36)), near()),
        ((u(34, 42), u(46, 54), -u(16, 30)), (u(20, 24), u(22, 26), u(38, 46)), hu * u(1.3, 1.7)),
        ((-u(34, 42), u(46, 54), -u(24, 40)), (u(20, 24), u(22, 26), u(38, 46)), hu * u(1.3, 1.7)),
    ):
        scene.paint(scene.ellipsoid(at + place, half, bumps=0.05), scene.textured(value, 10, 0.06))
    for _ in range(9):
        loop = _by(at, u(-50, 62), u(-60, 30), u(-66, 0))
        bowel = scene.ellipsoid(loop, u(9, 20, 3), u(-1, 1, 3), bumps=0.08)
        scene.paint(bowel, near())
        scene.paint(bowel - u(3, 6), scene.textured(u(20, 90), 8, 0.2))
    scene.paint(spine, scene.textured(u(150, 210), 9, 0.25))
    duodenum = curve(
        [
            _by(head, -12, -10, 26),
            _by(head, -24, 0, 4),
            _by(head, -16, 6, -20),
            _by(head, 24, 14, -26),
        ],
        7,
    )
    scene.paint(scene.tube(duodenum, np.full(7, u(8, 10))), near(), 1)
    scene.paint(inside, scene.textured(hu, 7, 0.08), 1)
    # vessels that touch it: splenic vein along its back, mesenteric vessels behind the neck, aorta
    # and cava
    vein = u(130, 180)
    scene.paint(scene.tube(_by(line[4:], 0, thick.mean() + 1.5, 2), np.full(9, u(3, 4.2))), vein)
    for x, y, radius in ((-6, 9, 4.8), (5, 11, 3.8), (9, 34, 9), (-14, 33, 10)):
        start = _by(at, x + u(-2, 2), y + u(-1, 2), -200)
        length = 190 if y < 20 else 400
        end = _by(start, u(-4, 4), 0, length)
        vessel = scene.tube(np.array([start, end]), (radius, radius))
        scene.paint(vessel, vein * u(0.9, 1.3))
    label = _mask(inside)
    _hounsfield(scene, (-125, 275))
    return label.astype(np.uint8)


@dataclass(frozen=True)
class Recipe:
    """How a data set is imitated.

    `axes`: order of its arrays' axes. `case`: pattern of the cases' names. `draw`: paints a scene
    and returns its label. `field`, `size`: field of view (mm) and default size (voxels) per array
    axis. `vary`: how much the size changes from case to case, as a share of it (the published LA
    scans share their depth). `warp`: standard deviation (mm) of the displacements that bend the
    scene. `is_mr`: the CT phantoms imitate the windowed images of public preparations, which no
    scanner writes.
    """

    axes: str
    case: str
    draw: Callable[[Scene], np.ndarray]
    field: tuple[float, float, float]
    size: tuple[int, int, int]
    vary: tuple[float, float, float]
    warp: float
    is_mr: bool = False


RECIPES = {
    "LA": Recipe(
        "xyz",
        "phantom{:03d}",
        atrium,
        (120, 110, 70),
        (96, 96, 56),
        (0.08, 0.08, 0),
        1.6,
        is_mr=True,
    ),
    "Pancreas": Recipe("xyz", "{:04d}", pancreas, (130, 130, 130), (96, 96, 96), (0, 0, 0), 2.5),
    "KiTS19": Recipe("zyx", "case_{:05d}", kidneys, (200, 250, 350), (32, 96, 96), (0, 0, 0), 2.5),
    "LiTS": Recipe("zyx", "volume-{}", liver, (220, 250, 350), (32, 96, 96), (0, 0, 0), 3.0),
}


def draw_case(
    recipe: Recipe, rng: np.random.Generator, size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Image (float32), label (uint8) and spacing (mm per axis) of one case.

    `size` is the mean shape in voxels.
    """
    shape = tuple(
        round(n * (1 + share * rng.uniform(-1, 1)))
        for n, share in zip(size, recipe.vary, strict=True)
    )
    spacing = [mm / n for mm, n in zip(recipe.field, size, strict=True)]
    scene = Scene(rng, recipe.axes, shape=shape, spacing=spacing, warp=recipe.warp)
    label = recipe.draw(scene)
    # people differ in size, and so do the voxels of volumes that are resampled to one shape
    grown = rng.uniform(0.92, 1.08)
    return scene.image, label, tuple(step * grown for step in scene.spacing)
