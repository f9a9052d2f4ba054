"""What the data of a run were: names and contents as hashes, so that a checkpoint knows its data again and tells nobody a name.

A file is read once: its hash is kept, by path, size and time of change, in a cache of the user's, never beside the data.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from utils.files import remove_unfinished, replacing, shown
from utils.progress import progress

Digest = dict[str, list[list[str]]]
"""By split, a [name, content] for each file in the order of the list, both hashed; the content of a missing file is empty."""
Named = Mapping[str, Sequence[tuple[str, Path]]]
"""By split, name and path of each file in the order of the list."""
BLOCK = 2**20
FRESH = (
    2  # seconds: a file that changed just now may change again without its time of change telling
)
TRAINING = ("labelled", "unlabelled")


def hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def take(root: Path, files: Named) -> Digest:
    """The digest of the files below `root`."""
    cache = _Cache(root)
    with progress(
        total=sum(map(len, files.values())),
        desc="hashing files",
        unit="file",
        leave=False,
        delay=0.5,
    ) as bar:
        digest: Digest = {}
        for split, named in files.items():
            digest[split] = []
            for name, path in named:
                digest[split].append([hashed(name), cache.content(path)])
                bar.update()
    cache.keep()
    return digest


def difference(before: Digest, now: Digest, files: Named, splits: Sequence[str]) -> str:
    """In words what of the splits is not as it was, empty where all is; `files` name what `now` was taken of."""
    for split in splits:
        if split not in before:
            continue
        there, here = before[split], now.get(split, [])
        if [name for name, _ in there] != [name for name, _ in here]:
            added = [
                name
                for (name, _), (key, _) in zip(files.get(split, ()), here, strict=True)
                if key not in dict(there)
            ]
            what = (
                f"{shown(added[0])} is new in it"
                if added
                else "a case is gone, or the order is another"
            )
            return f"the list of {split} cases is another: {what}"
        changed = [
            path
            for (_, path), (_, a), (_, b) in zip(files[split], there, here, strict=True)
            if a and b and a != b
        ]
        if changed:
            return f"{changed[0]} has changed since" + (
                f", and {len(changed) - 1} more" if len(changed) > 1 else ""
            )
    return ""


def seen_in_training(before: Digest, now: Digest, files: Named, split: str) -> str:
    """In words which file of the split, by name or by content, is among those that were trained on; empty where none is."""
    names = {name for part in TRAINING for name, _ in before.get(part, ())} | {
        name for name, _ in before.get("cases", ())
    }
    contents = {content for part in TRAINING for _, content in before.get(part, ()) if content}
    leaked = [
        name
        for (name, _), (key, content) in zip(files[split], now[split], strict=True)
        if key in names or content in contents
    ]
    return (
        f"{shown(leaked[0])}{f' and {len(leaked) - 1} more' if len(leaked) > 1 else ''} of {split}"
        if leaked
        else ""
    )


def twins(digest: Digest, files: Named) -> tuple[list[str], list[str]]:
    """A line for each pair of files with the same content: of a case to train on and one to validate or test on, and of any others."""
    seen: dict[str, tuple[str, Path]] = {}
    leaks, copies = [], []
    for split, named in files.items():
        for (_, path), (_, content) in zip(named, digest[split], strict=True):
            other, first = seen.setdefault(content, (split, path)) if content else (split, path)
            if first != path:
                fault = f"{path} ({split}) and {first} ({other}) are the same file under two names; take one out of its list"
                (leaks if (split in TRAINING) != (other in TRAINING) else copies).append(fault)
    return leaks, copies


class _Cache:
    """Hashes of files by path, with size and time of change; lost without harm."""

    def __init__(self, root: Path):
        folder = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            / "edge-guided-copy-paste"
        )
        self.path = folder / f"{hashed(str(root.resolve()))}.json"
        self.known: dict[str, list] = {}
        self.changed = False
        with suppress(OSError, ValueError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.known = content if isinstance(content, dict) else {}

    def content(self, path: Path) -> str:
        try:
            found = path.stat()
            mark, key = [found.st_size, found.st_mtime_ns], str(path.resolve())
            entry = self.known.get(key)
            if isinstance(entry, list) and entry[:2] == mark and len(entry) == 3:
                return entry[2]
            digest = hashlib.blake2b(digest_size=12)
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        except OSError:
            return ""
        if abs(time.time() - found.st_mtime) > FRESH:
            self.known[key], self.changed = [*mark, digest.hexdigest()], True
        return digest.hexdigest()

    def keep(self) -> None:
        if self.changed:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                remove_unfinished(self.path.parent, below=False)
                with replacing(self.path) as unfinished:
                    unfinished.write_text(json.dumps(self.known), encoding="utf-8")
