"""Checks of values from a Python caller or a JSON file against the types of a settings class."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from utils.errors import UserError
from utils.names import nearest

T = TypeVar("T")
LARGEST = 2**63
WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


def checked(cls: type[T], values: Mapping[str, object]) -> T:
    """Return a settings object with these values, the other fields at their defaults.

    Raises UserError for an unknown name, and for a value of the wrong type, as `checked_values`
    does.
    """
    return cls(**checked_values(cls, values))


def checked_values(cls: type, values: Mapping[str, object]) -> dict[str, Any]:
    """Return the values converted to the field types of a dataclass; see `convert_values`."""
    hints = get_type_hints(cls)
    return convert_values({field.name: hints[field.name] for field in fields(cls)}, values)


def convert_values(types: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Return the values converted to the types of their names: lists become tuples, strings paths.

    Raises UserError for a name without a type, and for a value of the wrong type.
    """
    converted = {}
    for name, value in values.items():
        if name not in types:
            near = nearest(name, types)
            hint = "see the documentation of this function"
            if near:
                hint = f"did you mean {near}?"
            raise UserError(f"{name}: unknown option; {hint}")
        converted[name] = convert(name, value, kind=types[name])
    return converted


def convert(name: str, value: object, kind: Any) -> Any:
    """Return the value converted to the type `kind`; raise UserError that begins with `name` if
    that is impossible.
    """
    origin = get_origin(kind)
    if origin is Literal:
        return _choice(name, value, choices=get_args(kind))
    if origin in (Union, UnionType):
        return _first_fitting(name, value, kinds=get_args(kind))
    if origin is tuple:
        return _tuple(name, value, kinds=get_args(kind))
    return _single(name, value, kind=kind)


def _choice(name: str, value: object, choices: Sequence[object]) -> object:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    listed = ", ".join(str(choice) for choice in choices)
    raise UserError(f"{name}={value!r}: choose from {listed}")


def _first_fitting(name: str, value: object, kinds: Sequence[Any]) -> Any:
    if value is None and NoneType in kinds:
        return None
    faults = []
    for kind in kinds:
        if kind is NoneType:
            continue
        try:
            return convert(name, value, kind=kind)
        except UserError as error:
            faults.append(error)
    raise faults[0]


def _tuple(name: str, value: object, kinds: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if isinstance(value, np.ndarray):
        value = tuple(value.tolist())
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise UserError(f"{name}={value!r}: a list is expected")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise UserError(f"{name}={value!r}: {len(kinds)} values are expected")
    return tuple(convert(name, one, kind=kind) for one, kind in zip(value, kinds, strict=True))


def _single(name: str, value: object, kind: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        if kind is bool:
            return bool(value)
    elif kind is int and isinstance(value, (int, np.integer)):
        if not -LARGEST <= int(value) < LARGEST:
            raise UserError(f"{name}={value}: must lie between -2^63 and 2^63 - 1")
        return int(value)
    elif kind is float and isinstance(value, (int, float, np.integer, np.floating)):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    if kind is Path and isinstance(value, (str, os.PathLike)):
        return Path(value)
    if kind in WORDS:
        raise UserError(f"{name}={value!r}: {WORDS[kind]} is expected")
    return value
