"""Plots results as PNG with matplotlib, which is an extra."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.bench.quality.strategies import STRATEGIES, Comparison, Point
from fleet.bench.report import number
from fleet.errors import ConfigError

if TYPE_CHECKING:
    from fleet.bench.quality.receipt import Receipt
    from fleet.bench.report import Report

GREY, BLUES, ORANGE = "0.45", ("#9ecae1", "#4292c6", "#08519c"), "#d95f02"
_LOOKS: dict[str, dict[str, Any]] = {
    "single": {"color": "black", "marker": "*", "linestyle": "none", "markersize": 8},
    "best_of_n": {"color": "black", "marker": "s"},
    "no_round": {"color": GREY, "marker": "D", "linestyle": "--"},
    "1_round": {"color": BLUES[0], "marker": "o"},
    "2_rounds": {"color": BLUES[1], "marker": "o"},
    "3_rounds": {"color": BLUES[2], "marker": "o"},
    "early_stop": {"color": ORANGE, "marker": "^", "linestyle": ":"},
    "majority": {"color": "black", "marker": "x", "linestyle": "none"},
}
_TITLES = {strategy.name: strategy.title for strategy in STRATEGIES} | {"majority": "majority of N answers"}
_RANKINGS = ("random", "first", "copeland", "borda", "raw_mean", "ours")


MARKED = 12
"""Lines with fewer points than this show them."""


def check() -> None:
    """Raises `ConfigError` when there is nothing to plot with."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'deliberation-fleet[bench]'") from None


def figures(report: "Report", path: Path) -> None:
    """Every figure as a ratio to its baseline, and the report's own panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * (1 + len(report.panels)), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 1 + len(report.panels), squeeze=False)[0])
    _ratios(axes[0], report)
    for axis, panel in zip(axes[1:], report.panels, strict=True):
        for name, points in panel.series.items():
            marker = "o" if len(points) < MARKED else None
            axis.plot([x for x, _ in points], [y for _, y in points], label=name, marker=marker, markersize=4)
        if panel.log_x:
            axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(panel.x)
        axis.set_ylabel(panel.y)
        axis.set_title(panel.title, fontsize=10)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f"fleet bench {report.mode} · {report.machine.get('date', '')}", fontsize=11)
    _save(figure, path)


def _ratios(axis: Any, report: "Report") -> None:
    """Value ÷ baseline, with the values beside it."""
    shown = [(name, found) for name, found in report.figures.items() if found.ratio is not None][::-1]
    for place, (name, found) in enumerate(shown):
        axis.barh(place, found.ratio, height=0.6, color=BLUES[1], xerr=found.error or 0)
        text = f"{found.ratio:.2f}  ({number(found.value)} : {number(found.baseline)})"
        axis.text(0, place + 0.42, f"{name}  {text}", va="bottom", fontsize=7)
    axis.axvline(1, color="black", linewidth=1, linestyle=(0, (1, 3)))
    axis.set_yticks([])
    axis.set_ylim(-0.6, max(1, len(shown)) - 0.1)
    axis.set_xlabel("value ÷ baseline")
    axis.set_title("Figures", fontsize=10)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise ConfigError(f"--plot: cannot write {path}: {error.strerror}") from None


def quality(receipt: "Receipt", path: Path) -> None:
    """One panel for who wins, one for each scenario, one for real models where there are any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(receipt.curves) + (receipt.real is not None)
    figure = Figure(figsize=(4.6 * panels, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels))
    _rates(axes[0], receipt)
    shown = list(zip(axes[1:], receipt.curves.items(), strict=False))
    for axis, (title, comparison) in shown:
        axis.sharey(axes[1])
        _curves(axis, title, comparison)
    if receipt.real is not None:
        _real(axes[-1], receipt.real)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    settings = receipt.report.settings
    title = f"fleet bench quality: {settings['trials']} trials, seed {settings['seed']} (bars: ± 1 standard error)"
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _rates(axis: Any, receipt: "Receipt") -> None:
    """How often the truly best proposal wins, by ranking."""
    trials = receipt.report.settings["trials"]
    for shift, colour, title, suffix in ((-0.2, GREY, "fair judges", ""), (0.2, BLUES[2], "biased judges", "_biased")):
        rates = receipt.report.figures[f"best_wins_vs_best_aggregator{suffix}"].more["rates"]
        values = [rates[name] for name in _RANKINGS]
        errors = [(rate * (1 - rate) / trials) ** 0.5 for rate in values]
        places = [place + shift for place in range(len(_RANKINGS))]
        axis.barh(places, values, height=0.38, color=colour, xerr=errors, label=title)
        for place, value, error in zip(places, values, errors, strict=True):
            axis.text(value + error + 0.015, place, f"{value:.2f}", va="center", fontsize=8)
    axis.set_yticks(range(len(_RANKINGS)), [name.replace("_", " ") for name in _RANKINGS])
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"truly best of {receipt.report.settings['agents']} proposals wins (rate)")
    axis.set_title("Who finds the best proposal", fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _curves(axis: Any, title: str, comparison: Comparison) -> None:
    for name, points in _by_strategy(comparison).items():
        if name == "single":
            # Far to the left of all others: as a point it would leave them no room.
            axis.axhline(points[0].quality, color="black", linewidth=1, linestyle=(0, (1, 3)), label=_TITLES[name])
            note = f"single answer, {points[0].tokens / 1000:.1f}k tokens"
            axis.annotate(
                note, (0.02, points[0].quality), (0, 3), axis.get_yaxis_transform(), "offset points", fontsize=8
            )
            continue
        axis.errorbar(
            [point.tokens / 1000 for point in points],
            [point.quality for point in points],
            yerr=[point.quality_error or 0 for point in points],
            **_look(name),
        )
    _tokens_axis(axis, comparison)
    axis.set_ylabel("true quality of the winner (points)")
    axis.set_title(f"Equal tokens, {title}", fontsize=10)


def _real(axis: Any, comparison: Comparison) -> None:
    for name, points in _by_strategy(comparison).items():
        axis.errorbar(
            [point.tokens / 1000 for point in points],
            [point.solved for point in points],
            yerr=[point.solved_error or 0 for point in points],
            **_look(name),
        )
        axis.annotate(
            _TITLES[name], (points[-1].tokens / 1000, points[-1].solved), (4, 5), fontsize=7, textcoords="offset points"
        )
    _tokens_axis(axis, comparison)
    axis.set_ylim(-0.05, 1.05)
    axis.set_ylabel("tasks solved (rate)")
    axis.set_title("Verifiable tasks, real model", fontsize=10)


def _look(name: str) -> dict[str, Any]:
    return {"label": _TITLES[name], "capsize": 2, "linewidth": 1.3, "markersize": 5, **_LOOKS[name]}


def _by_strategy(comparison: Comparison) -> dict[str, list[Point]]:
    """In the order of budgets; a single answer, which costs always the same, once."""
    found: dict[str, list[Point]] = {}
    for point in sorted(comparison.points, key=lambda point: point.budget):
        if point.strategy != "single" or "single" not in found:
            found.setdefault(point.strategy, []).append(point)
    return found


def _tokens_axis(axis: Any, comparison: Comparison) -> None:
    axis.set_xscale("log")
    ticks = sorted({round(point.budget / 1000, 1) for point in comparison.points})
    axis.set_xticks(ticks, [f"{tick:g}k" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("tokens per task")
    axis.grid(alpha=0.25)
