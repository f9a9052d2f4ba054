"""A synthetic patient's heart in short-axis MR.

A patient is a set of random numbers (`draw_patient`); `render` turns them into an image and a label
volume. Lengths are mm in a scene whose origin is the image centre (x to the right, y down), angles
radians, intensities relative to the left ventricle's blood. Patients differ widely in anatomy,
place, orientation and contrast, so three labelled ones do not cover the population.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, shift
from scipy.ndimage import label as components
from scipy.special import expit

from dataloaders.phantom.paint import bias, paint, rician

BACKGROUND, RIGHT, MYOCARDIUM, LEFT = range(4)
DIASTOLE = 1
SYSTOLE = 2
FIELD_OF_VIEW = 285.0


@dataclass(frozen=True)
class Patient:
    """The numbers that describe one patient.

    Geometry in mm and radians, tissue intensities relative to blood, settings of the scanner.
    """

    key: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    turn: float
    # heart; base and apex are positions along the slices, contours hold complex Fourier
    # coefficients of orders 2, 3, ...
    base: float
    apex: float
    shortening: float
    centre: np.ndarray
    drift: np.ndarray
    radius: float
    wall: float
    squeeze: float
    taper: float
    contour: np.ndarray
    wall_contour: np.ndarray
    septum: float
    flat: float
    rv_width: float
    rv_angle: float
    rv_skew: float
    rv_power: float
    rv_end: float
    rv_squeeze: float
    papillary: np.ndarray
    # surroundings
    body: np.ndarray
    body_contour: np.ndarray
    fat: float
    chest_wall: float
    heart_fat: float
    diaphragm: np.ndarray
    organs: tuple[tuple[float, ...], ...]
    mediastinum: np.ndarray
    warp: float
    aorta: np.ndarray
    tissue: dict[str, float]
    # scanner
    coil: np.ndarray
    bias: np.ndarray
    gamma: float
    blur: float
    noise: float
    ghost: float


def _fourier(rng: np.random.Generator, orders: int, amount: float) -> np.ndarray:
    falling = amount / np.arange(1, orders + 1)
    return falling * (rng.standard_normal(orders) + 1j * rng.standard_normal(orders))


def _wave(angle: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Factor around 1 for the radius in every direction."""
    factor = np.ones_like(angle)
    waves = np.zeros_like(angle)
    for order, c in enumerate(coefficients, 2):
        waves = waves + (c.real * np.cos(order * angle) - c.imag * np.sin(order * angle))
    return factor + waves


