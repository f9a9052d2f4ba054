"""Measure the Dice of coarse labels on LA: published, improved, its parts, and two baselines.

    python benchmarks/registration.py --root_path data_split/LA --cases 5 --maps /tmp/maps
    python benchmarks/registration.py --root_path data_split/LA --first 11 --cases 20

The first ten volumes were used for development, the second command skips them. The two baselines
register nothing. Only --maps is written to. A volume takes about 90 s on one core the first time;
--maps keeps the registrations for another run.
"""

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from dataloaders.coarse import Annotation, read_annotation, training_label
from dataloaders.hdf5 import read_case, read_list
from datasets.la import INFO as LA
from evaluation.statistics import bootstrap_interval, wilcoxon_p
from registration import propagation
from registration.coarse_labels import AnnotatedCase, assemble, directions
from utils.axes import other_axes
from utils.cli import parse, run

PUBLISHED = "published"
IMPROVED = "improved: guided, then fused"


@dataclass(frozen=True)
class Flags:
    """Flags of benchmarks/registration.py."""

    root_path: Path
    """Folder of the LA data."""
    first: int = 1
    """Number of the first case in the training list."""
    cases: int = 5
    """Number of cases."""
    transform: Literal["SyN", "SyNRA"] = "SyN"
    """ANTs registration."""
    seed: int = 1337
    """Seed of ANTs' sampling."""
    maps: Path | None = None
    """Folder that keeps registrations for another run."""


class SliceMaps:
    """`slice_map` that keeps its results: published and improved labels register the same pairs."""

    def __init__(self, folder: Path | None) -> None:
        """Keep the results in `folder`, or in memory if it is None."""
        self.folder = folder
        self.register = propagation.slice_map
        self.in_memory: dict[str, np.ndarray] = {}
        self.seconds = 0.0
        self.pairs = 0

    def __call__(
        self, fixed: np.ndarray, moving: np.ndarray, transform: str, seed: int
    ) -> np.ndarray:
        """Return the result for a pair of slices, registered unless it was kept."""
        content = fixed.tobytes() + moving.tobytes()
        content += f"{fixed.shape} {transform} {seed}".encode()
        key = hashlib.sha256(content).hexdigest()
        if self.folder is None:
            if key not in self.in_memory:
                self.in_memory[key] = self._timed(fixed, moving, transform=transform, seed=seed)
            return self.in_memory[key]
        path = self.folder / key[:2] / f"{key}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, self._timed(fixed, moving, transform=transform, seed=seed))
        return np.load(path)

    def _timed(
        self, fixed: np.ndarray, moving: np.ndarray, transform: str, seed: int
    ) -> np.ndarray:
        start = time.process_time()
        result = self.register(fixed, moving, transform, seed)
        self.seconds += time.process_time() - start
        self.pairs += 1
        return result


