"""Choose values by name: methods, networks, data sets, losses and schedules."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from utils.errors import UserError
from utils.names import nearest

T = TypeVar("T")


def find(registry: Mapping[str, T], name: str, flag: str, remedy: str = "") -> T:
    """The value of that name; UserError as in `check_name`."""
    check_name(registry, name, flag=flag, remedy=remedy)
    return registry[name]


def check_name(names: Collection[str], name: str, flag: str, remedy: str = "") -> None:
    """Raise UserError for an unknown name, with the flag, the most similar name and all names.

    `remedy`: what else the user can do, at the end of the message.
    """
    if name in names:
        return
    near = nearest(name, names)
    hint = f" (did you mean {near}?)" if near else ""
    raise UserError(f"{flag} {name}: unknown{hint}; choose from {', '.join(names)}{remedy}")
