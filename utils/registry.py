"""Values by name: methods, networks, data sets, losses, schedules and augmentations are chosen this way."""

from collections.abc import Mapping
from typing import TypeVar

from utils.errors import UserError
from utils.names import nearest

T = TypeVar("T")


def find(registry: Mapping[str, T], name: str, flag: str) -> T:
    """The value of that name. Raises UserError that names the flag, the most similar name and all names."""
    if name in registry:
        return registry[name]
    near = nearest(name, registry)
    hint = f" (did you mean {near}?)" if near else ""
    raise UserError(f"{flag} {name}: unknown{hint}; choose from {', '.join(registry)}")
