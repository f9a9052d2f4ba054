"""Read and write PNG pictures with SimpleITK.

It ends the process if a file name is not valid UTF-8, so it is only given names of our own.
"""

import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from utils.errors import UserError
from utils.files import replacing, scratch

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_png(path: Path) -> np.ndarray:
    """Return the array, (H, W) or (H, W, channels), in the file's type.

    Raises UserError unless it is a complete PNG picture.
    """
    fault = f"{path}: cannot be read as a picture; convert or copy it again"
    with scratch("picture") as folder:
        copy = folder / "picture.png"
        try:
            shutil.copyfile(path, copy)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}); check its permissions"
            ) from None
        with open(copy, "rb") as stream:
            if stream.read(len(SIGNATURE)) != SIGNATURE:
                raise UserError(fault)
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(copy)))
        except RuntimeError:
            raise UserError(fault) from None


def write_png(path: Path, labels: np.ndarray) -> None:
    """Write a label map (H, W); `path` is replaced when the new file is complete."""
    with scratch("picture") as folder, replacing(path) as unfinished:
        picture = folder / "picture.png"
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(picture))
        shutil.copyfile(picture, unfinished)
