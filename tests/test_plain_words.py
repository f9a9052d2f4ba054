"""Production code is written in plain English: it has none of the words that the style guide
replaces.
"""

import io
import re
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
# The rooms that are clean. A room that is added stays.
ROOMS = (
    "benchmarks",
    "code",
    "commands",
    "dataloaders",
    "datasets",
    "evaluation",
    "methods",
    "networks",
    "pancreas",
    "registration",
    "reporting",
    "scans",
    "training",
    "utils",
)
# Words of comments, docstrings and messages, as regular expressions, and what to write instead.
REPLACED = {
    "mend(s|ed|ing)?": "fix, fixed",
    "(take|takes|taken|taking|took) away": "remove",
    "(leave|leaves|leaving) out": "omit, skip",
    "leave (it|them) out": "remove it",
    "left out": "omitted, skipped",
    "belongs? into": "belongs in",
    "(go|goes|going|gone|went) on": "continues, resumes",
    "at hand": "available",
    "besides?": "in addition to, next to",
    "(is|are) wanted": "is required",
    "wants?": "expects, requires",
    "told|tells": "reported, prints, the message",
    "says|said": "reports, the message",
    "(know|knows|knew) nothing of": "is independent of",
    "(hand|hands|handed) on": "passes to, the next stage starts from",
    "bit for bit": "bit-identical",
    "to the line": "exactly",
    "looked at once": "evaluated once",
    "of other settings": "with different settings",
}
PATTERN = re.compile(rf"\b({'|'.join(REPLACED)})\b", re.IGNORECASE)
FORBIDDEN_NAMES = {"mend", "said", "told"}
PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def prose(code: str) -> str:
    """Return the comments and strings of a file as one line, so that a phrase may cross a line
    break.
    """
    pieces = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in PROSE:
            pieces.append(token.string)
    text = re.sub('["#]', " ", " ".join(pieces))
    return re.sub(r"\s+", " ", text)


def names(code: str) -> set[str]:
    """Return all identifiers of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def replaced_words(code: str) -> list[str]:
    """Return every word of the code that should be replaced, with a few words around it."""
    text = prose(code)
    return [text[max(match.start() - 30, 0) : match.end() + 30] for match in PATTERN.finditer(text)]


def files() -> list[Path]:
    paths = []
    for room in ROOMS:
        paths += sorted((REPOSITORY / room).rglob("*.py"))
    return paths


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_comments_docstrings_and_messages_use_plain_words(path):
    assert replaced_words(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_names_use_plain_words(path):
    assert names(path.read_text(encoding="utf-8")) & FORBIDDEN_NAMES == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_with_checked_words_has_files(room):
    assert list((REPOSITORY / room).glob("*.py"))


@pytest.mark.parametrize(
    "code",
    [
        '"""Something the user can mend."""',
        "# the run goes\n# on here\n",
        'raise ValueError("the last one is left "\n    "out")',
        'print(f"{name}: Leave it out")',
    ],
)
def test_a_replaced_word_is_detected_also_across_lines(code):
    assert len(replaced_words(code)) == 1


def test_longer_words_are_not_detected():
    assert replaced_words("# an amendment of an essay") == []