def draw_patient(
    rng: np.random.Generator, size: int = 128, slices: tuple[int, int] = (6, 9)
) -> Patient:
    """Draw the numbers of one patient.

    The volume gets `slices` (least, most) slices whose height and width are 0.9 to 1.1 times `size`
    pixels.
    """
    u = rng.uniform
    depth = int(rng.integers(slices[0], slices[1] + 1))
    height, width = [round(size * share) for share in u(0.9, 1.1, 2)]
    radius = u(17, 32)
    blood_to_muscle = u(0.16, 0.42)
    tissue = {
        "air": u(0.0, 0.02),
        "lung": u(0.03, 0.13),
        "blood": 1.0,
        "rv_blood": u(0.75, 1.05),
        "myocardium": blood_to_muscle,
        "muscle": blood_to_muscle * u(0.7, 1.5),
        "fat": u(0.5, 1.3),
        "liver": u(0.25, 0.75),
        "abdomen": u(0.2, 0.8),
        "texture": u(0.05, 0.16),
    }
    organs = tuple(
        # where (mm from the heart), half axes, angle, intensity, intensity of its rim, thickness of
        # the rim
        (
            u(-95, 95),
            u(50, 125),
            u(6, 26),
            u(6, 22),
            u(0, np.pi),
            u(0.08, 1.15),
            u(0.1, 0.7),
            u(1.5, 5),
        )
        for _ in range(rng.integers(4, 10))
    )
    key = int(rng.integers(2**31))
    pixel = FIELD_OF_VIEW / size * u(0.88, 1.12)
    return Patient(
        key=key,
        shape=(depth, height, width),
        spacing=(10.0, pixel, pixel),
        turn=rng.normal(0, 0.3) + rng.choice([0, np.pi / 2, -np.pi / 2], p=[0.9, 0.06, 0.04]),
        base=u(-0.7, 0.6),
        apex=depth - 1 - u(-0.4, 0.8),
        shortening=u(0.2, 1.0),
        centre=np.clip(rng.normal((8, -12), 15), -36, 36),
        drift=rng.normal((8, 6), 6),
        radius=radius,
        wall=u(6.5, 13) * (1.35 - radius / 70),
        squeeze=u(0.45, 0.88),
        taper=u(1.7, 3.5),
        contour=_fourier(rng, 3, 0.04),
        wall_contour=_fourier(rng, 3, 0.09),
        septum=np.pi + rng.normal(0.15, 0.35),
        flat=max(0.0, u(-0.2, 0.28)),
        rv_width=u(20, 48),
        rv_angle=u(0.95, 1.5),
        rv_skew=u(-0.35, 0.35),
        rv_power=u(0.45, 1.0),
        rv_end=u(0.6, 0.92),
        rv_squeeze=u(0.5, 0.9),
        papillary=np.array(
            [u(0.9, 1.6), u(-1.8, -0.9), u(0.5, 0.72), u(0.5, 0.72), u(2, 5), u(2, 5), u(0.4, 1.0)]
        ),
        body=np.array([u(-18, 18), u(25, 75), u(105, 150), u(130, 180), u(2.0, 2.7)]),
        body_contour=_fourier(rng, 3, 0.035),
        fat=u(4, 20),
        chest_wall=u(8, 22),
        heart_fat=u(0.5, 7),
        diaphragm=np.array([u(-6, 18), u(-0.35, 0.35), u(2, 14), u(0, 2 * np.pi), u(5, 35)]),
        organs=organs,
        mediastinum=np.array([u(-1.2, 0.6), u(25, 55), u(14, 34), u(0.4, 1.0)]),
        warp=u(1.5, 5),
        aorta=np.array([u(20, 75), u(45, 95), u(8, 13), u(0.75, 1.15)]),
        tissue=tissue,
        coil=np.array([u(-70, 70), u(-150, -70), u(110, 260), u(0.3, 1.0)]),
        bias=rng.normal(0, 0.13, 5),
        gamma=u(0.85, 1.2),
        blur=u(0.35, 0.85),
        noise=u(0.012, 0.05),
        ghost=max(0.0, u(-0.08, 0.09)),
    )


def _blob(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, turn: float = 0.0
) -> np.ndarray:
    """Approximate distance in mm from the border of an ellipse with half axes a and b.

    Positive inside.
    """
    c = np.cos(turn)
    s = np.sin(turn)
    u = (x - cx) * c + (y - cy) * s
    v = (y - cy) * c - (x - cx) * s
    return (1 - np.hypot(u / a, v / b)) * min(a, b)


