"""Small plots as SVG. Their colours and fonts come from the page's style sheet, so that they also
suit dark mode and phones.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import chain

from reporting.scores import PairedDifference

# Width of the drawing. Font sizes are in the same units, so a plot must not be shown much narrower.
WIDTH = 360
MARGIN_TOP = 10
MARGIN_RIGHT = 12
DESCENDERS = 6
"""Room below the last line of text for letters such as g and p."""
CHARACTER = 8
"""Width of a character in most fonts, at most."""
LONGEST_NAME = 22
"""Number of characters in a line of a row's name, which has at most two lines."""
LINE_HEIGHT = 12
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = 6  # number of colours in the style sheet, .c0 to .c5
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A curve with the number of its colour."""

    colour: int
    points: Sequence[Point]


@dataclass(frozen=True)
class Column:
    """The scores of a group, one per case."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True)
class Intervals:
    """The differences of a group to the reference, one per row of the plot."""

    colour: int
    name: str
    differences: Sequence[PairedDifference]


@dataclass
class Plot:
    """A drawing with axes. `x` and `y`: lowest and highest value on each axis.

    `label`: text for screen readers.

    Drawn elements are collected in `parts`.
    """

    title: str
    label: str
    x: Point
    y: Point
    height: int = 240
    margin_left: int = 44
    margin_bottom: int = 38
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """Position in the drawing of the values x and y."""
        width = WIDTH - self.margin_left - MARGIN_RIGHT
        height = self.height - MARGIN_TOP - self.margin_bottom
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return self.margin_left + across * width, MARGIN_TOP + (1 - up) * height

    def line(self, points: Iterable[Point], style: str) -> None:
        """Draw a line through the points."""
        positions = [self.at(x, y) for x, y in points]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
        self.parts.append(f'<polyline class="{style}" points="{text}"/>')

    def mark(self, x: float, y: float, number: int, title: str = "", size: float = 3.2) -> None:
        """Draw a dot in the colour and shape of group `number`; `title` is shown on hovering."""
        self.parts.append(symbol(self.at(x, y), number, size=size, title=title))

    def text(self, x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> None:
        """Write text at a position of the drawing."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
            f"{escape(words)}</text>"
        )

    def x_axis(self, name: str, with_ticks: bool = True) -> None:
        """Name the x axis below its middle, or further left where a long name has no room, and
        write round numbers.
        """
        if with_ticks:
            for value in ticks(*self.x):
                across, down = self.at(value, self.y[0])
                self.text(across, down + 15, number(value))
        middle = self.margin_left + (WIDTH - self.margin_left - MARGIN_RIGHT) / 2
        rightmost = WIDTH - CHARACTER * len(name) / 2
        self.text(min(middle, rightmost), self.height - DESCENDERS, name)

    def y_grid(self) -> None:
        """Draw horizontal lines at round numbers, and make room for the longest of them."""
        values = ticks(*self.y)
        longest = max(len(number(value)) for value in values)
        self.margin_left = max(self.margin_left, CHARACTER * longest + 8)
        for value in values:
            self.line([(self.x[0], value), (self.x[1], value)], "rule")
            _, down = self.at(0, value)
            self.text(self.margin_left - 6, down + 4, number(value), anchor="end")

    def svg(self) -> str:
        """The drawing as an SVG element."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-label="{escape(self.label, quote=True)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self.parts)}</svg>'
        )


def symbol(position: Point, number: int, size: float, title: str = "") -> str:
    """SVG of the dot of group `number` at a position of the drawing.

    `title` is shown on hovering.
    """
    x, y = position
    reach = size * 1.3
    side = size * 1.8
    shape = SHAPES[number % len(SHAPES)]
    if shape == "circle":
        tag = "circle"
        geometry = f'cx="{x:.1f}" cy="{y:.1f}" r="{size}"'
    elif shape == "square":
        tag = "rect"
        corner = f'x="{x - size * 0.9:.1f}" y="{y - size * 0.9:.1f}"'
        geometry = f'{corner} width="{side:.1f}" height="{side:.1f}"'
    else:
        tag = "path"
        top = f"M{x:.1f} {y - reach:.1f}"
        if shape == "triangle":
            outline = f"{top}L{x + reach:.1f} {y + size * 0.8:.1f}H{x - reach:.1f}Z"
        else:
            right = f"L{x + reach:.1f} {y:.1f}"
            bottom = f"L{x:.1f} {y + reach:.1f}"
            outline = f"{top}{right}{bottom}L{x - reach:.1f} {y:.1f}Z"
        geometry = f'd="{outline}"'
    start = f'<{tag} {geometry} class="dot c{number % COLOURS}"'
    if not title:
        return f"{start}/>"
    return f"{start}><title>{escape(title)}</title></{tag}>"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    if not high > low:
        return [low]
    exact = (high - low) / count
    power = 10 ** math.floor(math.log10(exact))
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10)]
    step = next(step for step in steps if step >= exact * 0.999)
    first = math.ceil(low / step - 1e-9)
    most = int((high - low) / step + 1e-9) + 2
    numbers = range(first, first + most)
    return [round(i * step, 12) for i in numbers if i * step <= high + 1e-9 * step]


