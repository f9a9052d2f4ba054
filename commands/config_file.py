"""config.json: what a run was started with. It is written when the run begins, and another run can
start from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import AnyConfig
from utils.errors import UserError, writing
from utils.files import replacing
from utils.json_file import read_json
from utils.messages import message
from utils.provenance import provenance

NAME = "config.json"
ONCE = ("fresh", "other_data")
"""Options of one command, which a run that starts from the file does not take over."""


@dataclass(frozen=True)
class ConfigFile:
    """Options by name from a file. `dataset`: the name or the file of the data set, None if the
    file has none.
    """

    path: Path
    values: Mapping[str, Any]
    dataset: str | None


def read_config_file(path: Path) -> ConfigFile:
    """Read config.json of a run, or a JSON object of options by name.

    Raises UserError for anything else.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; name a config.json") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); correct it") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: must hold an object of options by name; name the config.json of a run"
        )
    values = content
    if "options" in content:
        values = {"dataset": content.get("dataset"), **_without_groups(path, content["options"])}
    dataset = values.pop("dataset", None)
    if not isinstance(dataset, (str, type(None))):
        raise UserError(f"{path}: dataset {dataset!r} must be a text; correct it")
    return ConfigFile(path, values=values, dataset=dataset)


def _without_groups(path: Path, groups: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if not isinstance(groups, dict) or not all(isinstance(one, dict) for one in groups.values()):
        raise UserError(f"{path}: options must hold groups of options by name; correct it")
    for group in groups.values():
        values.update(group)
    for name in ONCE:
        values.pop(name, None)
    return values


def write_config_file(
    folder: Path, dataset: str, config: AnyConfig, about: Mapping[str, Any], resumes: bool
) -> None:
    """Write config.json of a run that begins, or add this command to that of a run that resumes.

    `about`: further entries. What a run began with is kept. Raises UserError where the file cannot
    be written.
    """
    path = folder / NAME
    origin = provenance()
    content = None
    if resumes:
        content = _existing(path)
    if content is None:
        options = config.plain_groups()
        content = {"dataset": dataset, "options": options, **origin, **about, "resumed": []}
    else:
        content["resumed"].append(origin)
    remedy = "free space or fix the folder, then run the same command again"
    with writing(path, remedy), replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _existing(path: Path) -> dict[str, Any] | None:
    """Return the content of a run's config.json; None if there is none, or if it is damaged."""
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("resumed"), list):
            return content
    except (OSError, ValueError):
        pass
    message(f"warning: {path} is damaged; it is written anew with this command's options")
    return None