def _heart(p: Patient, phase: int, t: float, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Describe the heart at depth t (0 base, 1 apex) in polar coordinates.

    Returns borders in mm along every pixel's ray from the cavity's centre.
    """
    r = np.hypot(x, y)
    angle = np.arctan2(y, x)
    off = np.angle(np.exp(1j * (angle - p.septum)))
    profile = np.sqrt(1 - t**p.taper) * (0.88 + 0.12 * min(1.0, t / 0.25))
    endo = (
        p.radius
        * profile
        * _wave(angle + 0.4 * t, p.contour)
        * (1 - p.flat * np.exp(-((off / 0.7) ** 2)))
    )
    wall = p.wall * (1 - 0.25 * t) * np.clip(_wave(angle, p.wall_contour), 0.55, 1.7)
    if phase == SYSTOLE:
        # muscle hardly changes its volume: a smaller cavity needs a thicker wall
        area = wall**2 + 2 * endo * wall
        endo = endo * p.squeeze
        wall = np.sqrt(endo**2 + area) - endo
    epi = endo + np.maximum(wall, 1.6 * p.spacing[1])
    reach = np.sqrt(max(0.0, 1 - (t / p.rv_end) ** 2))
    half = p.rv_angle * (0.65 + 0.35 * reach)
    arc = np.clip(1 - (off / half) ** 2, 0, None) ** p.rv_power * (1 + p.rv_skew * off / half)
    rv_share = p.rv_squeeze if phase == SYSTOLE else 1
    rv = epi + p.rv_width * reach * arc * rv_share
    return {"r": r, "angle": angle, "off": off, "endo": endo, "epi": epi, "rv": rv}


def _texture(rng: np.random.Generator, shape: tuple[int, int], pixels: float) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal(shape), pixels)
    return field / field.std()


def _dots(
    rng: np.random.Generator,
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    where: np.ndarray,
    count: int,
    radius: tuple[float, float],
    value: tuple[float, float],
) -> None:
    """Paint small vessels and septa at random positions of the mask `where`.

    `radius`, `value`: lowest and highest.
    """
    rows, columns = np.nonzero(where)
    if not len(rows):
        return
    for i in rng.integers(len(rows), size=count):
        a, b = rng.uniform(radius[0], radius[1], size=2)
        cx = float(x[rows[i], columns[i]])
        cy = float(y[rows[i], columns[i]])
        blob = _blob(x, y, cx, cy, a, b, rng.uniform(0, np.pi))
        paint(image, blob, rng.uniform(value[0], value[1]))


def _thorax(
    p: Patient, t: float, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Image (H, W) of everything but the heart at depth t (0 first, 1 last slice).

    Chest wall, lungs, diaphragm, organs, aorta.
    """
    mm = p.spacing[1]
    tissue = p.tissue
    fine = 1 + tissue["texture"] * _texture(rng, x.shape, 3.0 / mm)
    coarse = 1 + 1.5 * tissue["texture"] * _texture(rng, x.shape, 14.0 / mm)
    cx, cy, a, b, power = p.body
    u = (x - cx) / a
    v = (y - cy) / b
    rho = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
    angle = np.arctan2(v, u)
    depth = (_wave(angle + 0.2 * t, p.body_contour) - rho) * min(a, b)
    image = np.full(x.shape, tissue["air"])
    # what is inside the body is never as regular as the ellipses it is drawn with; the same in all
    # slices
    still = np.random.default_rng([p.key, 0, 1000])
    x = x + p.warp * _texture(still, x.shape, 11.0 / mm)
    y = y + p.warp * _texture(still, y.shape, 11.0 / mm)
    paint(image, depth, tissue["fat"] * fine)
    inner = depth - p.fat * (1 + 0.5 * np.sin(2 * angle + p.aorta[0]))
    paint(image, inner, tissue["muscle"] * coarse)
    paint(
        image,
        np.minimum(inner - 0.45 * p.chest_wall, 0.6 * p.chest_wall - inner),
        tissue["fat"] * 0.7 * coarse,
    )
    lung = inner - p.chest_wall * (1 + 0.3 * np.sin(5 * angle + t))
    paint(image, lung, tissue["lung"] * coarse)
    _dots(rng, image, x, y, lung > 6, int(rng.integers(6, 16)), (0.8, 2.8), (0.15, 0.8))
    hx, hy = p.centre
    lift, slope, wavy, start, rise = p.diaphragm
    below = y - (
        hy + p.radius + p.wall + lift - rise * t + slope * (x - hx) + wavy * np.sin(x / 30 + start)
    )
    belly = np.minimum(below, inner - 4)
    paint(image, belly, tissue["muscle"] * 0.5)
    paint(image, belly - 2.5, tissue["liver"] * coarse * fine)
    right = np.minimum(belly - 2.5, x - hx - 15 + 0.3 * y)
    paint(image, right, tissue["abdomen"] * coarse * fine, edge=3)
    _dots(rng, image, x, y, belly > 8, int(rng.integers(4, 14)), (1.0, 4.0), (0.1, 1.1))
    aim, far, thick, value = p.mediastinum
    cushion = _blob(
        x, y, hx + far * np.sin(aim), hy - far * np.cos(aim), far, thick, aim + np.pi / 2
    )
    paint(image, np.minimum(cushion, lung + 3), tissue["fat"] * value * coarse * fine, edge=1.5)
    for ox, oy, oa, ob, turn, value, rim, thickness in p.organs:
        wobble = rng.normal(0, 2, 2)
        organ = _blob(
            x, y, hx + ox + wobble[0], hy + oy - rise * t + wobble[1], oa, ob, turn + 0.3 * t
        )
        organ = np.minimum(organ, inner - 4)
        paint(image, organ + thickness, rim * fine)
        paint(image, organ, value * coarse * fine)
    ax, ay, ar, bright = p.aorta
    paint(
        image, _blob(x, y, hx + ax, hy + ay, ar * 2.6, ar * 2.1), tissue["muscle"] * coarse, edge=2
    )
    paint(image, _blob(x, y, hx + ax, hy + ay, ar + 2, ar + 2), tissue["myocardium"] * 0.8)
    paint(image, _blob(x, y, hx + ax, hy + ay, ar, ar), bright * fine)
    return image


def _great_vessels(
    p: Patient, image: np.ndarray, x: np.ndarray, y: np.ndarray, fine: np.ndarray
) -> None:
    """Paint what lies above the base: atrium, aortic root and outflow tract.

    They are bright like blood, without a ring of muscle.
    """
    c = np.cos(p.septum)
    s = np.sin(p.septum)
    tissue = p.tissue
    size = p.radius + p.wall
    paint(
        image,
        _blob(x, y, 0.3 * size * c, 0.3 * size * s, 1.6 * size, 1.25 * size, p.septum),
        tissue["fat"] * 0.7 * fine,
        edge=2,
    )
    for along, across, a, b, value in (
        (-0.35, 0.35, 0.95, 0.6, 0.85),
        (0.25, -0.3, 0.48, 0.45, 1),
        (1.05, -0.2, 0.6, 0.5, 0.9),
    ):
        cx = size * (along * c - across * s)
        cy = size * (along * s + across * c)
        paint(
            image, _blob(x, y, cx, cy, size * a + 2, size * b + 2, p.septum), tissue["myocardium"]
        )
        paint(
            image,
            _blob(x, y, cx, cy, size * a, size * b, p.septum),
            value * tissue["rv_blood"] * fine,
        )


def _ventricles(
    p: Patient,
    phase: int,
    t: float,
    h: dict[str, np.ndarray],
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Paint the two ventricles with the borders `h` of `_heart` over the thorax."""
    mm = p.spacing[1]
    tissue = p.tissue
    fine = 1 + 0.5 * tissue["texture"] * _texture(rng, x.shape, 4 / mm)
    trabeculae = np.clip(_texture(rng, x.shape, 3 / mm), 0, 2)
    outer = np.maximum(h["epi"], h["rv"] + 2.5 * (h["rv"] > h["epi"]))
    fat_share = 0.35 + 0.65 * np.cos(h["off"] / 2 + p.rv_skew) ** 2
    paint(
        image,
        outer + p.heart_fat * fat_share * (0.7 + 0.6 * trabeculae / 2) - h["r"],
        tissue["fat"] * fine,
        edge=1.2,
    )
    paint(image, outer - h["r"], tissue["myocardium"] * fine)
    blood = tissue["rv_blood"] * fine * (1 - 0.14 * trabeculae)
    paint(image, np.minimum(h["rv"] - h["r"], h["r"] - h["epi"]), blood)
    paint(image, h["epi"] - h["r"], tissue["myocardium"] * fine)
    near_wall = expit((h["r"] - 0.8 * h["endo"]) / 2)
    jet = 1 - 0.35 * rng.uniform() * np.exp(
        -((x - rng.normal(0, 8)) ** 2 + (y - rng.normal(0, 8)) ** 2) / 100
    )
    paint(
        image,
        h["endo"] - h["r"],
        tissue["blood"] * fine * jet * (1 - 0.35 * near_wall * trabeculae),
    )
    if 0.2 < t < 0.8:
        first, second, *how_far = p.papillary[:4]
        for turn, far, size in zip((first, second), how_far, p.papillary[4:6], strict=True):
            angle = p.septum + np.pi + turn
            squeeze = p.squeeze if phase == SYSTOLE else 1
            reach = far * p.radius * np.sqrt(1 - t**p.taper) * squeeze
            dot = _blob(x, y, reach * np.cos(angle), reach * np.sin(angle), size, 0.8 * size, angle)
            cover = np.minimum(dot, h["endo"] - h["r"])
            paint(
                image,
                cover,
                p.papillary[6] * tissue["myocardium"] + (1 - p.papillary[6]) * tissue["blood"],
            )


def _label(h: dict[str, np.ndarray], mm: float) -> np.ndarray:
    label = np.zeros(h["r"].shape, np.uint8)
    cavity = h["r"] < h["endo"]
    # on a coarse grid a thin wall could let the cavity touch what is outside
    grown = np.asarray(binary_dilation(cavity), bool)
    label[(h["r"] < h["epi"]) | grown] = MYOCARDIUM
    label[cavity] = LEFT
    # the tips of the crescent are thinner than a pixel and would break up
    is_wide = h["rv"] - h["epi"] > 1.3 * mm
    pieces = np.zeros(label.shape, np.int32)
    components((label == BACKGROUND) & (h["r"] < h["rv"]) & is_wide, output=pieces)
    sizes = np.bincount(pieces.ravel())[1:]
    if sizes.max(initial=0) > 3:
        label[pieces == 1 + sizes.argmax()] = RIGHT
    return label


def _scan(
    p: Patient, image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Imitate the scanner, for an image (H, W).

    Coil sensitivity and bias, ghosting, blur, Rician noise, a small drift of the gain.
    """
    cx, cy, fall, share = p.coil
    near = 1 / (1 + ((x - cx) ** 2 + (y - cy) ** 2) / fall**2)
    image = image * (1 - share + 2 * share * near) * bias(p.bias, x / 150, y / 150)
    image = image + p.ghost * shift(
        image, (rng.uniform(0.1, 0.4) * len(image), 0), order=1, mode="wrap"
    )
    image = gaussian_filter(image, p.blur) * rng.uniform(0.88, 1.12)
    return rician(rng, image, p.noise)


def render(patient: Patient, phase: int) -> tuple[np.ndarray, np.ndarray]:
    """Render `patient` in `phase` (1 diastole, 2 systole).

    Returns the image (slices, H, W) float32 in 0..1 and the label (slices, H, W) uint8. Slices run
    from base to apex. The surroundings of a slice are the same in both phases, the noise is not.
    """
    p = patient
    depth, height, width = p.shape
    middle = np.array([height - 1, width - 1])[:, None, None] / 2
    rows, columns = (np.indices((height, width)) - middle) * p.spacing[1]
    c = np.cos(p.turn)
    s = np.sin(p.turn)
    base = p.base
    if phase == SYSTOLE:
        base = p.base + p.shortening
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for k in range(depth):
        scene = np.random.default_rng([p.key, 0, k])
        beat = np.random.default_rng([p.key, phase, k])
        # every slice is a breath hold of its own, so neighbours never fit exactly
        dx, dy = scene.normal(0, 1.5, 2)
        x = columns * c + rows * s - dx
        y = rows * c - columns * s - dy
        t = (k - base) / (p.apex - base)
        image = _thorax(p, float(np.clip(k / (depth - 1), 0, 1)), x, y, scene)
        label = np.zeros((height, width), np.uint8)
        hx = x - p.centre[0] - t * p.drift[0]
        hy = y - p.centre[1] - t * p.drift[1]
        if t < 0:
            fine = 1 + p.tissue["texture"] * _texture(scene, image.shape, 2.0)
            _great_vessels(p, image, hx, hy, fine)
        elif t <= 1:
            borders = _heart(p, phase, t, hx, hy)
            _ventricles(p, phase, t, borders, image, hx, hy, beat)
            label = _label(borders, p.spacing[1])
        images.append(_scan(p, image, x, y, beat))
        labels.append(label)
    volume = np.stack(images)
    volume = ((volume - volume.min()) / np.ptp(volume)) ** p.gamma
    return volume.astype(np.float32), np.stack(labels)
