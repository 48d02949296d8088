"""Draws every method's update on the same gradients: `python docs/pictures.py [names ...]`.

All that is drawn comes from running the library. Two tasks lie in the plane; three tasks have three
parameters, seen from one side. The pictures are made where they are needed and never committed.
"""

import argparse
import inspect
import pathlib
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

import mtl_optax as mtl

GRADIENTS = {
    2: np.array([(2.4, 0.2), (-0.6, 0.8)]),
    3: np.array([(2.2, -0.3, 0.2), (-0.6, 0.9, 0.5), (-0.3, -1.0, 1.0)]),
}
"""Task gradients, by the number of tasks. Their mean conflicts with task 2."""

QUERY = {
    2: np.array([(1.5, 1.0), (-0.3, 1.1)]),
    3: np.array([(1.4, 0.5, 0.6), (-0.4, 1.1, 0.7), (-0.2, -0.4, 1.2)]),
}
"""The same tasks' gradients on held-out data, for the methods that read them."""

LOSSES = np.array([3.0, 1.0, 2.0])
DRAWS = 40  # Of a method that is random.

# Okabe and Ito's colours, those of the benchmarks' pictures.
TASK_COLOURS = ("#0072B2", "#D55E00", "#009E73")
GREY = "#777777"
TURN, RISE = -30.0, 13.0  # Where three parameters are seen from, in degrees.
STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "svg.hashsalt": "mtl_optax",
}


class Given(NamedTuple):
    """What a method is run with, where a first step at the defaults would say nothing.

    Attributes:
        steps: how many, on the same gradients.
        falls: the factors by which the tasks' losses change from step to step.
        hyperparameters: makes those that are not the defaults, from the number of tasks.
        said: these in words.
    """

    steps: int = 1
    falls: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hyperparameters: Callable[[int], dict[str, Any]] = lambda num_tasks: {}
    said: str = ""


_LEARNED = Given(
    100,
    hyperparameters=lambda _: {"optimizer": optax.adam(0.05)},
    said="scales learned by Adam at 0.05",
)
_SMALL_BALL = Given(20, hyperparameters=lambda _: {"rho": 0.1}, said="rho=0.1")
GIVEN = {
    "bandit_mtl": _SMALL_BALL,
    "coba": Given(
        30, (0.99, 0.95, 0.9), lambda _: {"warmup": 5, "history": 10}, "warmup=5, history=10"
    ),
    "db_mtl": Given(20),
    "dwa": Given(6, (0.95, 0.5, 0.7)),
    "famo": Given(60, (0.99, 0.95, 0.97)),
    "go4align": Given(
        hyperparameters=lambda tasks: {"num_groups": tasks}, said="a group for each task"
    ),
    "group_dro": Given(20, hyperparameters=lambda _: {"step_size": 0.05}, said="step_size=0.05"),
    "igb": Given(
        hyperparameters=lambda tasks: {"base_losses": 2 * np.ones(tasks)}, said="base losses of 2"
    ),
    "m_config": Given(20),
    "meta_balance": Given(20),
    "moco": Given(60),
    "modo": Given(60),
    "emtl": _SMALL_BALL,
    "getmtl": Given(hyperparameters=lambda _: {"epsilon": 0.5}, said="epsilon=0.5"),
    "gradnorm": Given(60),
    "imtl": _LEARNED,
    "imtl_l": _LEARNED,
    "meta_weighting": Given(10),
    "pareto_mtl": Given(
        hyperparameters=lambda num_tasks: {
            "preferences": np.concatenate([np.ones((1, num_tasks)), 1 + 2 * np.eye(num_tasks)])
        },
        said="preferences: equal losses (followed), or one three times the others",
    ),
    "uw": _LEARNED,
}


class Run(NamedTuple):
    """What a method did with the gradients.

    Attributes:
        losses: `(n, T)`, those it was given at each of n steps.
        rows: `(n, T, N)`, the tasks' parts of each update, or `(n, 1, N)` where it has none.
        weights: `(n, T)`, or None where the update is no weighted sum.
        random: whether the steps differ by chance alone.
    """

    losses: Float[np.ndarray, "n T"]
    rows: Float[np.ndarray, "n T N"]
    weights: Float[np.ndarray, "n T"] | None
    random: bool

    @property
    def updates(self) -> Float[np.ndarray, "n N"]:
        """The updates, step by step."""
        return self.rows.sum(axis=1)

    @property
    def parts(self) -> Float[np.ndarray, "T N"]:
        """The rows that are drawn: the last ones, or the mean of random ones."""
        return self.rows.mean(axis=0) if self.random else self.rows[-1]

    @property
    def shown(self) -> Float[np.ndarray, " N"]:
        """The update in bold."""
        return self.parts.sum(axis=0)


