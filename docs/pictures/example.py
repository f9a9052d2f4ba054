r"""Draw example.png of the README: image, truth and prediction from the page of a tested run.

python code/make_phantom.py --dataset ACDC --test 18 --root demo_data
python code/ACDC_labelnum3_train.py --exp with_unlabelled --method averaged_copy_paste --egm none \
    --patch_size 80 80 --batch_size 8 --labeled_bs 4 --pre_iterations 400 --max_iterations 1200 \
    --root_path demo_data --output_root demo_model
python code/test_ACDC.py --labelnum 3 --exp with_unlabelled --root_path demo_data \
    --output_root demo_model
python code/report.py --run demo_model/BCP/ACDC_with_unlabelled_3_labeled --output report
python -m docs.pictures.example report/index.html median docs/example.png
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
PICTURE = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


def panels(page: Path, case: str) -> list[np.ndarray]:
    """Return the pictures (H, W, 3) of a case on the page of one run on 2-D data."""
    sources = PICTURE.findall(page.read_text(encoding="utf-8"))
    first = CASES.index(case) * PANELS
    pictures: list[np.ndarray] = []
    for source in sources[first : first + PANELS]:
        picture = imread(io.BytesIO(base64.b64decode(source)), format="jpeg") / 255
        pictures.append(picture)
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
