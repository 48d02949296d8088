"""The figures that tables, pictures and the report show, worked out from cells."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from benchmarks.methods import BASELINES, SINGLE_TASK, UNTRAINED
from benchmarks.results.cells import Cell
from benchmarks.train.problem import Metric
from mtl_optax.metrics import delta_m, delta_p

Cells = Mapping[str, Sequence[Cell]]
LEVEL = 0.05  # Of every test.


class Comparison(NamedTuple):
    """A method against another, seed by seed."""

    mean: float
    """Of the differences in the mean metric; positive where the method is better."""
    margin: float
    """Half the width of the 95 % confidence interval by Student's t, for one comparison alone."""
    certain: bool
    """Whether they differ at 5 %, with Holm's correction for all methods compared: not for the
    baselines, which are no part of the question."""
    seeds: int
    """How many both have."""


def first_cell(cells: Cells) -> Cell:
    """Any cell: they agree in suite, tasks and metrics."""
    return next(iter(cells.values()))[0]


def networks(cells: Cells) -> dict[str, Sequence[Cell]]:
    """All that is trained by epochs; the rest has no place among methods and seeds."""
    return {method: group for method, group in cells.items() if method not in UNTRAINED}


def counted(cells: Cells) -> list[int]:
    """Which metrics enter means, ranks and Δm."""
    return [i for i, metric in enumerate(first_cell(cells).metrics) if metric.counts]


def test_metrics(group: Sequence[Cell]) -> Float[np.ndarray, "s m"]:
    """The metrics on the test split, one row for each seed."""
    return np.stack([cell.test for cell in group])


def mean_metric(cells: Cells, method: str) -> Float[np.ndarray, " s"]:
    """The mean of the metrics that count, on the test split."""
    return mean_of(cells, test_metrics(cells[method]))


def mean_of(cells: Cells, values: Float[np.ndarray, "*k m"]) -> Float[np.ndarray, "*k"]:
    """The mean of the metrics that count; errors are negated where they stand beside others."""
    columns, more = counted(cells), higher_is_better(cells)
    alike = [first_cell(cells).metrics[i].higher_is_better == more for i in columns]
    return (np.where(alike, 1, -1) * values[..., columns]).mean(axis=-1)


def higher_is_better(cells: Cells) -> bool:
    """Whether more is better in the mean of the metrics: where it is in any of them."""
    metrics = first_cell(cells).metrics
    return any(metrics[i].higher_is_better for i in counted(cells))


def with_common_seeds(cells: Cells, methods: Iterable[str]) -> dict[str, list[Cell]]:
    """The cells of these methods whose seeds all of them have, in order of seed."""
    by_seed = {method: {cell.seed: cell for cell in cells[method]} for method in methods}
    seeds = sorted(set.intersection(*map(set, by_seed.values())))
    return {method: [group[seed] for seed in seeds] for method, group in by_seed.items()}


def change(cells: Cells, method: str) -> Float[np.ndarray, " s"] | None:
    """Δm in percent against the single-task networks, seed against the same seed; less is better.

    Over all metrics alike, as in Nash-MTL's code. None where these are not among the cells, or have
    no seed in common with the method.
    """
    if (pair := _beside_single_task(cells, method)) is None:
        return None
    ours, theirs, metrics = pair
    return np.asarray(delta_m(ours, theirs, [metric.higher_is_better for metric in metrics]))


def improvement(cells: Cells, method: str) -> Float[np.ndarray, " s"] | None:
    """Δp in percent as `change`, over tasks and then their metrics, as LibMTL; more is better."""
    if (pair := _beside_single_task(cells, method)) is None:
        return None
    ours, theirs, metrics = pair
    better, tasks = zip(*((m.higher_is_better, m.task) for m in metrics), strict=True)
    return np.asarray(delta_p(ours, theirs, better, tasks))


def several_metrics(cells: Cells) -> bool:
    """Whether a task has more than one metric that counts; otherwise Δp is -Δm."""
    tasks = [first_cell(cells).metrics[i].task for i in counted(cells)]
    return len(set(tasks)) < len(tasks)


def _beside_single_task(
    cells: Cells, method: str
) -> tuple[Float[np.ndarray, "s m"], Float[np.ndarray, "s m"], list[Metric]] | None:
    if SINGLE_TASK not in cells:
        return None
    pair, columns = with_common_seeds(cells, (method, SINGLE_TASK)), counted(cells)
    if not pair[method]:
        return None
    ours, theirs = (test_metrics(pair[m])[:, columns] for m in (method, SINGLE_TASK))
    return ours, theirs, [first_cell(cells).metrics[i] for i in columns]


