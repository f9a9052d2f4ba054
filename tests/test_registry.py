"""Values that are chosen by name: an unknown name is one line with the flag and the nearest name."""

import pytest

from utils.errors import UserError
from utils.registry import check_name, find

COLOURS = {"red": 1, "green": 2}


def test_a_known_name_gives_its_value():
    assert find(COLOURS, "green", flag="--colour") == 2


def test_an_unknown_name_is_reported_with_all_names():
    with pytest.raises(UserError) as caught:
        find(COLOURS, "blue", flag="--colour")
    assert str(caught.value) == "--colour blue: unknown; choose from red, green"


def test_a_similar_name_is_suggested():
    with pytest.raises(UserError, match=r"--colour Green: unknown \(did you mean green\?\)"):
        find(COLOURS, "Green", flag="--colour")


def test_the_remedy_ends_the_message():
    with pytest.raises(UserError, match=r"choose from a, b, or name a file$"):
        check_name(["a", "b"], "c", flag="--letter", remedy=", or name a file")
