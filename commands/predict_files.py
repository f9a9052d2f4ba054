"""Predictions as files: label maps on their scans' grids, probabilities, and predict.json, which says how each was made."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from commands.png_files import read_png, write_png
from datasets.prepare.prepared_files import RawCase, source_geometry
from scans.formats import nifti_header
from scans.nrrd_format import write_nrrd
from scans.reading import read_scan, sha256
from utils.errors import UserError
from utils.files import replacing, unfinished_file
from utils.json_file import read_json
from utils.nifti import write_nifti, write_nifti_like
from utils.provenance import sha256 as file_hash

FILE_HASH, PROBABILITIES_HASH = "file_sha256", "probabilities_sha256"  # keys of a case's record
MEMBER = "probabilities.npy"  # the only member of a .npz with probabilities
NRRD = (".nrrd", ".nhdr")


def output_name(case: RawCase) -> str:
    """The prediction's file below the output folder: PNG of pictures, NRRD of NRRD, NIfTI of everything else."""
    name = case.images[0].name.lower()
    if name.endswith(".png"):
        return f"{case.name}.png"
    if name.endswith(NRRD):
        return f"{case.name}.nrrd"
    return f"{case.name}.nii.gz"


def write_labels(path: Path, labels: np.ndarray, source: Path, attributes: Mapping) -> None:
    """Label values in the order of the source's indices, with its geometry; of a picture (1, H, W)."""
    if path.suffix == ".png":
        write_png(path, labels[0])
        return
    geometry = source_geometry(attributes)
    header = nifti_header(source) if source.is_file() else None
    if path.suffix == ".nrrd":
        write_nrrd(path, labels, geometry)
    elif header is not None:
        write_nifti_like(path, labels, header)
    else:
        write_nifti(path, labels.T, affine=geometry.affine)


@contextmanager
def probability_file(path: Path | None, shape: tuple[int, ...]) -> Iterator[np.ndarray | None]:
    """An array (classes first) to be filled in the block, background everywhere, that becomes `probabilities` in the .npz file `path`.

    It lies on disk meanwhile, so that it takes no memory. None without a path.
    """
    if path is None:
        yield None
        return
    with unfinished_file(path.with_name(f"{path.name}.npy")) as scratch:
        array = np.lib.format.open_memmap(scratch, "w+", np.float32, shape)
        array[0] = 1
        yield array
        array.flush()
        with (
            replacing(path) as unfinished,
            zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            archive.write(scratch, MEMBER)


class Records:
    """predict.json of a folder, or, for one of several parts, predict_<i>of<n>.json: what was predicted, from what and with what."""

    def __init__(
        self, folder: Path, part: str | None, about: Mapping, made_with: Mapping, overwrite: bool
    ):
        """Raises UserError where predictions of other networks or settings are there; `overwrite` takes the records of those away."""
        self.path = folder / (f"predict_{part.replace('/', 'of')}.json" if part else "predict.json")
        self.about, self.made_with, self.overwrite = (
            dict(about),
            json.loads(json.dumps(made_with)),
            overwrite,
        )
        self.known: dict[str, dict] = {}
        self.mine: dict[str, dict] = {}
        for path in sorted(folder.glob("predict*.json")):
            content = _read(path)
            if content.get("made_with") == self.made_with:
                self.known |= content["cases"]
                if path == self.path or not part:
                    self.mine |= content["cases"]
            elif overwrite:
                path.unlink()
            else:
                other = [
                    key
                    for key, value in self.made_with.items()
                    if content.get("made_with", {}).get(key) != value
                ]
                raise UserError(
                    f"{path}: of predictions with other {', '.join(other)}; name another --output, or --overwrite"
                )

    def finished(self, folder: Path, case: RawCase, made_of: Mapping, probabilities: bool) -> bool:
        """Whether the case is predicted already, its files being as they were written.

        Raises UserError for a file that was made of something else, not by this program, or changed since.
        """
        path, record = folder / output_name(case), self.known.get(case.name)
        if self.overwrite or not path.exists():
            return False
        if record is None:
            raise UserError(
                f"{path}: is there, but not in {self.path.name}; name another --output, or --overwrite"
            )
        if any(record.get(key) != value for key, value in json.loads(json.dumps(made_of)).items()):
            raise UserError(
                f"{path}: was made of another scan, or with another --box; name another --output, or --overwrite"
            )
        if not _is_as_written(path, record.get(FILE_HASH)):
            return False
        return not probabilities or _has_probabilities(probabilities_path(folder, case), record)

    def begin(self, name: str, record: Mapping) -> None:
        """Note that the case is being predicted: its files do not count until `add` is called."""
        self.add(name, {**record, FILE_HASH: ""})

    def add(self, name: str, record: Mapping) -> None:
        self.mine[name] = self.known[name] = dict(record)
        content = {
            **self.about,
            "made_with": self.made_with,
            "cases": dict(sorted(self.mine.items())),
        }
        with replacing(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _is_as_written(path: Path, recorded: str | None) -> bool:
    """Whether a label map is the file that was written. `recorded`: its SHA-256; empty while it is being written, None in records of
    older versions, whose files only have to be readable.

    Raises UserError for a label map that somebody changed: it may hold corrections.
    """
    if recorded == "":
        return False
    if recorded is not None and recorded == file_hash(path):
        return True
    readable = _is_readable(path)
    if readable and recorded is not None:
        raise UserError(
            f"{path}: has changed since it was predicted; move it away to keep it, or --overwrite predicts it again"
        )
    return readable


def _is_readable(path: Path) -> bool:
    try:
        if path.suffix == ".png":
            read_png(path)
        else:
            read_scan(path)
    except UserError:
        return False
    return True


def probabilities_path(folder: Path, case: RawCase) -> Path:
    return folder / f"{case.name}.npz"


def _has_probabilities(path: Path, record: Mapping) -> bool:
    """Whether the probabilities of a case are as they were written; of an older version, whether they are whole."""
    if not path.is_file():
        return False
    if FILE_HASH in record:
        return record.get(PROBABILITIES_HASH) == file_hash(path)
    return is_probability_file(path)


def is_probability_file(path: Path) -> bool:
    """Whether a file is a whole .npz of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist() == [MEMBER] and archive.testzip() is None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def made_of(case: RawCase, box: tuple[int, ...]) -> dict:
    """What a prediction depends on beside the networks."""
    return {
        "sources": [path.name for path in case.images],
        "sha256": [sha256(path) for path in case.images],
        "box": list(box),
    }


def _read(path: Path) -> dict:
    try:
        content = read_json(path)
        if (
            isinstance(content, dict)
            and isinstance(content["cases"], dict)
            and isinstance(content["made_with"], dict)
            and all(isinstance(record, dict) for record in content["cases"].values())
        ):
            return content
    except (OSError, ValueError, KeyError):
        pass
    raise UserError(f"{path}: not a record of predictions; take it away, or name another --output")
