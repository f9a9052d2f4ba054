"""JSON files as people and editors write them."""

import json
import re
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32.

    A byte order mark is allowed.

    Raises OSError, or ValueError for a file that is not JSON or that gives one key of an object
    twice, of which Python would keep the last one.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def whole(value: Any) -> Any:
    """Return the whole number that "1" or 1.0 stands for, anything else as it is.

    Some programs write numbers in these ways.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} is given twice in one object")
        content[key] = value
    return content