def dice(label: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice of the foreground."""
    both = np.count_nonzero((label > 0) & (truth > 0))
    return 2 * both / (np.count_nonzero(label) + np.count_nonzero(truth))


def extent(label: np.ndarray, axis: int) -> slice:
    """Return the slices along `axis` from the first to the last that are not empty."""
    occupied = np.flatnonzero(label.any(axis=other_axes(label.ndim, axis)))
    return slice(occupied[0], occupied[-1] + 1)


def cropped(label: np.ndarray, axis: int, part: slice) -> np.ndarray:
    """Return the label with 0 outside the slices `part` of `axis`."""
    kept = np.zeros_like(label)
    np.moveaxis(kept, axis, 0)[part] = np.moveaxis(label, axis, 0)[part]
    return kept


def copied(annotation: Annotation, shape: tuple[int, ...]) -> np.ndarray:
    """Return the baseline that has the annotated slice in every slice of its axis."""
    mask = np.expand_dims(annotation.mask, annotation.axis)
    return np.broadcast_to(mask, shape).copy()


def propagated(
    image: np.ndarray, case: AnnotatedCase, transform: str, seed: int, improved: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Propagate the annotated slices; return the labels of both planes before and after fusion."""
    scaled = propagation.scale_255(image, whole=not improved)
    results: list[propagation.Carried] = []
    for annotation, other in (case.annotated, case.annotated[::-1]):
        guiding = None
        if improved:
            guiding = other
        slices = np.moveaxis(scaled, annotation.axis, 0)
        for numbers, guide in directions(annotation, guiding, length=len(slices)):
            result = propagation.carry(
                slices[numbers], annotation.mask, transform=transform, seed=seed, guide=guide
            )
            results.append(result)
    return assemble(case, image.shape, carried=results, improved=improved)


def seen_extent(annotation: Annotation, other: Annotation) -> slice:
    """Return the slices of the annotation's axis in which `other` shows the object."""
    axis = annotation.axis - int(annotation.axis > other.axis)
    return extent(other.mask, axis)


def variants(
    image: np.ndarray, truth: np.ndarray, case: AnnotatedCase, transform: str, seed: int
) -> dict[str, Sequence[np.ndarray]]:
    """Return the labels px and py of each variant, by its name."""
    published, _ = propagated(image, case, transform=transform, seed=seed, improved=False)
    guided, fused = propagated(image, case, transform=transform, seed=seed, improved=True)
    copies: list[np.ndarray] = []
    cropped_copies: list[np.ndarray] = []
    cropped_labels: list[np.ndarray] = []
    for plane, annotation in enumerate(case.annotated):
        axis = annotation.axis
        copy = copied(annotation, image.shape)
        seen = seen_extent(annotation, case.annotated[1 - plane])
        copies.append(copy)
        cropped_copies.append(cropped(copy, axis, part=extent(truth, axis)))
        cropped_labels.append(cropped(published[plane], axis, part=seen))
    return {
        "copied along the axis": copies,
        "copied between the true ends": cropped_copies,
        PUBLISHED: published,
        "published, ended by the other slice": cropped_labels,
        "guided by the other slice, not fused": guided,
        IMPROVED: fused,
    }


def measure(
    pair: Sequence[np.ndarray], truth: np.ndarray, case: AnnotatedCase
) -> tuple[float, ...]:
    """Return the Dice of px, of py, and of both as training sees them."""
    values = [dice(label, truth) for label in pair]
    for plane, label in enumerate(pair):
        in_training = training_label(label, case.annotated[1 - plane])
        values.append(dice(in_training, truth))
    return tuple(values)


def print_means(scores: dict[str, list[tuple[float, ...]]]) -> None:
    """Print the mean of each variant, and px and py of each case below it."""
    print(f"\n{'mean; below it px and py of each case':<46}", end="")
    print(f"{'px':>8}{'py':>8}{'px seen':>8}{'py seen':>8}")
    for variant, rows in scores.items():
        cells = [f"{value:8.3f}" for value in np.mean(rows, axis=0)]
        pairs = [f"{row[0]:.3f} {row[1]:.3f}" for row in rows]
        print(f"{variant:<46}{''.join(cells)}")
        print(f"  {'  '.join(pairs)}")


def print_gain(scores: dict[str, list[tuple[float, ...]]], seed: int) -> None:
    """Print the gain of the improved labels over the published ones, with its statistics."""
    improved = np.array(scores[IMPROVED])[:, :2].mean(1)
    published = np.array(scores[PUBLISHED])[:, :2].mean(1)
    gains = improved - published
    low, high = bootstrap_interval(gains, seed)
    print(
        f"improved less published, mean of px and py: {gains.mean():.3f}, 95 % from {low:.3f} to "
        f"{high:.3f} (bootstrap over {len(gains)} volumes; Wilcoxon p {wilcoxon_p(gains):.1e}; "
        f"smallest {gains.min():.3f})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the variants of each case, then print the means and the gain."""
    flags = parse(Flags, argv, description=__doc__)
    maps = SliceMaps(flags.maps)
    propagation.slice_map = maps
    scores: dict[str, list[tuple[float, ...]]] = {}
    names = read_list(flags.root_path, LA.name, LA.train_list)[flags.first - 1 :]
    for name in names[: flags.cases]:
        path = LA.path(flags.root_path, name)
        channels, truth, _ = read_case(path, LA, LA.dims)
        assert truth is not None
        case = AnnotatedCase(name, path, read_annotation(path, LA))
        labels = variants(channels[0], truth, case, transform=flags.transform, seed=flags.seed)
        for variant, pair in labels.items():
            values = measure(pair, truth, case)
            scores.setdefault(variant, []).append(values)
            cells = [f"{value:8.3f}" for value in values]
            print(f"{name}  {variant:<44}{''.join(cells)}", flush=True)
    print_means(scores)
    print_gain(scores, flags.seed)
    if maps.pairs:
        each = maps.seconds / maps.pairs
        print(f"{maps.pairs} registrations, {each:.2f} s each of one core")


if __name__ == "__main__":
    run(main)
