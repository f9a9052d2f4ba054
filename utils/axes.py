"""Axes of an array."""


def other_axes(dims: int, axis: int) -> tuple[int, ...]:
    """All axes of an array with `dims` axes, in order, except `axis`."""
    return tuple(number for number in range(dims) if number != axis)
