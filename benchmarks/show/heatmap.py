"""The ranks of all methods on all suites, as one picture."""

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.methods import BASELINES
from benchmarks.show.pictures import STYLE


def heatmap(ranks: Mapping[str, Mapping[str, float]]) -> bytes:
    """A PNG of suite to method to mean rank: the best methods on top, dark is good.

    The colours of a suite go from the first place to the last that it has.
    """
    methods = dict.fromkeys(method for places in ranks.values() for method in places)
    names = sorted(methods, key=lambda m: _mean([p[m] for p in ranks.values() if m in p]))
    values = np.array([[p.get(method, math.nan) for p in ranks.values()] for method in names])
    last = np.array([max(len(places), 2) for places in ranks.values()])
    shades = (values - 1) / (last - 1)
    with mpl.rc_context({**STYLE, "axes.grid": False, "text.parse_math": False}):
        figure = Figure(
            figsize=(2.2 + 0.9 * len(ranks), 1 + 0.22 * len(names)), layout="constrained"
        )
        axes = figure.subplots()
        axes.imshow(shades, cmap="GnBu_r", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if shades[row, column] < 0.3 else "black"
            text = "–" if math.isnan(value) else f"{value:.1f}"
            axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=8)
        axes.set_xticks(range(len(ranks)), list(ranks), rotation=30, ha="left")
        axes.set_yticks(range(len(names)), names)
        for tick in axes.get_yticklabels():
            if tick.get_text() in BASELINES:
                tick.set_fontstyle("italic")
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.spines[:].set_visible(False)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
    return picture.getvalue()


def _mean(places: Sequence[float]) -> float:
    known = [place for place in places if not math.isnan(place)]
    return float(np.mean(known)) if known else math.inf
