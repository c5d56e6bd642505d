"""The recall report as a picture: recall against the bytes of a vector, a line a dtype, a panel a k.

In: a recall report. Out: an SVG, the same bytes for the same report and version of matplotlib.
"""

from __future__ import annotations

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from pipeline.evaluation.recall import RecallReport

__all__ = ["recall_svg"]

_PANEL_INCHES = (5.5, 4.2)
_MARKS = {"float32": "o", "float16": "s", "int8": "^", "binary": "D"}
"""A shape each: colours alone do not tell lines apart in print, nor to everybody."""


def recall_svg(report: RecallReport) -> bytes:
    """The picture, UTF-8 SVG."""
    ks = sorted({cell.k for cell in report.cells})
    # Without a salt and with a date, every picture would be another file.
    with matplotlib.rc_context({"svg.hashsalt": "lakevec"}):
        figure = Figure(figsize=(_PANEL_INCHES[0] * len(ks), _PANEL_INCHES[1]), layout="constrained")
        for axes, k in zip(figure.subplots(1, len(ks), squeeze=False, sharey=True)[0], ks, strict=True):
            _panel(axes, report, k)
        figure.suptitle(f"Neighbours kept: {report.queries} queries, {report.documents} items")
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
        return sink.getvalue()


def _panel(axes: Axes, report: RecallReport, k: int) -> None:
    for dtype, mark in _MARKS.items():
        cells = sorted((c for c in report.cells if (c.k, c.dtype) == (k, dtype)), key=lambda c: c.dim)
        if not cells:
            continue
        axes.plot([c.bytes_per_vector for c in cells], [c.recall for c in cells], marker=mark, label=dtype)
        for cell in cells:
            axes.annotate(
                str(cell.dim),
                (cell.bytes_per_vector, cell.recall),
                xytext=(3, -9),
                textcoords="offset points",
                fontsize=7,
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("bytes of a vector (numbers at points: dim)")
    axes.set_ylabel(f"recall@{k}")
    axes.set_title(f"k = {k}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
