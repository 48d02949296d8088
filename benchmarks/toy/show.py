"""The table and the pictures of the suite ``toy``."""

import math
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich import box
from rich.table import Table

from benchmarks.errors import UserError
from benchmarks.show.pictures import STYLE
from benchmarks.toy.landscape import EXTENT, STARTS, Front, Trajectories, losses, pareto_front

TOLERANCE = 0.01
"""How near the front an end must be to count, as a fraction of each loss's range on the front."""

COLUMNS = 4
TIME = "plasma"  # The colour map of early to late.
FRONT = "#009E73"


def table(runs: Mapping[str, Trajectories], scale: float) -> Table:
    """One row for each method: how many starts reach the front, and where on it."""
    front = pareto_front(scale)
    last = next(iter(runs.values())).step[-1]
    result = Table(
        title=f"toy: after {last} steps from {len(STARTS)} starting points",
        caption=(
            f"On the front: ends no further from it than {TOLERANCE} of each loss's range there "
            "(an end that stays short of it is left out of the last two columns). Place: along "
            "the front from 0, the best for task 1, to 1, the best for task 2; 0.5 is balanced. "
            "Spread: largest place less smallest; 0 if the end does not depend on the start."
        ),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    result.add_column("method", no_wrap=True)
    for column in ("on the front", "mean loss 1", "mean loss 2", "mean place", "spread"):
        result.add_column(column, justify="right", no_wrap=True)
    for method, run in runs.items():
        ends = run.losses[:, -1]
        places = _places_reached(ends, front)
        result.add_row(
            method,
            f"{len(places)}/{len(ends)}",
            *(f"{mean:.2f}" for mean in ends.mean(axis=0)),
            f"{places.mean():.2f}" if len(places) else "–",
            f"{np.ptp(places):.2f}" if len(places) else "–",
        )
    return result


def draw(runs: Mapping[str, Trajectories], scale: float, folder: Path) -> None:
    """Write ``toy.png``, over the parameters, and ``toy_losses.png``, over the losses."""
    with mpl.rc_context(STYLE):
        pictures = {"toy.png": _landscape(runs, scale), "toy_losses.png": _loss_plane(runs, scale)}
        for name, figure in pictures.items():
            try:
                figure.savefig(folder / name)
            except OSError as error:
                raise UserError(f"{folder / name}: cannot be written ({error})") from error


def _places_reached(ends: Float[np.ndarray, "s 2"], front: Front) -> Float[np.ndarray, " r"]:
    """Where on the front those ends are that are on it."""
    places, distances = front.place(ends)
    return places[distances <= TOLERANCE]


def _landscape(runs: Mapping[str, Trajectories], scale: float) -> Figure:
    figure, panels, key = _panels(runs, scale)
    axis = np.linspace(-EXTENT, EXTENT, 401)
    x, y = np.meshgrid(axis, axis)
    mean = np.asarray(losses(jnp.stack([x, y]), scale)).mean(axis=0)
    # Twenty-five bands of equal area show the valleys as well as the bowls.
    levels = np.quantile(mean, np.linspace(0, 1, 26))
    # A grid's front is a narrow band of points: the line through its middle.
    parts = np.array_split(pareto_front(scale).params, 100)
    front = np.stack([part.mean(axis=0) for part in parts])
    for method, axes in panels.items():
        axes.grid(False)
        axes.contourf(x, y, mean, levels, cmap="Greys_r", norm=BoundaryNorm(levels, 256), alpha=0.5)
        axes.plot(*front.T, color=FRONT, lw=4, alpha=0.8, solid_capstyle="round")
        _trajectories(axes, runs[method].params)
        axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal")
        axes.set(xticks=(-8, 0, 8), yticks=(-8, 0, 8))
    figure.supxlabel("parameter 1", fontsize=9)
    figure.supylabel("parameter 2", fontsize=9)
    _legend(figure, key, "shade: mean loss, dark is low")
    return figure


def _loss_plane(runs: Mapping[str, Trajectories], scale: float) -> Figure:
    figure, panels, key = _panels(runs, scale)
    front = pareto_front(scale).losses
    for method, axes in panels.items():
        axes.plot(*front.T, color=FRONT, lw=4, alpha=0.8, solid_capstyle="round")
        _trajectories(axes, runs[method].losses)
        axes.set(xlim=(-22 * scale, 13 * scale), ylim=(-22, 13))
        axes.set_box_aspect(1)
    figure.supxlabel("loss 1", fontsize=9)
    figure.supylabel("loss 2", fontsize=9)
    _legend(figure, key, "nearer to the lower left is better")
    return figure


def _panels(runs: Mapping[str, Trajectories], scale: float) -> tuple[Figure, dict[str, Axes], Axes]:
    """A panel for each method, with how many of its ends are on the front, and one for the key."""
    columns = min(COLUMNS, len(runs) + 1)
    rows = math.ceil((len(runs) + 1) / columns)
    figure = Figure(figsize=(0.5 + 2.3 * columns, 0.5 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    front = pareto_front(scale)
    panels = dict(zip(runs, grid.flat, strict=False))
    for method, axes in panels.items():
        ends = runs[method].losses[:, -1]
        axes.set_title(method, loc="left")
        reached = f"{len(_places_reached(ends, front))}/{len(ends)}"
        axes.set_title(reached, loc="right", fontweight="normal", color=FRONT)
    for axes in grid.flat[len(runs) :]:
        axes.axis("off")
    for column in range(columns):
        grid[(len(runs) - 1 - column) // columns, column].tick_params(labelbottom=True)
    return figure, panels, grid.flat[len(runs)]


def _trajectories(axes: Axes, points: Float[np.ndarray, "s p 2"]) -> None:
    """Each trajectory from its start (ring) to its end (star), coloured by time."""
    for trajectory in points:
        segments = [*np.stack([trajectory[:-1], trajectory[1:]], axis=1)]
        # The points are densest early: so are the colours.
        time = np.linspace(0, 1, len(segments))
        axes.add_collection(LineCollection(segments, array=time, cmap=TIME, lw=1.6, zorder=3))
    for index, marker, size, colour in ((0, "o", 16, "white"), (-1, "*", 70, "#F0E442")):
        x, y = points[:, index].T
        axes.scatter(
            x, y, s=size, c=colour, marker=marker, edgecolors="black", linewidths=0.7, zorder=4
        )


def _legend(figure: Figure, key: Axes, note: str) -> None:
    def mark(marker: str, colour: str, size: float) -> Line2D:
        return Line2D(
            [], [], ls="", marker=marker, color=colour, markeredgecolor="black", markersize=size
        )

    handles = {
        "start": mark("o", "white", 5),
        "end": mark("*", "#F0E442", 10),
        "Pareto front": Line2D([], [], color=FRONT, lw=4, alpha=0.8),
    }
    key.legend(
        handles.values(),
        [*handles],
        loc="upper left",
        bbox_to_anchor=(0, 1),
        title="n/5: ends on the front",
        alignment="left",
    )
    key.text(0.04, 0.05, note, transform=key.transAxes, fontsize=7.5)
    bar = key.inset_axes((0.04, 0.33, 0.8, 0.07))
    bar.imshow(np.sqrt(np.linspace(0, 1, 256))[None], aspect="auto", cmap=TIME)
    bar.set(xticks=(0, 255), xticklabels=("first step", "last"), yticks=())
    bar.grid(False)
    bar.tick_params(length=0, labelsize=7.5)
