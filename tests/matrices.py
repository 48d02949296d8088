"""Task gradients that are hard, by name: of every rank, degenerate, stationary, badly scaled."""

import numpy as np

KINDS = (
    "gaussian",
    "rank one",
    "half rank",
    "one dependent",
    "one sign",
    "identical",
    "nearly identical",
    "nearly parallel",
    "duplicated",
    "opposite",
    "stationary",
    "nearly stationary",
    "zero",
    "one zero",
    "some zero",
    "1e6 apart",
    "far apart",
)


def hard(num_tasks: int, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A matrix `(num_tasks, size)` of each kind, in float64."""
    rng = np.random.default_rng(seed)
    base, tasks = rng.normal(size=(num_tasks, size)), np.arange(num_tasks)[:, None]

    def of_rank(rank: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(num_tasks, rank)), rng.normal(size=(rank, size))

    one, half, less = (of_rank(max(1, r)) for r in (1, num_tasks // 2, num_tasks - 1))
    matrices = (
        base,
        one[0] @ one[1],
        half[0] @ half[1],
        less[0] @ less[1],
        np.abs(half[0]) @ half[1],
        np.repeat(base[:1], num_tasks, axis=0),
        base[:1] + 1e-6 * base,
        base[:1] + 1e-3 * base,
        base[tasks[:, 0] // 2],
        np.where(tasks % 2, -base[:1], base[:1]),
        base - base.mean(0),
        base - (1 - 1e-2) * base.mean(0),
        np.zeros_like(base),
        base * (tasks > 0),
        base * rng.integers(0, 2, (num_tasks, 1)),
        base * np.where(tasks % 2, 1e3, 1e-3),
        base * 10 ** rng.uniform(-3, 3, (num_tasks, 1)),
    )
    return dict(zip(KINDS, matrices, strict=True))
