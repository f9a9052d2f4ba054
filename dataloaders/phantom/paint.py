"""Tools to paint phantoms: soft edges, bias and noise of a scanner, and the solids of a 3-D scene.

An `inside` array holds for every point the approximate distance in mm from the border of an object,
positive inside it.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scipy.special import expit

Vector = Sequence[float] | np.ndarray


def paint(
    image: np.ndarray, inside: np.ndarray, value: np.ndarray | float, edge: float = 0.7
) -> None:
    """Paint `value` over `image` where `inside` (mm) is positive.

    The soft edge imitates partial volume.
    """
    touched = inside > -6 * edge
    fresh = value
    if isinstance(value, np.ndarray):
        fresh = value[touched]
    image[touched] += expit(inside[touched] / edge) * (fresh - image[touched])


def bias(coefficients: Vector, *coordinates: np.ndarray) -> np.ndarray:
    """Factor around 1 that changes slowly: exp of a quadratic polynomial.

    `coefficients`: the linear ones first, then mixed, then squares.
    """
    products = [a * b for a, b in combinations(coordinates, 2)]
    squares = [a**2 for a in coordinates]
    terms = [*coordinates, *products, *squares]
    return np.exp(sum(c * term for c, term in zip(coefficients, terms, strict=True)))


def rician(rng: np.random.Generator, image: np.ndarray, noise: float) -> np.ndarray:
    """The magnitude of `image` with Gaussian noise in both channels of the receiver.

    `noise`: standard deviation.
    """
    real = image + rng.normal(0, noise, image.shape)
    imaginary = rng.normal(0, noise, image.shape)
    return np.hypot(real, imaginary)


class Scene:
    """A volume that is being painted.

    `image` has the array's own axis order; `x` runs to the patient's left, `y` to the back, `z` to
    the head. Coordinates are mm from the volume's centre, arrays of the image's shape that smooth
    displacements of `warp` mm (standard deviation) have bent, so that nothing is as regular as the
    solids it is drawn with. Everything is a smooth function of the position along all three axes,
    so neighbouring slices are similar.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        axes: str,
        shape: tuple[int, ...],
        spacing: Sequence[float],
        warp: float,
    ) -> None:
        """Set up an image of zeros and its coordinates; all random numbers come from `rng`."""
        self.rng = rng
        self.spacing = spacing
        self.image = np.zeros(shape, np.float32)
        coordinates = [
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * mm
            for n, mm in zip(shape, spacing, strict=True)
        ]
        grids = np.meshgrid(*coordinates, indexing="ij", copy=False)
        straight = dict(zip(axes, grids, strict=True))
        self.x = straight["x"] + warp * self.field(45)
        self.y = straight["y"] + warp * self.field(45)
        self.z = straight["z"] + warp * self.field(45)

    def field(self, mm: float) -> np.ndarray:
        """Random field (float32, mean about 0, standard deviation 1).

        Its features are about `mm` wide. Random numbers on a coarse grid, spread axis by axis with
        Gaussian weights: a filter of that width would take seconds.
        """
        spread = []
        for n, step in zip(self.image.shape, self.spacing, strict=True):
            # features smaller than two voxels would be slow and look like noise
            width = max(mm, 2 * step)
            knots = np.arange(-width, n * step + width, width / 2)
            weights = np.exp(-8 * ((np.arange(n)[:, None] * step - knots) / width) ** 2)
            norm = np.sqrt((weights**2).sum(1, keepdims=True))
            spread.append((weights / norm).astype(np.float32))
        values = self.rng.standard_normal([weights.shape[1] for weights in spread], np.float32)
        for weights in spread:
            values = np.tensordot(values, weights, (0, 1))
        return values

    def textured(self, value: float, mm: float, amount: float) -> np.ndarray:
        """`value` with random relative variation of standard deviation `amount`.

        Its features are about `mm` wide.
        """
        return value * (1 + amount * self.field(mm))

    def paint(self, inside: np.ndarray, value: np.ndarray | float, edge: float = 0.7) -> None:
        """Paint `value` where `inside` is positive, see `paint`."""
        paint(self.image, inside, value, edge)

    def ellipsoid(
        self,
        centre: Vector,
        half: Vector,
        turn: Vector = (0, 0, 0),
        bumps: float = 0.0,
        power: float = 2.0,
    ) -> np.ndarray:
        """`inside` of an ellipsoid with half axes `half` (mm, x y z).

        It is turned by the rotation vector `turn` (radians). `bumps`: share of the radius by which
        low-order waves over all directions deform it. A `power` above 2 makes it boxier.
        """
        x = self.x - np.float32(centre[0])
        y = self.y - np.float32(centre[1])
        z = self.z - np.float32(centre[2])
        if any(turn):
            rows = Rotation.from_rotvec(turn).inv().as_matrix().astype(np.float32)
            x, y, z = [a * x + b * y + c * z for a, b, c in rows]
        if power != 2:
            np.abs(x, out=x)
            np.abs(y, out=y)
            np.abs(z, out=z)
        x = x / np.float32(half[0])
        y = y / np.float32(half[1])
        z = z / np.float32(half[2])
        if power == 2:
            rho = np.sqrt(x * x + y * y + z * z)
        else:
            rho = (x**power + y**power + z**power) ** np.float32(1 / power)
        radius = np.float32(1)
        if bumps:
            # odd and even waves along random directions stand for the lower spherical harmonics
            reach = 1 / np.maximum(rho, 0.2)
            for number, direction in enumerate(self.rng.standard_normal((3, 3))):
                a, b, c = (direction / np.linalg.norm(direction)).astype(np.float32)
                along = (a * x + b * y + c * z) * reach
                wave = along * along * along
                if number == 0:
                    wave = along * along - np.float32(1 / 3)
                height = np.float32(2 * bumps * self.rng.choice((-1, 1)))
                radius = radius + height * wave
        return (radius - rho) * np.float32(min(half))

    def tube(self, points: np.ndarray, radii: Vector) -> np.ndarray:
        """`inside` of a bent tube along `points` (n, 3; mm, x y z).

        Its radius changes linearly from one point to the next.
        """
        inside = np.full(self.image.shape, -np.inf, np.float32)
        for start, end, r0, r1 in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            step = np.asarray(end) - start
            x = self.x - np.float32(start[0])
            y = self.y - np.float32(start[1])
            z = self.z - np.float32(start[2])
            # share of the way from start to end of the nearest point of the axis
            a, b, c = (step / (step @ step)).astype(np.float32)
            t = np.clip(x * a + y * b + z * c, 0, 1)
            x -= t * np.float32(step[0])
            y -= t * np.float32(step[1])
            z -= t * np.float32(step[2])
            radius = np.float32(r0) + np.float32(r1 - r0) * t
            np.maximum(inside, radius - np.sqrt(x * x + y * y + z * z), out=inside)
        return inside

    def blurred(self, mm: float) -> np.ndarray:
        """The image, blurred by a Gaussian of that standard deviation like by a scanner."""
        return gaussian_filter(self.image, [mm / step for step in self.spacing], truncate=3)


def curve(points: Sequence[Vector], count: int) -> np.ndarray:
    """`count` points (count, 3) of a Bezier curve, its ends included.

    `points`: the control points, at least two.
    """
    controls = [np.asarray(point, float) for point in points]
    t = np.linspace(0, 1, count)[:, None]
    while len(controls) > 1:
        # de Casteljau for all t at once
        controls = [(1 - t) * a + t * b for a, b in pairwise(controls)]
    return controls[0]


def merged(first: np.ndarray, second: np.ndarray, blend: float) -> np.ndarray:
    """Union of two solids, the crease between them rounded over about `blend` mm."""
    rest = np.maximum(blend - np.abs(first - second), 0)
    return np.maximum(first, second) + rest**2 / (4 * blend)
