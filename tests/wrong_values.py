"""A JSON document with one of its values replaced by one of a wrong type, or removed."""

import copy
from collections.abc import Iterator

WRONG = (None, True, 0, -1, 1.5, 10**400, 1e308, "", "wörd", "\0", "\ud800", [], [[]], {}, {"a": 1})
REMOVED = object()


def places(value: object, place: tuple = ()) -> Iterator[tuple]:
    """The keys and indices that lead to each value, containers included."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*place, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*place, index))


def variants(document: dict) -> Iterator[tuple[str, dict]]:
    """What was done, and the document with it."""
    for place in places(document):
        for wrong in (*WRONG, REMOVED):
            changed = copy.deepcopy(document)
            parent = changed
            for step in place[:-1]:
                parent = parent[step]
            if wrong is REMOVED:
                del parent[place[-1]]
                yield f"{place} removed", changed
            else:
                parent[place[-1]] = wrong
                yield (
                    f"{place} = {str(wrong)[:20]!r}" if wrong != 10**400 else f"{place} = 10^400",
                    changed,
                )
