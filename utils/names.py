"""Names that become file names, and names as they are shown in terminals and written to tables."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sized

from utils.files import name_fault

MEAN_OF_CLASSES = "mean"
"""The row of results with the mean over the classes. No class may have this name."""
# Windows opens a device for a file of this name, whatever its ending is.
PORT_NUMBERS = "0123456789¹²³"
DEVICES = {"con", "prn", "aux", "nul"}
DEVICES |= {f"com{number}" for number in PORT_NUMBERS}
DEVICES |= {f"lpt{number}" for number in PORT_NUMBERS}
UNSAFE = '<>:"|?*'
# A spreadsheet runs a cell that begins with one of these as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def case_name_fault(name: str) -> str:
    """Return why a case must not have this name; empty if it may.

    A name that passes can be written to a case list and read back, and is a valid file name on
    Linux, macOS and Windows.
    """
    fault = name_fault(name)
    if fault:
        return fault
    if name != name.strip():
        return "begins or ends with a space"
    if name.startswith("."):
        return "begins with a dot, so its files would be hidden"
    if name.endswith("."):
        return "ends with a dot, which Windows removes"
    unsafe = [character for character in name if character in UNSAFE]
    if unsafe:
        return f"contains {unsafe[0]}, which Windows does not allow in file names"
    if name.split(".")[0].strip().casefold() in DEVICES:
        return "is the name of a device on Windows"
    return ""


def folded(name: str) -> str:
    """Return a form of the name that is equal for names that macOS or Windows treat as one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the most similar of `names`; empty if none is similar.

    A name that differs only in upper and lower case is preferred.
    """
    names = list(names)
    for other in names:
        if folded(other) == folded(name):
            return other
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    if not close:
        return ""
    return close[0]


def and_more(items: Sized) -> str:
    """Return how many items follow the first one, as " (and 2 more)"; empty if none does."""
    others = len(items) - 1
    if others < 1:
        return ""
    return f" (and {others} more)"


def printable(text: str) -> str:
    """Return the text for a terminal: control characters are escaped, except line breaks."""
    if text.replace("\n", "").isprintable():
        return text
    characters = []
    for character in text:
        if character == "\n" or character.isprintable():
            characters.append(character)
        else:
            characters.append(character.encode("unicode_escape").decode())
    return "".join(characters)


def csv_cell(text: str) -> str:
    """Return a cell that a spreadsheet does not treat as a formula; `csv_text` is the inverse."""
    if _is_formula(text) or _is_quoted(text):
        return f"'{text}"
    return text


def csv_text(cell: str) -> str:
    """Return the text that was passed to `csv_cell`.

    Cells that were written without it are returned unchanged.
    """
    if _is_quoted(cell):
        return cell[1:]
    return cell


def _is_formula(text: str) -> bool:
    return text.startswith(FORMULA)


def _is_quoted(text: str) -> bool:
    return re.match(r"'+[=+\-@\t\r\n]", text) is not None
