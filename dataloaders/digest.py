"""Hashes of the names and contents of a run's data, so that a checkpoint recognises its data and
reveals no name.

A file is read once: its hashes are kept, by path, size and time of change, in the user's cache,
never next to the data.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.copies import TRAINING, Prints, are_copies, from_record
from dataloaders.dataset_info import DatasetInfo, NamedFile
from dataloaders.fingerprint import fingerprints
from dataloaders.hdf5 import numbers, opened, read_attributes
from utils.errors import UserError
from utils.files import remove_unfinished, replacing, shown
from utils.progress import progress

Digest = dict[str, list[Any]]
"""What a checkpoint records of its data.

By split, [name, content] of each file in the order of the list, both hashed; the content of a
missing file is empty. Three further keys: "cases" ([hashed name, ""] of each training case),
"scans" (`copies.as_record`) and "preparations" (the settings of the training files, as JSON).
"""
Named = Mapping[str, Sequence[NamedFile]]
"""By split, the files in the order of the list."""
BLOCK = 2**20
FRESH = 2
"""Seconds: a file that changed just now may change again without a new time of change."""
SOURCE_VOXELS = "source_voxels"
"""Attribute of a prepared file: fingerprints of the scans it was made of, as JSON."""
CACHE_VERSION = 1


@dataclass(frozen=True)
class FileFound:
    """One file of a list.

    `content`: hash of its bytes, empty where it is missing. `prints`: fingerprints of its scan,
    none for a blank image. `preparation`: the settings it was prepared with, as JSON, empty where
    the file does not have them.
    """

    name: str
    path: Path
    content: str
    prints: Prints
    preparation: str


Survey = dict[str, list[FileFound]]
"""By split, a record of each file in the order of the list."""


def hashed(text: str) -> str:
    """A name or path as a hash; a path need not be valid UTF-8."""
    encoded = text.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(encoded, digest_size=8).hexdigest()


def survey(root: Path, info: DatasetInfo, files: Named) -> Survey:
    """Read the files of a data set below `root`, except those that are in the cache."""
    cache = _Cache(root, info)
    count = sum(len(named) for named in files.values())
    records: Survey = {}
    with progress(total=count, desc="hashing files", unit="file", leave=False, delay=0.5) as bar:
        for split, named in files.items():
            records[split] = []
            for name, path in named:
                records[split].append(cache.look_up(name, path))
                bar.update()
    cache.save()
    return records


def digest_of(records: Survey) -> Digest:
    """The hashes of a survey, for a checkpoint."""
    digest: Digest = {}
    for split, files in records.items():
        digest[split] = [[hashed(file.name), file.content] for file in files]
    return digest


def content_hash(root: Path, info: DatasetInfo, split: str) -> str:
    """Return a hash of the names and files of a split's volumes, in the order of its list."""
    names = info.read_list(root, info.list_name(split))
    files = {split: [NamedFile(name, info.path(root, name)) for name in names]}
    return hashed(json.dumps(digest_of(survey(root, info, files))))


def difference(before: Digest, now: Digest, files: Named, splits: Sequence[str]) -> str:
    """Describe the first difference between two digests in the given splits in words; empty where
    there is none.

    `files`: names and paths of the files in `now`.
    """
    for split in splits:
        if split not in before:
            continue
        there = before[split]
        here = now.get(split, [])
        if [name for name, _ in there] != [name for name, _ in here]:
            known = dict(there)
            change = "a case is gone, or the order is different"
            for (name, _), (key, _) in zip(files.get(split, ()), here, strict=True):
                if key not in known:
                    change = f"{shown(name)} is new in it"
                    break
            return f"the list of {split} cases is different: {change}"
        changed = _changed_files(files[split], there, here=here)
        if len(changed) > 1:
            return f"{changed[0]} has changed since, and {len(changed) - 1} more"
        if changed:
            return f"{changed[0]} has changed since"
    return ""


def _changed_files(
    named: Sequence[NamedFile], there: Sequence[list], here: Sequence[list]
) -> list[Path]:
    """The files whose contents have another hash `here` than `there`; a missing file has none."""
    changed: list[Path] = []
    for (_, path), (_, before), (_, now) in zip(named, there, here, strict=True):
        if before and now and before != now:
            changed.append(path)
    return changed


