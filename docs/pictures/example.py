"""Draw example.png of the README: image, truth and prediction from the page of a tested run.

python code/report.py --run RUN --output report
python -m docs.pictures.example report/index.html best docs/example.png
"""

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
from matplotlib.image import imread, imsave

CASES = ("worst", "median", "best")
PANELS = 3  # image, truth, prediction
GAP = 12  # white pixels between two panels
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def panels(page: Path, case: str) -> list[np.ndarray]:
    """Return the pictures (H, W, 3) of a case on the page of one run on 2-D data."""
    sources = PICTURE.findall(page.read_text(encoding="utf-8"))
    first = CASES.index(case) * PANELS
    pictures: list[np.ndarray] = []
    for source in sources[first : first + PANELS]:
        picture = imread(io.BytesIO(base64.b64decode(source)))
        pictures.append(picture[..., :3])
    return pictures


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Return the pictures next to each other with gaps."""
    gap = np.ones((pictures[0].shape[0], GAP, 3))
    columns = [pictures[0]]
    for picture in pictures[1:]:
        columns += [gap, picture]
    return np.concatenate(columns, axis=1)


def main(page: str, case: str, path: str) -> None:
    """Write the picture to a file."""
    imsave(path, side_by_side(panels(Path(page), case)))


if __name__ == "__main__":
    main(*sys.argv[1:])