def run(name: str, num_tasks: int) -> Run:
    """Runs a method on `GRADIENTS[num_tasks]`, as often as it is random or `GIVEN` says.

    A method whose updates are final steps is turned round, to point up the loss as gradients do.
    """
    info, given = mtl.method_info(name), GIVEN.get(name, Given())
    random = "deterministic" not in info.properties
    steps = DRAWS if random else given.steps
    losses = LOSSES[:num_tasks] * np.array(given.falls[:num_tasks]) ** np.arange(steps)[:, None]
    in_parts = "combine" in inspect.signature(info.factory).parameters
    options = {"combine": False} if in_parts else {}
    method = mtl.get(name, num_tasks, **options, **given.hyperparameters(num_tasks))
    gradients, query = jnp.asarray(GRADIENTS[num_tasks]), jnp.asarray(QUERY[num_tasks])
    params = jnp.zeros(num_tasks)

    def step(state: Any, task_losses: Float[Array, " T"]) -> tuple[Any, Any]:
        rows, state = method.update(
            gradients,
            state,
            params,
            task_losses=task_losses,
            next_losses=task_losses,
            query_gradients=query,
        )
        weights = state.weights if "linear" in info.properties else None
        return state, (rows if in_parts else jnp.expand_dims(rows, 0), weights)

    _, (rows, weights) = jax.jit(lambda x: jax.lax.scan(step, method.init(params), x))(losses)
    sign = -1 if info.is_optimizer else 1
    weights = None if weights is None else np.asarray(weights)
    return Run(losses, sign * np.asarray(rows), weights, random)


def without_conflict(gradients: Float[np.ndarray, "T N"]) -> Float[np.ndarray, "p N"]:
    """Corners of the part of the gradients' convex hull that has no negative product with any."""
    corners = list(gradients)
    for gradient in gradients:
        kept = []
        for here, there in zip(corners, corners[1:] + corners[:1], strict=True):
            a, b = here @ gradient, there @ gradient
            if a >= 0:
                kept.append(here)
            if a * b < 0:
                kept.append((here * b - there * a) / (b - a))
        corners = kept
    return np.array(corners)


def crossing(
    gradients: Float[np.ndarray, "T T"], update: Float[np.ndarray, " T"]
) -> Float[np.ndarray, " T"] | None:
    """Where the update's line crosses the plane of the gradients' tips, unless far away."""
    total = np.linalg.solve(gradients.T, update).sum()
    longest = np.linalg.norm(gradients, axis=1).max()
    return update / total if total * longest > np.linalg.norm(update) else None


def _camera(num_tasks: int) -> Float[np.ndarray, "N 2"]:
    """From parameters to the page: the plane as it is, or space seen from above and one side."""
    if num_tasks == 2:
        return np.eye(2)
    turn, rise = np.radians(TURN), np.radians(RISE)
    right = (-np.sin(turn), np.cos(turn), 0)
    up = (-np.sin(rise) * np.cos(turn), -np.sin(rise) * np.sin(turn), np.cos(rise))
    return np.array([right, up]).T


def picture(name: str, num_tasks: int) -> Figure:
    """Draws a method's update, its weights, and its cosine with every gradient."""
    info, done = mtl.method_info(name), run(name, num_tasks)
    gradients, shown = GRADIENTS[num_tasks], done.shown
    mean = gradients.mean(axis=0)
    # Updates that are no mean are drawn as long as the mean is: their direction is what counts.
    scale = 1.0 if info.scale == "mean" else np.linalg.norm(mean) / np.linalg.norm(shown)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.6), layout="constrained")
        panels = figure.subplot_mosaic("AB;AC", width_ratios=(2, 1))
        _space(panels["A"], gradients, done, scale, "coordinates" in info.reads)
        if info.reads & {"query gradients", "cross"}:
            _arrows(panels["A"], QUERY[num_tasks], TASK_COLOURS, linestyle=":")
        _weights(panels["B"], done)
        lengths = np.linalg.norm(gradients, axis=1) * np.linalg.norm(shown)
        _bars(panels["C"], gradients @ shown / lengths, "cosine with each gradient", (-1.4, 1.4))
        figure.suptitle(
            f"{name}. {info.summary}", x=0.02, ha="left", size=10, weight="bold", wrap=True
        )
        figure.supxlabel(_note(info, done, scale), x=0.02, ha="left", size=8, color="#555555")
    return figure


