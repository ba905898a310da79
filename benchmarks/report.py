"""What a run of `benchmarks.compare` found: kept as JSON, shown as tables, drawn as a plot."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.claims import CELERY, CLAIMS, FLOOR, Figures
from benchmarks.contests import ROWS
from benchmarks.tables import align
from gtask.testing.processes import find_program


@dataclass
class Report:
    """The figures by row and contender, round by round, and under what conditions they came about."""

    machine: dict[str, str]
    settings: dict[str, float]
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """A report that was kept as JSON."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def data(self) -> dict[str, Any]:
        """What is kept as JSON; the claims are there for readers alone."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        better = self.better()
        claims = [{"claim": c.text, "least": round(c.least, 3), "ratio": c.ratio(better)} for c in CLAIMS]
        return {**kept, "claims": claims}

    def add(self, who: str, figures: Mapping[str, float]) -> None:
        """Takes the figures of one measurement."""
        for row, figure in figures.items():
            self.figures.setdefault(row, {}).setdefault(who, []).append(figure)

    def leave_out(self, who: str, why: str) -> None:
        """Notes that somebody does not take part, and why."""
        self.left_out[who] = why

    def fail(self, workload: str, who: str, why: str) -> None:
        """Notes that a workload could not be measured."""
        self.failed.setdefault(workload, {})[who] = why

    def better(self) -> Figures:
        """The figures so that larger ones are better: seconds become their reciprocals."""
        return {
            row: {
                who: [1 / figure if ROWS[row].less else figure for figure in some] for who, some in by_contender.items()
            }
            for row, by_contender in self.figures.items()
        }


def machine() -> dict[str, str]:
    """What this is run on."""
    cpus = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.*)$", cpus.read_text(), re.MULTILINE) if cpus.exists() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": str(os.cpu_count()),
        "processor": model[1] if model else platform.processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gearmand": _version("gearmand", "--version"),
        "redis-server": _version("redis-server", "--version"),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def _version(program: str, option: str) -> str:
    path = find_program(program)
    if path is None:
        return "not installed"
    said = subprocess.run([path, option], capture_output=True, text=True, timeout=10).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else said.strip()


def text(report: Report) -> str:
    """The tables: the figures, what was to be shown, who was left out, the machine."""
    parts = [claims_table(report), figures_table(report)]
    missing = [f"- {why}" for why in report.left_out.values()]
    missing += [f"- {workload}: {why}" for workload, some in report.failed.items() for why in some.values()]
    if missing:
        parts.append("Not measured:\n\n" + "\n".join(missing))
    load, cores = float(report.machine.get("load", 0)), int(report.machine.get("cores", 1))
    if load > cores / 2:
        busy = f"The machine was busy with other work when this was measured (load {load:g}, {cores} cores)"
        parts.insert(0, f"{busy}, so the ratios are rough.")
    versions = {**report.machine, **report.versions}
    parts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n\n".join(part for part in parts if part)


BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
"""Between these lines of a page of the documentation a report stands."""


def into_page(report: Report, page: Path) -> None:
    """Puts the report into a page of the documentation, its plot beside it; raises `ValueError` for none."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN.strip()} and {END}; write them where the figures are to stand.")
    picture = page.with_suffix(".svg")
    plot(report, picture)
    page.write_text(f"{before}{begin}{text(report)}\n\n![The medians]({picture.name})\n{END}{after}")


def figures_table(report: Report) -> str:
    """One line for each workload and contender: the median, its spread, and the ratios to Celery and to the floor."""
    lines = [["workload", "who", "median", "lowest..highest", ": Celery", ": floor"]]
    better = report.better()
    for row, kind in ROWS.items():
        for place, (who, some) in enumerate(sorted(report.figures.get(row, {}).items(), key=_best_first(row))):
            spread = f"{_short(min(some))}..{_short(max(some))}"
            title = "" if place else kind.title
            unit = kind.unit if kind.unit.startswith("/") else f" {kind.unit}"
            ratios = [_ratio(better[row].get(who), better[row].get(other)) for other in (CELERY, FLOOR)]
            lines.append([title, who, f"{_short(median(some))}{unit}", spread, *ratios])
    return align(lines, 2)


def claims_table(report: Report) -> str:
    """What was to be shown, of that for which both sides were measured; empty for nothing."""
    better = report.better()
    lines = [["to show", "at least", "shown", ""]]
    for claim in CLAIMS:
        ratio = claim.ratio(better)
        if ratio is not None:
            lines.append([claim.text, _short(claim.least), _short(ratio), "" if ratio >= claim.least else "missed"])
    return align(lines, 1) if len(lines) > 1 else ""


def _best_first(row: str) -> Any:
    def key(item: tuple[str, list[float]]) -> float:
        return median(item[1]) * (1 if ROWS[row].less else -1)

    return key


def _ratio(mine: list[float] | None, theirs: list[float] | None) -> str:
    if not mine or not theirs:
        return ""
    return _short(median(a / b for a, b in zip(mine, theirs, strict=False)))


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


PLOTTED = ("round_trip", "stored", "in_flight", "results", "enqueue", "bulk", "drain", "group", "chain", "idle")


def plot(report: Report, path: Path) -> None:
    """Draws the medians, a panel for each of the main workloads; needs matplotlib (``gtask[benchmarks]``)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = "gtask"  # the same figures give the same file
    from matplotlib import pyplot

    rows = [row for row in PLOTTED if row in report.figures]
    figure, axes = pyplot.subplots(len(rows), 1, squeeze=False, layout="constrained")
    sizes = [len(report.figures[row]) for row in rows]
    figure.set_size_inches(9, sum(0.24 * size + 0.6 for size in sizes))
    axes[0][0].get_gridspec().set_height_ratios(sizes)
    for row, (axis,) in zip(rows, axes, strict=True):
        ranked = sorted(report.figures[row].items(), key=_best_first(row), reverse=True)
        values = [median(some) for _, some in ranked]
        colours = [_colour(who) for who, _ in ranked]
        bars = axis.barh([who for who, _ in ranked], values, color=colours)
        axis.set_xscale("log")
        axis.set_xlim(left=min(values) / 2, right=max(values) * 2)
        axis.bar_label(bars, [_short(value) for value in values], padding=3, fontsize=8)
        unit = ROWS[row].unit if ROWS[row].unit.startswith("/") else f" in {ROWS[row].unit}, less is better"
        axis.set_title(f"{ROWS[row].title}, {unit}".replace(",  in", " in"), loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _colour(who: str) -> str:
    if who.startswith("gtask"):
        return "#1f77b4" if who == "gtask" else "#9ecae1"
    return "#bbbbbb" if who in ("process pool", "libgearman in C") or who.startswith(FLOOR) else "#e6a23c"
