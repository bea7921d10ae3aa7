"""Pictures of memory over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Timeline:
    """Activation bytes alive over one call: after each allocation or release, in order; ``share``
    is the share of the call's time, 0 to 1."""

    share: tuple[float, ...]
    live_bytes: tuple[int, ...]

    @property
    def peak_bytes(self) -> int:
        return max(self.live_bytes, default=0)


def timeline(events: Sequence[tuple[int, int]]) -> Timeline:
    """From an allocator's events: (time in ns, bytes; negative where freed)."""
    ordered = sorted(events, key=lambda event: event[0])
    if not ordered:
        return Timeline((), ())
    first, last = ordered[0][0], max(ordered[-1][0], ordered[0][0] + 1)
    share, live, total = [], [], 0
    for time, size in ordered:
        total += size
        share.append((time - first) / (last - first))
        live.append(total)
    return Timeline(tuple(share), tuple(live))


def draw_frontiers(
    frontiers: Mapping[str, Sequence[tuple[float, float]]], title: str, path: Path
) -> None:
    """Time ratio over the share of eager's peak: one line a name, a point a confirmed plan."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for name, points in frontiers.items():
        ordered = sorted(points)
        axes.plot(
            [share for share, _ in ordered], [ratio for _, ratio in ordered],
            marker="o", linewidth=1.2, markersize=4, label=name,
        )  # fmt: skip
    axes.axhline(1.0, color="#9aa3ad", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("activation peak, as a share of eager's")
    axes.set_ylabel("time, relative to eager")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if frontiers:
        axes.legend(fontsize=7, ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_timelines(lines: Mapping[str, Timeline], title: str, path: Path) -> None:
    """Memory over the course of a call, one line a name, with each peak marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = ("#9aa3ad", "#1f77b4", "#d1495b", "#2a9d8f")
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for (name, line), colour in zip(lines.items(), colours, strict=False):
        live = [value / MIB for value in line.live_bytes]
        peak = line.peak_bytes / MIB
        axes.step(line.share, live, where="post", color=colour, linewidth=1.2)
        axes.fill_between(line.share, live, step="post", color=colour, alpha=0.25)
        axes.axhline(peak, color=colour, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{name}: peak {peak:.1f} MiB", (1.0, peak), xytext=(-4, 4), ha="right",
            textcoords="offset points", color=colour, fontweight="bold",
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.15 * max((line.peak_bytes for line in lines.values()), default=1) / MIB)
    axes.set_xlabel("share of the call")
    axes.set_ylabel("activations alive (MiB)")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_rivals(
    points: Mapping[str, tuple[float, float, bool]],
    title: str,
    path: Path,
    time_label: str = "CPU time (ms)",
) -> None:
    """Memory and time of ways to run one model: (peak in MiB, time in ms, whether it is ours)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for ours, colour, marker in ((False, "#d1495b", "s"), (True, "#1f77b4", "o")):
        chosen = {name: point for name, point in points.items() if point[2] == ours}
        label = "ours" if ours else "instead"
        axes.scatter(
            [peak for peak, _, _ in chosen.values()], [time for _, time, _ in chosen.values()],
            c=colour, marker=marker, s=28, label=label,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    figure.canvas.draw()
    _label(axes, points)
    axes.set_xlabel("activation peak (MiB)")
    axes.set_ylabel(time_label)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(axes: Any, points: Mapping[str, tuple[float, float, bool]]) -> None:
    """A name beside each point, moved up or down as far as it must be to lie on nothing else."""
    places = {name: axes.transData.transform(point[:2]) for name, point in points.items()}
    taken = [(x - _MARK, y, 2 * _MARK) for x, y in places.values()]
    for name, (peak, time, ours) in sorted(points.items(), key=lambda item: item[1][:2]):
        text = name.removeprefix("ours ")
        x, y = places[name]
        left, width = x + 1.5 * _MARK, _CHARACTER * len(text)
        at = _free(left, y, width, taken)
        taken.append((left, at, width))
        shift = (at - y) * 72 / axes.figure.dpi
        axes.annotate(
            text, (peak, time), xytext=(5, shift), fontsize=7, textcoords="offset points",
            va="center", color="#1f77b4" if ours else "#d1495b",
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#9aa3ad"},
        )  # fmt: skip


_MARK, _CHARACTER, _LINE = 4.0, 6.5, 13.0
"""In pixels: half of a point's mark, a character's width, and a line's height."""


def _free(x: float, y: float, width: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """The height nearest to ``y`` at which a label beside ``x`` lies on none of those taken."""

    def is_free(at: float) -> bool:
        return all(
            abs(at - other) >= _LINE or x >= left + wide or left >= x + width
            for left, other, wide in taken
        )

    steps = (sign * step * _LINE / 2 for step in range(200) for sign in (1, -1))
    return next((y + step for step in steps if is_free(y + step)), y)