def _space(
    axes: Axes,
    gradients: Float[np.ndarray, "T N"],
    done: Run,
    scale: float,
    coordinates: bool,
) -> None:
    """The gradients, their convex hull, what conflicts with none, and the updates."""
    camera = _camera(len(gradients))
    free = without_conflict(gradients)
    if len(gradients) == 2:  # Not on the segment alone: all the cone can be seen.
        free = np.concatenate([np.zeros((1, 2)), 20 * np.unique(free, axis=0)])
    for axis in np.eye(len(gradients)) * coordinates:
        axes.plot(*(np.outer((-0.6, 1.2), axis) @ camera).T, color="#bbbbbb", lw=1, zorder=0)
    axes.fill(*(gradients @ camera).T, facecolor="#eeeeee", edgecolor=GREY, lw=1)
    axes.fill(*(free @ camera).T, color="#F0E442", alpha=0.4, lw=0)
    _arrows(axes, gradients, TASK_COLOURS, width=1.6)
    for number, (tip, colour) in enumerate(zip(gradients @ camera, TASK_COLOURS, strict=False), 1):
        axes.annotate(
            f"task {number}",
            tip,
            xytext=6 * tip / np.linalg.norm(tip) + (0, 2),
            textcoords="offset points",
            ha="left" if tip[0] > 0 else "right",
            color=colour,
        )
    _arrows(axes, gradients.mean(axis=0)[None], [GREY], width=1)
    if len(done.updates) > 1:
        kept = np.unique(np.linspace(0, len(done.updates) - 1, DRAWS, dtype=int))
        tips = scale * done.updates[kept] @ camera
        for tip in tips:
            axes.plot(*np.stack([0 * tip, tip]).T, color="black", lw=0.8, alpha=0.25)
    if len(done.parts) == len(gradients) and not _as_weighted(done.parts, gradients):
        _arrows(axes, done.parts * max(scale, 1), TASK_COLOURS, linestyle="--")
    _arrows(axes, scale * done.shown[None], ["black"], width=3)
    if (meeting := crossing(gradients, done.shown)) is not None:
        x, y = meeting @ camera
        axes.plot((0, x), (0, y), ":", color="black", lw=1)
        axes.plot(x, y, "o", mfc="white", mec="black", ms=5, zorder=5)
    axes.set_aspect("equal")
    axes.set_axis_off()
    x, y = (np.concatenate([gradients, 0 * gradients[:1]]) @ camera).T
    axes.set_xlim(x.min() - 0.45, x.max() + 0.45)
    axes.set_ylim(y.min() - 0.35, y.max() + 0.55)


def _as_weighted(parts: Float[np.ndarray, "T N"], gradients: Float[np.ndarray, "T N"]) -> bool:
    """Whether each task's part of the update lies along its gradient."""
    along = (parts * gradients).sum(axis=1) / np.linalg.norm(gradients, axis=1)
    return np.allclose(np.abs(along), np.linalg.norm(parts, axis=1), rtol=1e-3)


def _arrows(
    axes: Axes,
    vectors: Float[np.ndarray, "k N"],
    colours: Sequence[str],
    width: float = 1.2,
    linestyle: str = "-",
) -> None:
    """Arrows from the origin, one in each colour."""
    for tip, colour in zip(vectors @ _camera(vectors.shape[1]), colours, strict=False):
        axes.add_patch(
            FancyArrowPatch(
                (0, 0),
                tip,
                arrowstyle="-|>",
                shrinkA=0,
                shrinkB=0,
                mutation_scale=8 + 2 * width,
                color=colour,
                lw=width,
                linestyle=linestyle,
                zorder=3,
            )
        )


