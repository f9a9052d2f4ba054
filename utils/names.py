"""Names that become file names, and names as they are shown in terminals and written to tables."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

from utils.files import name_fault

# Windows opens a device of this name, whatever ending follows it.
DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
UNSAFE = '<>:"|?*'
# A spreadsheet runs a cell that begins with one of these as a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def case_name_fault(name: str) -> str:
    """Say why no case may get this name; empty where it may.

    Every name that passes can be written to a case list, read back from it, and be a file on Linux,
    macOS and Windows.
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
        return f"holds {unsafe[0]}, which Windows allows in no file name"
    if name.split(".")[0].strip().casefold() in DEVICES:
        return "is the name of a device on Windows"
    return ""


def folded(name: str) -> str:
    """Return what two names share that macOS or Windows takes for one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that is most like `name`: another case first; empty where none is."""
    names = list(names)
    for other in names:
        if folded(other) == folded(name):
            return other
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return close[0] if close else ""


def printable(text: str) -> str:
    """Return the text for a terminal: characters that would steer it are escaped; line breaks stay."""
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
    """Return a cell that no spreadsheet runs as a formula; `csv_text` is the inverse."""
    return f"'{text}" if _is_formula(text) or _is_quoted(text) else text


def csv_text(cell: str) -> str:
    """Return the text that `csv_cell` was given. Cells that were written without it stay as they are."""
    return cell[1:] if _is_quoted(cell) else cell


def _is_formula(text: str) -> bool:
    return text.startswith(FORMULA)


def _is_quoted(text: str) -> bool:
    return re.match(r"'+[=+\-@\t\r\n]", text) is not None
