"""The page of a leaderboard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting import leaderboard_text as text
from reporting.html_page import write_page
from reporting.plots import Intervals, Plot, plot_intervals
from reporting.words import counted


def write_leaderboard(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page of a leaderboard with the content of leaderboard.json."""
    tables: Sequence[Mapping[str, Any]] = content["tables"]
    datasets = sorted({table["dataset"] for table in tables})
    methods = {row["method"] for table in tables for row in table["rows"]}
    shown = {
        **content,
        "title": f"Leaderboard: {', '.join(datasets)}",
        "subtitle": f"{counted(len(methods), 'method')}, {counted(len(tables), 'table')}",
        "tables": [_table(table) for table in tables],
    }
    write_page(path, shown, template="leaderboard.html")


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **table,
        "caption": text.caption(table),
        "tested": text.tested(table),
        "head": text.head(table),
        "cells": [text.cells(table, row) for row in table["rows"]],
        "first_to_second": text.first_to_second(table),
        "plot": _plot(table),
    }


def _plot(table: Mapping[str, Any]) -> Plot | None:
    """Draw the differences to the baseline, a row for each method; None if there is no other."""
    rows = [row for row in table["rows"] if "difference" in row]
    if not rows:
        return None
    titles = [row["title"] for row in rows]
    (baseline,) = [row["title"] for row in table["rows"] if "difference" not in row]
    intervals = Intervals(0, baseline, differences=[row["difference"] for row in rows])
    return plot_intervals(
        "Dice (higher is better)",
        titles,
        groups=[intervals],
        reference=baseline,
    )
