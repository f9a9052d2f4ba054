"""From tested runs to a page: the programs behind compare.py and report.py."""

from collections.abc import Sequence
from pathlib import Path

from comparison import page
from comparison.groups import MEAN, Group, against, figures, make_groups
from comparison.pictures import chosen_cases, panels
from comparison.results import Result, find_result
from comparison.settings import CompareSettings, PageSettings, ReportSettings
from programs.generic import own_root
from recipes.own import own_page
from recipes.registry import find_page
from training.results import write_json
from utils.cli import parse
from utils.errors import UserError, writing
from utils.pictures import colour
from utils.progress import progress
from utils.provenance import provenance


def compare(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Group and compare tested runs; see `CompareSettings`."""
    s = parse(CompareSettings, argv, description=description)
    s.check()
    groups = make_groups([find_result(path, s.which) for path in s.run], s.names)
    write(s, groups, "compare.json", s.seed, s.draws)


def report(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """The page of one run; see `ReportSettings`."""
    s = parse(ReportSettings, argv, description=description)
    s.check()
    write(s, make_groups([find_result(s.predictions or s.run or _run_folder(s), s.which)]), "report.json")


def write(s: PageSettings, groups: Sequence[Group], numbers: str, seed: int = 1337, draws: int = 10_000) -> None:
    """index.html and its numbers below `s.output`; the page's path is printed."""
    first, mine = groups[0].results[0], [figures(group) for group in groups]
    differences = [against(group, groups[0], seed, draws) for group in groups[1:]]
    rows = [{"name": name, "title": "mean over the classes" if name == MEAN else name} for name in (MEAN, *first.classes)]
    rows = rows[1:] if len(first.classes) == 1 else rows
    mm = all(one["honest_mm"] for one in mine)
    distances = {"name": "honest_mm" if mm else "honest", "figure": "hd95_mm" if mm else "hd95_voxel", "unit": "mm" if mm else "voxels"}
    about = provenance()
    content = {
        "dataset": first.summary.get("dataset"),
        "split": first.summary.get("split"),
        "cases": list(first.cases),
        "classes": list(first.classes),
        "groups": [
            {
                "name": group.name,
                "seeds": group.seeds,
                "traits": group.traits,
                "runs": [_run(one) for one in group.results],
                "figures": part,
            }
            | ({"differs": group.differs, "against_first": differences[number - 1]} if number else {})
            for number, (group, part) in enumerate(zip(groups, mine, strict=True))
        ],
        "bootstrap": {"draws": draws, "seed": seed, "level": 0.95, "unit": "cases"},
        "wilcoxon": "two-sided signed-rank test of per-case differences, cases without difference left out, not corrected",
        **about,
    }
    pictures, why_none = _pictures(s, groups)
    curves, by_class = page.curve_plots(groups, first.classes)
    names = [group.name for group in groups]
    shown = {
        "title": _title(groups),
        "subtitle": _subtitle(first, about["date"]),
        "groups": [
            {
                "name": group.name,
                "figures": one["figures"],
                "seeds": _seeds(group),
                "runs": one["runs"],
                "against": one.get("against_first", {}),
            }
            for group, one in zip(groups, content["groups"], strict=True)
        ],
        "cases": len(first.cases),
        "rows": rows,
        "conventions": page.conventions(mine),
        "distances": distances,
        "bootstrap": content["bootstrap"],
        "notes": _notes(groups),
        "keys": [page.key(number) for number in range(len(groups))],
        "keys_list": page.keys_list(names),
        "interval_plots": page.interval_plots(groups, differences, rows, distances),
        "case_plots": page.case_plots(groups, rows),
        "curve_plots": curves,
        "curve_keys": page.keys_list(first.classes if by_class else names),
        "curve_note": "Scored at each validation; the loss is the mean since the one before. A dotted line: the next stage begins.",
        "no_curves": "the runs' checkpoints (last.pth), which hold them, are not at hand",
        "pictures": pictures,
        "no_pictures": why_none,
        "swatches": [(name, colour(k)) for k, name in enumerate(first.classes, 1)],
        "differing": _differing(groups),
        "commands": [
            about["command"],
            *dict.fromkeys(one.summary["command"] for group in groups for one in group.results if "command" in one.summary),
        ],
        "versions": _versions(groups, about),
        "numbers": numbers,
        "footer": f"Made {about['date']}. All numbers of this page, and those it has no room for:",
    }
    with writing(s.output, "free space or name another place with --output"):
        s.output.mkdir(parents=True, exist_ok=True)
        write_json(s.output / numbers, content)
        page.write_page(s.output / "index.html", shown)
    print(_table(groups, mine, differences))
    print(f"the page: {s.output / 'index.html'}    its numbers: {s.output / numbers}")


def _run_folder(s: ReportSettings) -> Path:
    """The run's folder as training names it."""
    flags = [] if s.root_path is None else ["--root_path", str(s.root_path)]
    from dataloaders.plan import read_plan

    data = own_page(read_plan(s.root_path), s.root_path) if s.dataset == "ACDC" and own_root(flags) else find_page(s.dataset)
    return data.folder(s.output_root, s.exp, s.labelnum)


def _run(result: Result) -> dict:
    """What compare.json and the page say of one run."""
    return {
        "folder": str(result.folder),
        "seed": result.settings.get("seed"),
        "dice": result.summary["honest"]["mean"]["dice"],
        "selection": result.checkpoint.get("selection", "not known: predictions of another program"),
        "checkpoint": result.checkpoint.get("path"),
        "sha256": result.checkpoint.get("sha256"),
        "empty_predictions": result.summary["honest"]["empty_predictions"],
        **{key: result.summary.get(key) for key in ("command", "date", "versions", "git_commit", "machine")},
    }


def _pictures(s: PageSettings, groups: Sequence[Group]) -> tuple[list[dict], str]:
    if not s.pictures:
        return [], "left out by --no-pictures"
    found = []
    for word, number in progress(chosen_cases(groups).items(), desc="drawing", unit="case", leave=False):
        case = {"word": word, "name": groups[0].results[0].cases[number], "fault": "", "rows": []}
        try:
            dice = [float(group.results[0].values["honest"]["dice"][number].mean()) for group in groups]
            for row in panels(groups, case["name"], s.root_path):
                heads = [None] * (len(row) - len(dice)) + [None if value != value else value for value in dice]
                case["rows"].append([vars(panel) | {"dice": value} for panel, value in zip(row, heads, strict=True)])
        except UserError as error:
            case["fault"] = str(error)
            print(f"warning: no pictures of {case['name']}: {error}")
        found.append(case)
    if all(case["fault"] for case in found):
        return [], found[0]["fault"]
    return found, ""


def _title(groups: Sequence[Group]) -> str:
    return f"Report of {groups[0].name}" if len(groups) == 1 else f"{len(groups)} groups of runs, held against {groups[0].name}"


def _subtitle(first: Result, date: str) -> str:
    about = first.summary
    return f"{about.get('dataset')}, {about.get('split')}: {len(first.cases)} cases; {', '.join(first.classes)}. {date[:10]}."


def _seeds(group: Group) -> str:
    seeds = [str(seed) for seed in group.seeds if seed is not None]
    if not seeds:
        return "one set of predictions"
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds: {', '.join(seeds)}"


def _notes(groups: Sequence[Group]) -> list[str]:
    """What somebody who quotes the figures has to know."""
    results = [result for group in groups for result in group.results]
    notes = []
    spoilt = [
        group.name
        for group in groups
        if any("too good" in one.checkpoint.get("selection", "") and not one.is_last for one in group.results)
    ]
    if spoilt:
        notes.append(f"Selected on the test list, so that the figures are too good: {', '.join(spoilt)}. Those of --which last are not.")
    if len({len(group.results) for group in groups}) > 1 or any(len(group.results) == 1 for group in groups):
        few = [group.name for group in groups if len(group.results) == 1]
        if few:
            notes.append(f"One run each, so nothing tells what another seed would change: {', '.join(few)}.")
    missed = {group.name: sum(one.summary["honest"]["empty_predictions"] for one in group.results) for group in groups}
    if any(missed.values()):
        notes.append(
            "Structures not found at all: " + ", ".join(f"{name} {count}" for name, count in missed.items()) + ". Read the honest figures."
        )
    if any((values["dice"] != values["dice"]).any() for one in results for name, values in one.values.items() if name == "honest"):
        notes.append(
            "Some metrics.csv are older and do not hold the honest figures of empty predictions: test again to see honest differences."
        )
    return notes


def _differing(groups: Sequence[Group]) -> dict[str, list]:
    keys = dict.fromkeys(key for group in groups[1:] for key in group.differs)
    return {key: [_plain(group.traits.get(key)) for group in groups] for key in keys}


def _plain(value) -> str:
    return "–" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _versions(groups: Sequence[Group], about: dict) -> list[tuple[str, str]]:
    found = []
    summaries = [("this page", about), *(("tests", one.summary) for group in groups for one in group.results)]
    for what, one in summaries:
        versions = ", ".join(f"{name} {version}" for name, version in one.get("versions", {}).items() if version)
        commit = f"; commit {one['git_commit'][:12]}{'+changes' if '+' in one['git_commit'] else ''}" if one.get("git_commit") else ""
        found.append((what, f"{versions}{commit}; {one.get('machine', '')}"))
    return list(dict.fromkeys(found))


def _table(groups: Sequence[Group], mine: Sequence[dict], differences: Sequence[dict]) -> str:
    """What the terminal says: a line for each group."""
    lines = [f"{'honest, mean over the classes':<40}{'Dice':>16}   difference (95 % interval), p"]
    for number, (group, part) in enumerate(zip(groups, mine, strict=True)):
        dice = part["honest"][MEAN]["dice"]
        sd = "" if dice["sd"] is None else f" ({dice['sd']:.4f})"
        line = f"  {group.name[:36]:<38}{dice['mean']:>8.4f}{sd:>9}"
        one = differences[number - 1]["honest"] and differences[number - 1]["honest"][MEAN]["dice"] if number else None
        lines.append(line + (f"   {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}), {one['p']:.4f}" if one else ""))
    return "\n".join(lines)