def number(value: float) -> str:
    """Text of a tick: thousands as 2k, no more digits than needed."""
    if abs(value) >= 1000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def span(values: Iterable[float], around: float = 0.05) -> Point:
    """Lowest and highest of the finite values with some room around them.

    0 and 1 if there are none; to 1 if all are 0.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low = min(finite)
    high = max(finite)
    if low == high == 0:
        high = 1.0
    room = (high - low) * around or abs(low) * around
    return low - room, high + room


def cut(name: str, length: int) -> str:
    """The name, shortened if it is longer than `length` characters."""
    if len(name) <= length:
        return name
    return name[: length - 1] + "…"


def plot_curves(
    title: str, curves: Sequence[Curve], limits: Point | None, borders: Sequence[float]
) -> Plot:
    """Plot curves over the iterations.

    `limits`: of the y axis, None to fit the curves. `borders`: where stages begin.
    """
    points = list(chain.from_iterable(curve.points for curve in curves))
    plot = Plot(
        title,
        f"{title} over the iterations, {len(curves)} curves",
        x=(0.0, max((x for x, _ in points), default=1)),
        y=limits or span(y for _, y in points),
    )
    plot.y_grid()
    plot.x_axis("iteration")
    for border in borders:
        plot.line([(border, plot.y[0]), (border, plot.y[1])], "border")
    for curve in curves:
        plot.line(curve.points, f"curve s{curve.colour % COLOURS}")
    return plot


def plot_cases(title: str, names: Sequence[str], columns: Sequence[Column]) -> Plot:
    """Plot a value per case and group, cases in the order of the first group's values."""
    first = columns[0]
    order = sorted(range(len(names)), key=lambda case: first.values[case])
    low, high = span(chain.from_iterable(column.values for column in columns))
    plot = Plot(
        title,
        f"{title} of each of {len(names)} cases, one dot per case and group",
        x=(-0.8, len(names) - 0.2),
        y=(max(low, 0), min(high, 1.0)),
    )
    plot.y_grid()
    plot.x_axis(f"{len(names)} cases, in the order of {cut(first.name, 24)}", with_ticks=False)
    size = 2.6 if len(names) > 30 else 3.2
    for x, case in enumerate(order):
        values = [column.values[case] for column in columns]
        if len(columns) > 1:
            plot.line([(x, min(values)), (x, max(values))], "rule")
        for colour, value in enumerate(values):
            text = f"{names[case]}, {columns[colour].name}: {value:.3f}"
            plot.mark(x, value, number=colour, title=text, size=size)
    return plot


def plot_intervals(
    title: str,
    rows: Sequence[str],
    groups: Sequence[Intervals],
    reference: str,
) -> Plot:
    """Plot differences to `reference` with their intervals: a row for each name in `rows`, in it a
    line for each group.
    """
    names = [
        textwrap.wrap(name, LONGEST_NAME, max_lines=2, placeholder="…") or [""] for name in rows
    ]
    longest = max(len(line) for name in names for line in name)
    margin_left = CHARACTER * longest + 16
    values = [0.0]
    for group in groups:
        for one in group.differences:
            values += [one.low, one.high]
    lines = max(map(len, names))
    step = 14 * len(groups) + LINE_HEIGHT * lines
    count = len(rows)
    plot = Plot(
        title,
        f"{title}: difference to {reference} with 95 % interval",
        x=span(values),
        y=(0, count),
        height=step * count + MARGIN_TOP + Plot.margin_bottom,
        margin_left=margin_left,
    )
    plot.x_axis(f"difference to {cut(reference, LONGEST_NAME)}")
    plot.line([(0, 0), (0, count)], "zero")
    for row, name in enumerate(names):
        top = count - row
        _, middle = plot.at(0, top - 0.5)
        down = middle + 4 - LINE_HEIGHT * (len(name) - 1) / 2
        for line_of_name in name:
            plot.text(margin_left - 8, down, line_of_name, anchor="end")
            down += LINE_HEIGHT
        if row > 0:
            plot.line([(plot.x[0], top), (plot.x[1], top)], "rule")
        for line, group in enumerate(groups):
            y = top - (line + 0.5 + 0.3) / (len(groups) + 0.6)
            _draw_interval(plot, group, row=row, y=y, name=rows[row])
    return plot


def _draw_interval(plot: Plot, group: Intervals, row: int, y: float, name: str) -> None:
    one = group.differences[row]
    plot.line([(one.low, y), (one.high, y)], f"interval s{group.colour % COLOURS}")
    interval = f"{one.low:+.3f} to {one.high:+.3f}"
    text = f"{group.name}, {name}: {one.difference:+.3f} ({interval})"
    plot.mark(one.difference, y, number=group.colour, title=text, size=4)