def _weights(axes: Axes, done: Run) -> None:
    """The weights: as they are, on average, or step by step."""
    if done.weights is None:
        axes.text(0, 0.5, "no weighted sum\nof the gradients", color=GREY, va="center")
        axes.set_axis_off()
    elif done.random or len(done.weights) == 1:
        values = done.weights.mean(axis=0)
        reach = 1.7 * np.abs(values).max()
        _bars(
            axes,
            values,
            "weights" + ", on average" * done.random,
            (-reach if (values < 0).any() else 0, reach),
        )
    else:
        steps = np.arange(1, len(done.weights) + 1)
        for values, colour in zip(done.weights.T, TASK_COLOURS, strict=False):
            axes.plot(steps, values, color=colour, lw=1.6)
        # Numbers stand apart where the lines end close together.
        height, gap = -np.inf, 0.13 * np.ptp(done.weights)
        for task in np.argsort(last := done.weights[-1]):
            height = max(last[task], height + gap)
            axes.annotate(
                f"{last[task]:.3g}",
                (steps[-1], height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=TASK_COLOURS[task],
            )
        axes.set_title("weights, step by step", loc="left", size=9)
        axes.spines[["top", "right"]].set_visible(False)


def _bars(
    axes: Axes, values: Float[np.ndarray, " T"], title: str, limits: tuple[float, float]
) -> None:
    """A bar with its number for each task."""
    tasks = range(1, len(values) + 1)
    bars = axes.barh(tasks, values, color=TASK_COLOURS[: len(values)], height=0.7)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlim(limits)
    axes.set_ylim(3.5, 0.5)
    axes.set_xticks([])
    axes.set_yticks(tasks, [f"task {task}" for task in tasks], size=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", size=9)


def _note(info: mtl.MethodInfo, done: Run, scale: float) -> str:
    """What was given, and how it is drawn."""
    given, (steps, tasks) = GIVEN.get(info.name, Given()), done.losses.shape
    said = [given.said] if given.said else []
    if "losses" in info.reads:
        losses = f"losses {_listed(LOSSES[:tasks])}"
        if set(given.falls) != {1.0}:
            losses += f", times {_listed(given.falls[:tasks])} from step to step"
        elif steps > 1:
            losses += " at every step"
        said.append(losses)
    if info.reads & {"query gradients", "cross"}:
        said.append("held-out gradients (dotted)")
    if steps > 1 and not done.random:
        said.append(f"{steps} steps on the same gradients")
    bold = "step, turned to point up the loss as gradients do" if info.is_optimizer else "update"
    if done.random:
        bold = f"mean of {steps} updates (thin)"
    elif steps > 1:
        bold = "last update (thin: those before)"
    if info.scale != "mean":
        bold += f", drawn at {_short(scale)} times its length"
    dashed = ""
    if not _as_weighted(done.parts, GRADIENTS[tasks]):
        dashed = f" Dashed: each task's part{', at full length' if scale < 1 else ''}."
    meets = crossing(GRADIENTS[tasks], done.shown) is not None
    across = "line" if tasks == 2 else "plane"
    lines = (
        f"Given: {'; '.join(said)}. " * bool(said) + f"Bold: the {bold}.{dashed}",
        "Grey: the mean of the gradients. Yellow: in conflict with no task. "
        + f"Circle: where the update meets the {across} of the tips." * meets,
    )
    return "\n".join(textwrap.fill(line, 132) for line in lines)


def _listed(numbers: Iterable[float]) -> str:
    """Numbers in words: "3, 1 and 2"."""
    *first, last = (_short(number) for number in numbers)
    return f"{', '.join(first)} and {last}"


def _short(number: float) -> str:
    """A number with two digits, never with an exponent."""
    return np.format_float_positional(number, precision=2, fractional=False, trim="-")


def draw(name: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes a method's pictures, `<name>_2.svg` and `<name>_3.svg`, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for num_tasks in GRADIENTS:
        path = folder / f"{name}_{num_tasks}.svg"
        with mpl.rc_context(STYLE):
            picture(name, num_tasks).savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=mtl.list_methods(), metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/pictures"))
    options = parser.parse_args()
    for method in options.names:
        draw(method, options.out)
