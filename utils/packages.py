"""Packages that only some flags need: imported when asked for, and a one-line error if missing."""

import importlib
from typing import Any

from utils.errors import UserError


def not_installed(flag: str, value: str, package: str) -> UserError:
    """Return the error for a package that --`flag` `value` needs and that is not installed."""
    return UserError(
        f"--{flag} {value}: the package {package} is not installed; "
        f"run pip install {package}, or choose another --{flag}"
    )


def imported_for(flag: str, value: str, package: str) -> Any:
    """Import the package that --`flag` `value` needs; UserError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise not_installed(flag, value, package=package) from None
