"""Dice of coarse labels on LA against dense truth: published, improved and its parts, and two rivals that register nothing.

    python benchmarks/registration.py --root_path data_split/LA --cases 5 --maps /tmp/maps
    python benchmarks/registration.py --root_path data_split/LA --first 11 --cases 20       # not those that it was developed on

Writes nothing beside the data. A volume takes about 90 s on one core the first time; --maps keeps what was registered for another run.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from dataloaders.coarse import Annotation, read_annotation, training_label
from dataloaders.hdf5 import read_case, read_list
from datasets.la import INFO as LA
from evaluation.statistics import bootstrap_interval, wilcoxon_p
from registration import propagation as registration
from registration.labels import AnnotatedCase, assemble, directions
from registration.propagation import carry, scale_255


def remembered(folder: Path | None) -> Callable:
    """`slice_map` that keeps what it found in `folder` (None: in memory): published and improved register the same pairs."""
    register, found = registration.slice_map, {}

    def lookup(fixed, moving, transform, seed):
        key = hashlib.sha256(
            fixed.tobytes() + moving.tobytes() + f"{fixed.shape} {transform} {seed}".encode()
        ).hexdigest()
        path = folder and folder / key[:2] / f"{key}.npy"
        if path and path.is_file():
            return np.load(path)
        if key not in found:
            start = time.process_time()
            found[key] = register(fixed, moving, transform, seed)
            lookup.seconds += time.process_time() - start
            lookup.pairs += 1
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, found.pop(key))
            return np.load(path)
        return found[key]

    lookup.seconds, lookup.pairs = 0.0, 0
    return lookup


def dice(label: np.ndarray, truth: np.ndarray) -> float:
    both = np.count_nonzero((label > 0) & (truth > 0))
    return 2 * both / (np.count_nonzero(label) + np.count_nonzero(truth))


def extent(label: np.ndarray, axis: int) -> slice:
    """The slices along `axis` from the first to the last that hold anything."""
    found = np.flatnonzero(label.any(axis=tuple(k for k in range(label.ndim) if k != axis)))
    return slice(found[0], found[-1] + 1)


def only(label: np.ndarray, axis: int, part: slice) -> np.ndarray:
    kept = np.zeros_like(label)
    place = (*[slice(None)] * axis, part)
    kept[place] = label[place]
    return kept


def copied(own: Annotation, shape: tuple[int, ...]) -> np.ndarray:
    """Rival: the annotated slice in every slice of its axis."""
    return np.broadcast_to(np.expand_dims(own.mask, own.axis), shape).copy()


def carried(
    image: np.ndarray, case: AnnotatedCase, transform: str, seed: int, improved: bool
) -> tuple[list, list]:
    scaled, results = scale_255(image, whole=not improved), []
    for own, other in (case.annotated, case.annotated[::-1]):
        for part, guide in directions(own, other if improved else None, image.shape[own.axis]):
            results.append(
                carry(np.moveaxis(scaled, own.axis, 0)[part], own.mask, transform, seed, guide)
            )
    return assemble(case, image.shape, results, improved)


def measure(
    image: np.ndarray, truth: np.ndarray, case: AnnotatedCase, transform: str, seed: int
) -> dict[str, tuple[float, ...]]:
    """Dice of each variant: of px, of py, and of what training sees of them."""
    published, _ = carried(image, case, transform, seed, improved=False)
    guided, fused = carried(image, case, transform, seed, improved=True)
    copies = [copied(own, image.shape) for own in case.annotated]
    told = [
        only(copy, own.axis, extent(truth, own.axis))
        for copy, own in zip(copies, case.annotated, strict=True)
    ]
    seen = [
        extent(other.mask, own.axis - (own.axis > other.axis))
        for own, other in (case.annotated, case.annotated[::-1])
    ]
    ended = [
        only(label, own.axis, part)
        for label, own, part in zip(published, case.annotated, seen, strict=True)
    ]
    variants = {
        "copied along the axis": copies,
        "copied, told the true ends": told,
        "published": published,
        "published, ended by the other slice": ended,
        "guided by the other slice, each plane alone": guided,
        "improved: guided, then fused": fused,
    }
    return {
        name: (
            *(dice(label, truth) for label in pair),
            *(dice(training_label(pair[k], case.annotated[1 - k]), truth) for k in (0, 1)),
        )
        for name, pair in variants.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root_path", type=Path, required=True, help="folder of LA")
    parser.add_argument(
        "--first", type=int, default=1, help="number in the train list of the first case"
    )
    parser.add_argument("--cases", type=int, default=5, help="how many of the train list")
    parser.add_argument("--transform", choices=registration.TRANSFORMS, default="SyN")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--maps", type=Path, help="folder that keeps registrations")
    given = parser.parse_args()
    registration.slice_map = work = remembered(given.maps)
    scores: dict[str, list] = {}
    for name in read_list(given.root_path, LA.name, LA.train_list)[given.first - 1 :][
        : given.cases
    ]:
        path = LA.path(given.root_path, name)
        (image,), truth, _ = read_case(path, LA, LA.dims)
        case = AnnotatedCase(name, path, read_annotation(path, LA))
        found = measure(image, truth, case, given.transform, given.seed)
        for variant, values in found.items():
            scores.setdefault(variant, []).append(values)
            print(
                f"{name}  {variant:<44}" + "".join(f"{value:8.3f}" for value in values), flush=True
            )
    print(
        f"\n{'mean; below it each case: px, py':<46}{'px':>8}{'py':>8}{'px seen':>8}{'py seen':>8}"
    )
    for variant, values in scores.items():
        print(f"{variant:<46}" + "".join(f"{value:8.3f}" for value in np.mean(values, 0)))
        print("  " + "  ".join(f"{row[0]:.3f} {row[1]:.3f}" for row in values))
    better, usual = (
        np.array(scores[key])[:, :2].mean(1)
        for key in ("improved: guided, then fused", "published")
    )
    low, high = bootstrap_interval(better - usual, given.seed)
    print(
        f"improved less published, mean of px and py: {(better - usual).mean():.3f}, 95 % from {low:.3f} to {high:.3f}",
        end="",
    )
    print(
        f" ({len(better)} volumes drawn again; Wilcoxon p {wilcoxon_p(better - usual):.1e}; smallest {(better - usual).min():.3f})"
    )
    if work.pairs:
        print(f"{work.pairs} registrations, {work.seconds / work.pairs:.2f} s each of one core")


if __name__ == "__main__":
    main()