def mean_ranks(cells: Cells) -> dict[str, float]:
    """The place of each network among all, 1 is best, mean over metrics that count and seeds.

    Over the seeds that every method has; NaN where there are none.
    """
    cells = networks(cells)
    if not cells:
        return {}
    metrics, columns = first_cell(cells).metrics, counted(cells)
    groups = list(with_common_seeds(cells, cells).values())
    if not groups[0]:
        return dict.fromkeys(cells, math.nan)
    values = np.stack([test_metrics(group)[:, columns] for group in groups])
    signs = np.array([-1.0 if metrics[i].higher_is_better else 1.0 for i in columns])
    badness = np.where(np.isfinite(values), signs * values, np.inf)
    ranks = stats.rankdata(badness, axis=0).mean(axis=(1, 2))
    return dict(zip(cells, ranks.tolist(), strict=True))


def compare(cells: Cells, reference: str) -> dict[str, Comparison]:
    """Every other network against one, by paired t-tests over the seeds that both have.

    Methods with fewer than two such seeds, and all if ``reference`` is missing, are left out.
    """
    if reference not in cells:
        return {}
    sign = 1 if higher_is_better(cells) else -1
    found = {}
    for method in networks(cells).keys() - {reference}:
        pair = with_common_seeds(cells, (method, reference))
        seeds = len(pair[method])
        if seeds < 2:
            continue
        differences = sign * (mean_metric(pair, method) - mean_metric(pair, reference))
        if np.isfinite(differences).all():
            error = differences.std(ddof=1) / np.sqrt(seeds)
            margin = float(stats.t.ppf(0.975, seeds - 1) * error)
            with np.errstate(divide="ignore", invalid="ignore"):
                statistic = abs(differences.mean()) / error
            chance = 1.0 if np.isnan(statistic) else float(2 * stats.t.sf(statistic, seeds - 1))
            found[method] = (float(differences.mean()), margin, chance, seeds)
    certain = _holm({m: chance for m, (_, _, chance, _) in found.items() if m not in BASELINES})
    return {
        method: Comparison(mean, margin, method in certain, seeds)
        for method in cells
        if method in found
        for mean, margin, _, seeds in [found[method]]
    }


def _holm(chances: Mapping[str, float], level: float = LEVEL) -> set[str]:
    """Which hypotheses Holm's step-down procedure rejects."""
    rejected: set[str] = set()
    for place, name in enumerate(sorted(chances, key=lambda n: chances[n])):
        if chances[name] > level / (len(chances) - place):
            break
        rejected.add(name)
    return rejected


def smallest_difference(cells: Cells, reference: str, power: float = 0.8) -> float | None:
    """The difference that Holm's strictest test would have found with this probability.

    Of a method whose differences spread as those of the median method do; by the noncentral
    t-distribution. None where nothing was compared.
    """
    compared = {m: one for m, one in compare(cells, reference).items() if m not in BASELINES}
    if not compared:
        return None
    seeds = min(one.seeds for one in compared.values())
    errors = [one.margin / stats.t.ppf(0.975, one.seeds - 1) for one in compared.values()]
    critical = stats.t.ppf(1 - LEVEL / (2 * len(compared)), seeds - 1)

    def lack(shift: float) -> float:
        return float(stats.nct.sf(critical, seeds - 1, shift)) - power

    return float(np.median(errors) * optimize.brentq(lack, 0, 100 * critical))


def step_time(group: Sequence[Cell], reference: Sequence[Cell]) -> float | None:
    """Time per step as a multiple of ``reference``'s, by the fastest epoch of each."""
    ours, theirs = (
        [pace for cell in cells if (pace := cell.timing.seconds_per_step) is not None]
        for cells in (group, reference)
    )
    return min(ours) / min(theirs) if ours and theirs else None


def training_seconds(cells: Cells) -> float:
    """What all trainings take one after the other, each epoch as long as the fastest."""

    def epoch(cell: Cell) -> float:
        pace = cell.timing.seconds_per_step
        steps: int = cell.config["steps_per_epoch"]
        return cell.timing.first_epoch_seconds if pace is None else pace * steps

    return sum(
        epoch(cell) * cell.config["epochs"] * (len(cell.trials) if cell.seed == 0 else 1)
        for group in networks(cells).values()
        for cell in group
    )


def spread(values: Float[np.ndarray, " s"], sign: str = "", digits: int | None = None) -> str:
    """Mean and standard deviation over seeds, in as many digits as tell them apart, or as asked."""
    mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    small = np.isfinite(mean) and abs(mean) < 10 and not sign
    if digits is None:
        digits = 3 if small else 2 if 0 < deviation < 0.1 else 1
    text = f"{mean:{sign}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {deviation:.{digits}f}"
