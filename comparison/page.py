"""The page: index.html by its template, and the same numbers as JSON beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from comparison import plots, words
from comparison.groups import MEAN, Group
from utils.files import replacing

HEADS = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hd95_voxel": "HD95, voxels",
    "asd_voxel": "ASD, voxels",
    "hd95_mm": "HD95, mm",
    "asd_mm": "ASD, mm",
}
TITLES = {
    "honest": (
        "Honest, in voxels",
        "An empty prediction gets Dice 0 and the image's diagonal as distance; rightly empty is perfect.",
    ),
    "honest_mm": ("Honest, in mm", "As above, distances in millimetres."),
    "as_published": (
        "As published, in voxels",
        "An empty prediction gets 0 for all four figures, for distances the best value there is.",
    ),
}


def write_page(path: Path, content: Mapping) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fixed, "signed": _signed, "p": words.p_value}
    page = environment.get_template("page.html").render(content)
    with replacing(path) as unfinished:
        # a path need not be valid UTF-8
        unfinished.write_text(page.lstrip() + "\n", encoding="utf-8", errors="backslashreplace")


def conventions(figures: Sequence[Mapping]) -> list[dict]:
    """The conventions that every group has, with the columns of their tables."""
    return [
        {
            "name": name,
            "title": title,
            "note": note,
            "columns": [
                {
                    "name": key,
                    "convention": name,
                    "head": HEADS[key],
                    "digits": 3 if key in ("dice", "jaccard") else 2,
                }
                for key in figures[0][name][MEAN]
                if name != "honest_mm" or key not in ("dice", "jaccard")
            ],
        }
        for name, (title, note) in TITLES.items()
        if all(one[name] for one in figures)
    ]


def interval_plots(
    parts: Sequence[Mapping], rows: Sequence[dict], distances: Mapping
) -> list[plots.Plot]:
    """Differences of honest Dice and HD95, where they are known; `parts`: the groups as compare.json has them."""
    found = []
    for title, convention, figure in (
        ("Dice (higher is better)", "honest", "dice"),
        (f"HD95, {distances['unit']} (lower is better)", distances["name"], distances["figure"]),
    ):
        known = [
            (number, part["name"], part["against_first"][convention])
            for number, part in enumerate(parts)
            if number
        ]
        known = [
            (number, name, [some[row["name"]][figure] for row in rows])
            for number, name, some in known
            if some
        ]
        lines = [line for line in known if all(line[2])]
        if lines:
            found.append(plots.intervals(title, [row["name"] for row in rows], lines))
    return found


def case_plots(groups: Sequence[Group], rows: Sequence[dict]) -> list[plots.Plot]:
    """Dice of each case: the mean over the classes, and each class."""
    found = []
    for number, row in enumerate(rows):
        columns = [(group.name, group.per_case("honest", "dice")[:, number]) for group in groups]
        if all(value == value for _, column in columns for value in column):
            found.append(plots.cases(row["title"], groups[0].results[0].cases, columns))
    return found


def curve_plots(groups: Sequence[Group], classes: Sequence[str]) -> tuple[list[plots.Plot], bool]:
    """Training loss and validation Dice over all stages; of a single run also the Dice of each class, and then True."""
    loss, dice, by_class, borders = [], [], [], []
    alone = len(groups) == 1 and len(groups[0].results) == 1
    for number, group in enumerate(groups):
        for result in group.results:
            start, mine = 0, []
            for stage in result.stages.values():
                mine += [(start + row["step"], row) for row in stage.progress["history"]]
                if start and not (loss and loss[0][1] != f"{number}"):
                    borders.append(start)
                start += stage.progress["step"]
            if mine:
                loss.append((number, f"{number}", [(step, row["loss"]) for step, row in mine]))
                scores = [(step, row["score"]) for step, row in mine if "score" in row]
                if scores:  # a run with --select last validates nothing
                    dice.append((number, f"{number}", scores))
            if alone and mine and len(classes) > 1:
                keys = [f"dice_{name.replace(' ', '_')}" for name in classes]
                by_class = [
                    (i, name, [(step, row[key]) for step, row in mine if key in row])
                    for i, (name, key) in enumerate(zip(classes, keys, strict=True))
                ]
    if not loss:
        return [], False
    found = [plots.curves("Training loss", loss, None, sorted(set(borders)))]
    if dice:
        found.insert(0, plots.curves("Validation Dice", dice, (0.0, 1.0), sorted(set(borders))))
    if by_class and all(points for _, _, points in by_class):
        found.insert(
            1,
            plots.curves(
                "Validation Dice of each class", by_class, (0.0, 1.0), sorted(set(borders))
            ),
        )
    return found, bool(by_class)


def key(number: int) -> Markup:
    """A group's mark, inside the drawing of a legend."""
    plot = plots.Plot("", "", (0, 1), (0, 1))
    plot.at = lambda x, y: (0.0, 0.0)
    plot.mark(0, 0, number, size=4.5)
    return Markup(plot.parts[0])


def keys_list(names: Sequence[str]) -> Markup:
    """The legend of several groups; nothing for one."""
    if len(names) < 2:
        return Markup("")
    items = "".join(
        f'<li><svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">{key(i)}</svg>{escape(name)}</li>'
        for i, name in enumerate(names)
    )
    return Markup(f'<ul class="keys">{items}</ul>')


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
