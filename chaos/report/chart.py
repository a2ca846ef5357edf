"""The timeline as SVG: percentiles of the answers and failures of each second, with the faults shaded behind them."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT = 1200, 96, 24
LATENCY_TOP, LATENCY_BOTTOM = 56, 330
FAILED_TOP, FAILED_BOTTOM = 380, 500
HEIGHT = 560
LEAST_MS = 1.0
GAP_S = 3.0


class Axis:
    """Seconds to pixels, and milliseconds to pixels on a logarithmic scale."""

    def __init__(self, seconds: float, most_ms: float) -> None:
        self.seconds = max(seconds, 1.0)
        self.decades = max(1, math.ceil(math.log10(max(most_ms, 10.0) / LEAST_MS)))

    def x(self, second: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(second, 0.0), self.seconds) / self.seconds, 1)

    def y(self, ms: float) -> float:
        share = math.log10(max(ms, LEAST_MS) / LEAST_MS) / self.decades
        return round(LATENCY_BOTTOM - (LATENCY_BOTTOM - LATENCY_TOP) * min(share, 1.0), 1)


def render(document: dict[str, Any]) -> str:
    public, sensitive = document["public"], document["sensitive"]
    most_ms = max((one["p99_ms"] for one in (*public, *sensitive)), default=10.0)
    axis = Axis(len(public), most_ms)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Answers and failures of each second">',
        *_windows(document["windows"], axis),
        *_grid(axis),
        _line(public, "p99_ms", axis, "public p99"),
        _line(public, "p50_ms", axis, "public p50"),
        _line(sensitive, "p99_ms", axis, "sensitive p99"),
        *_failures(public, sensitive, axis),
        *_labels(axis),
        "</svg>",
    ]
    return "\n".join(parts)


def _windows(windows: Sequence[dict[str, Any]], axis: Axis) -> list[str]:
    parts, labelled = [], 0.0
    for window in windows:
        begins, ends = axis.x(window["began_s"]), axis.x(window["ended_s"] or axis.seconds)
        width = max(ends - begins, 3.0)
        label = escape(window["what"])
        parts.append(
            f'<rect class="fault" x="{begins}" y="{LATENCY_TOP - 20}" width="{width:.1f}" '
            f'height="{FAILED_BOTTOM - LATENCY_TOP + 20}"><title>{label}</title></rect>'
        )
        # Faults of one moment share a place; one label stands for them.
        if not parts[:-1] or begins - labelled > 160:
            parts.append(f'<text class="what" x="{begins + 4:.1f}" y="{LATENCY_TOP - 28}">{label}</text>')
            labelled = begins
    return parts


def _grid(axis: Axis) -> list[str]:
    parts = []
    for decade in range(axis.decades + 1):
        ms = LEAST_MS * 10**decade
        label = f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis.y(ms)}" y2="{axis.y(ms)}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 10}" y="{axis.y(ms) + 6}" text-anchor="end">{label}</text>')
    step = next(one for one in (5, 10, 20, 30, 60, 120, 300, 600, 3600) if axis.seconds / one <= 14 or one == 3600)
    for second in range(0, int(axis.seconds) + 1, step):
        x = axis.x(second)
        parts.append(f'<text class="tick" x="{x}" y="{FAILED_BOTTOM + 26}" text-anchor="middle">{second} s</text>')
    return parts


def _line(seconds: Sequence[dict[str, Any]], key: str, axis: Axis, name: str) -> str:
    """Where nothing went well for a while there is no line: nothing is known of that time."""
    pieces: list[list[str]] = []
    last_s = -math.inf
    for one in seconds:
        if one["calls"] > one["failed"]:
            if one["at_s"] - last_s > GAP_S:
                pieces.append([])
            pieces[-1].append(f"{axis.x(one['at_s'] + 0.5)},{axis.y(one[key])}")
            last_s = one["at_s"]
    style = name.replace(" ", "-")
    return "\n".join(f'<polyline class="{style}" points="{" ".join(piece)}"/>' for piece in pieces)


def _failures(public: Sequence[dict[str, Any]], sensitive: Sequence[dict[str, Any]], axis: Axis) -> list[str]:
    worst = max((one["failed"] for one in (*public, *sensitive)), default=0)
    parts = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{FAILED_BOTTOM}" y2="{FAILED_BOTTOM}"/>',
        f'<text class="tick" x="{LEFT - 10}" y="{FAILED_BOTTOM}" text-anchor="end">0</text>',
    ]
    if not worst:
        middle = (FAILED_TOP + FAILED_BOTTOM) / 2 + 8
        return [*parts, f'<text class="none" x="{WIDTH / 2}" y="{middle}" text-anchor="middle">no call failed</text>']
    parts.append(f'<text class="tick" x="{LEFT - 10}" y="{FAILED_TOP + 8}" text-anchor="end">{worst}</text>')
    bar = max((WIDTH - LEFT - RIGHT) / axis.seconds / 2 - 0.5, 1.0)
    for shift, name, seconds in ((0.0, "sensitive-failed", sensitive), (0.5, "public-failed", public)):
        for one in seconds:
            if one["failed"]:
                height = max((FAILED_BOTTOM - FAILED_TOP) * one["failed"] / worst, 3.0)
                parts.append(
                    f'<rect class="{name}" x="{axis.x(one["at_s"] + shift)}" y="{FAILED_BOTTOM - height:.1f}" '
                    f'width="{bar:.1f}" height="{height:.1f}"><title>{one["failed"]} failed</title></rect>'
                )
    return parts


def _labels(axis: Axis) -> list[str]:
    return [
        f'<text class="panel" x="{LEFT + 8}" y="{LATENCY_TOP + 18}">time to the answer (logarithmic)</text>',
        f'<text class="panel" x="{LEFT + 8}" y="{FAILED_TOP - 10}">calls that failed, each second</text>',
    ]
