"""Small plots as SVG: their colours and letters are the page's, so that they are right in the dark and on a phone too."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 360  # of the drawing; letters are in its units, so a plot is never shown much narrower
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = 6  # the page has so many, .c0 to .c5


@dataclass
class Plot:
    """Axes from `x` and `y` (low, high) onto a drawing; what is drawn is collected in `parts`. `label`: for those who cannot see it."""

    title: str
    label: str
    x: tuple[float, float]
    y: tuple[float, float]
    height: int = 240
    left: int = 44
    bottom: int = 34
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return self.left + across * (WIDTH - self.left - 12), 10 + (1 - up) * (
            self.height - 10 - self.bottom
        )

    def line(self, points: Iterable[tuple[float, float]], style: str) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self.parts.append(f'<polyline class="{style}" points="{places}"/>')

    def mark(self, x: float, y: float, number: int, title: str = "", size: float = 3.2) -> None:
        """A dot in the colour and shape of group `number`; `title` shows when it is pointed at."""
        a, b = self.at(x, y)
        shape, s = SHAPES[number % len(SHAPES)], size
        up, down, left, right = b - s * 1.3, b + s * 1.3, a - s * 1.3, a + s * 1.3
        drawn = {
            "circle": f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{s}"',
            "square": f'<rect x="{a - s * 0.9:.1f}" y="{b - s * 0.9:.1f}" width="{s * 1.8:.1f}" height="{s * 1.8:.1f}"',
            "triangle": f'<path d="M{a:.1f} {up:.1f}L{right:.1f} {b + s * 0.8:.1f}H{left:.1f}Z"',
            "diamond": f'<path d="M{a:.1f} {up:.1f}L{right:.1f} {b:.1f}L{a:.1f} {down:.1f}L{left:.1f} {b:.1f}Z"',
        }[shape]
        inside = f"><title>{escape(title)}</title></{drawn[1:].split(' ')[0]}>" if title else "/>"
        self.parts.append(f'{drawn} class="dot c{number % COLOURS}"{inside}')

    def text(self, x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> None:
        """Words at a place of the drawing itself."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(words)}</text>'
        )

    def grid(
        self, x_name: str = "", y_name: str = "", x_ticks: bool = True, y_ticks: bool = True
    ) -> None:
        """Lines at round numbers, and the axes' names."""
        for value in ticks(*self.y) if y_ticks else ():
            self.line([(self.x[0], value), (self.x[1], value)], "rule")
            self.text(self.left - 6, self.at(0, value)[1] + 4, number(value), "end")
        for value in ticks(*self.x) if x_ticks else ():
            place = self.at(value, self.y[0])
            self.text(place[0], place[1] + 15, number(value))
        if x_name:
            self.text(self.left + (WIDTH - self.left - 12) / 2, self.height - 3, x_name)
        if y_name:
            self.text(-(self.height - self.bottom) / 2 - 5, 11, y_name, style="upright")

    def svg(self) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(self.label, quote=True)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self.parts)}</svg>'
        )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [
        round((first + i) * step, 12)
        for i in range(int((high - low) / step + 1e-9) + 2)
        if (first + i) * step <= high + 1e-9 * step
    ]


def number(value: float) -> str:
    """A tick's number: thousands as 2k, no more digits than it needs."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 and value % 100 == 0 else f"{value:g}"


def span(values: Iterable[float], least: float = 0.0, around: float = 0.05) -> tuple[float, float]:
    """Lowest and highest of the values with some room, at least `least` wide; 0 to 1 where there is none."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = max((high - low) * around, (least - (high - low)) / 2, 1e-9)
    return low - room, high + room


def cut(name: str, length: int = 16) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def curves(
    title: str,
    lines: Sequence[tuple[int, str, list[tuple[float, float]]]],
    limits: tuple[float, float] | None,
    borders: Sequence[float],
) -> Plot:
    """Curves over the iterations; `lines`: colour, what it is, points. `borders`: where a stage begins."""
    points = [point for *_, some in lines for point in some]
    x = (0.0, max((point[0] for point in points), default=1))
    plot = Plot(
        title,
        f"{title} over the iterations, {len(lines)} curves",
        x,
        limits or span(point[1] for point in points),
    )
    plot.grid("iteration")
    for border in borders:
        plot.line([(border, plot.y[0]), (border, plot.y[1])], "border")
    for colour, _, some in lines:
        plot.line(some, f"curve s{colour % COLOURS}")
    return plot


def cases(title: str, names: Sequence[str], columns: Sequence[tuple[str, Sequence[float]]]) -> Plot:
    """A value for each case and group, cases in the order of the first group's values."""
    order = sorted(range(len(names)), key=lambda i: columns[0][1][i])
    values = [value for _, column in columns for value in column]
    low, high = span(values)
    plot = Plot(
        title,
        f"{title} of each of {len(names)} cases, one dot a case and group",
        (-0.8, len(names) - 0.2),
        (max(low, 0), min(high, 1.0)),
    )
    plot.grid(f"{len(names)} cases, in the order of {cut(columns[0][0], 24)}", x_ticks=False)
    for place, case in enumerate(order):
        if len(columns) > 1:
            mine = [column[case] for _, column in columns]
            plot.line([(place, min(mine)), (place, max(mine))], "rule")
        for colour, (name, column) in enumerate(columns):
            plot.mark(
                place,
                column[case],
                colour,
                f"{names[case]}, {name}: {column[case]:.3f}",
                2.6 if len(names) > 30 else 3.2,
            )
    return plot


def intervals(
    title: str, rows: Sequence[str], groups: Sequence[tuple[int, str, Sequence[dict]]]
) -> Plot:
    """Differences to the first group with their intervals: a row for each class, in it a line for each other group."""
    values = [
        value for *_, some in groups for one in some for value in (one["low"], one["high"], 0.0)
    ]
    step, count = 14 * len(groups) + 12, len(rows)
    plot = Plot(
        title,
        f"{title}: difference to the first group with 95 % interval",
        span(values),
        (0, count),
        step * count + 44,
        left=112,
    )
    plot.grid("difference to the first group", y_ticks=False)
    plot.line([(0, 0), (0, count)], "zero")
    for row, name in enumerate(rows):
        plot.text(plot.left - 8, plot.at(0, count - row - 0.5)[1] + 4, cut(name), "end")
        if row:
            plot.line([(plot.x[0], count - row), (plot.x[1], count - row)], "rule")
        for place, (colour, group, some) in enumerate(groups):
            y, one = count - row - (place + 0.5 + 0.3) / (len(groups) + 0.6), some[row]
            plot.line([(one["low"], y), (one["high"], y)], f"interval s{colour % COLOURS}")
            plot.mark(
                one["difference"],
                y,
                colour,
                f"{group}, {name}: {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})",
                4,
            )
    return plot