def seen_in_training(before: Digest, files: Sequence[FileFound], split: str) -> str:
    """Name in words the `files` of the split that were trained on, by name, by file or by
    scan; empty where none was.

    Raises TypeError or ValueError for a damaged digest. Older digests have no record of scans.
    """
    names: set[str] = {name for name, _ in before.get("cases", ())}
    contents: set[str] = set()
    for part in TRAINING:
        for name, content in before.get(part, ()):
            names.add(name)
            contents.add(content)
    contents.discard("")
    trained = from_record(before.get("scans", ()))
    leaked = [
        file
        for file in files
        if hashed(file.name) in names
        or file.content in contents
        or any(are_copies(file.prints, prints) for prints in trained)
    ]
    if not leaked:
        return ""
    first = leaked[0]
    under_another_name = ""
    if hashed(first.name) not in names:
        under_another_name = " (the same scan, under another name)"
    more = ""
    if len(leaked) > 1:
        more = f" and {len(leaked) - 1} more"
    return f"{shown(first.name)}{more} of {split}{under_another_name}"


class _Cache:
    """Records of files by path, with size and time of change; it can be deleted without harm."""

    def __init__(self, root: Path, info: DatasetInfo) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = base / "edge-guided-copy-paste" / f"{hashed(str(root.resolve()))}.json"
        self.info = info
        layout = [CACHE_VERSION, info.dims, info.channels, info.channel_axis]
        self.layout = "-".join(str(number) for number in layout)
        self.known: dict[str, list] = {}
        self.changed = False
        with suppress(OSError, ValueError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                self.known = content

    def look_up(self, name: str, path: Path) -> FileFound:
        """The record of the file; it is read where the cache has no current record."""
        try:
            status = path.stat()
            key = str(path.resolve())
        except OSError:
            return FileFound(name, path, "", Prints(), "")
        mark = [self.layout, status.st_size, status.st_mtime_ns]
        entry = self.known.get(key)
        with suppress(TypeError, ValueError):
            if isinstance(entry, list) and entry[:3] == mark:
                content, whole, slices, preparation = entry[3:]
                prints = Prints(frozenset(whole), frozenset(slices))
                return FileFound(name, path, content, prints, preparation)
        content = _content(path)
        prints, preparation = _contents(path, self.info, content)
        if content and abs(time.time() - status.st_mtime) > FRESH:
            record = [content, sorted(prints.whole), sorted(prints.slices), preparation]
            self.known[key] = mark + record
            self.changed = True
        return FileFound(name, path, content, prints, preparation)

    def save(self) -> None:
        """Write the records; without effect where nothing has changed or the cache cannot be
        written.
        """
        if not self.changed:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path.parent, below=False)
            with replacing(self.path) as unfinished:
                unfinished.write_text(json.dumps(self.known), encoding="utf-8")


def _content(path: Path) -> str:
    """The hash of a file's bytes; empty where it cannot be read."""
    digest = hashlib.blake2b(digest_size=12)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _contents(path: Path, info: DatasetInfo, content: str) -> tuple[Prints, str]:
    """The prints of a file with the hash `content`, and its preparation.

    A file that is not an image is recognised by its bytes.
    """
    by_bytes: frozenset[str] = frozenset()
    if content:
        by_bytes = frozenset([f"file {content}"])
    try:
        with opened(path) as file:
            attributes = read_attributes(file)
            image = numbers(path, file, "image")[()]
    except UserError:  # reading the case will report it
        return Prints(by_bytes), ""
    preparation = attributes.get("preparation", "")
    if not isinstance(preparation, str):
        preparation = ""
    sources = frozenset(_sources(attributes, info))
    stored = image_prints(image, info)
    if not sources and not stored.all:
        return Prints(), preparation
    return stored | Prints(sources | by_bytes), preparation


def image_prints(image: np.ndarray, info: DatasetInfo) -> Prints:
    """The prints of a stored image: of the volume, and on 2-D data sets of its slices, channel by
    channel.
    """
    if info.channels > 1:
        if image.ndim <= max(info.channel_axis, 2):
            return Prints()
        image = np.moveaxis(image, info.channel_axis, 0)
    else:
        image = image[None]
    dims = image.ndim - 1
    if dims == 3 and info.dims == 2:
        slices = [plane for channel in image for plane in channel]
        return Prints(frozenset(fingerprints(image)), frozenset(fingerprints(slices)))
    if dims == 3:
        return Prints(frozenset(fingerprints(image)))
    if dims == 2 and info.dims == 2:
        return Prints(slices=frozenset(fingerprints(image)))
    return Prints()


def _sources(attributes: Mapping, info: DatasetInfo) -> Iterator[str]:
    """Prints of the scans that a prepared file was made from; older files have only the hashes of
    the scans' files.
    """
    yield from json_texts(attributes.get(SOURCE_VOXELS))
    files = json_texts(attributes.get("source_sha256"))
    for sha256 in files[: info.channels]:  # a label comes after the images
        yield f"source {sha256}"


def json_texts(value: object) -> list[str]:
    """The texts of a JSON list, none for anything else."""
    if not isinstance(value, str):
        return []
    try:
        content = json.loads(value)
    except ValueError:
        return []
    if not isinstance(content, list):
        return []
    return [text for text in content if isinstance(text, str) and text]
