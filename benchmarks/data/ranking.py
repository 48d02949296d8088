"""A made-up feed of short videos: what was opened, watched to its end, and for how long."""

import numpy as np

from benchmarks.data.splits import Splits
from benchmarks.data.tables import Raw, fitted

TASKS = ("click", "finish", "seconds")
TOPICS, POSITIONS, MEMORY = 4, 10, 20


def ranking(
    *, users: int, videos: int, shown: int, seed: int = 0
) -> tuple[Splits, tuple[int, ...]]:
    """Simulates what users do with the videos that are shown to them, one after the other.

    - A user has a taste, a unit vector of four topics, and patience; a video has topics, a quality,
      an author out of a fifth as many, and a duration whose logarithm is normal about 20 seconds.
    - Each row shows a video to a user at a position from 1 to 10. He opens it with probability
      `sigmoid(2 fit + quality - 0.15 position - 0.5)`, `fit` being the product of taste and topics.
    - Who opens a video watches it to its end with probability
      `sigmoid(1.5 fit + patience - log(duration / 20))`, and otherwise a share of it, drawn from
      Beta(1 + 2 p, 2) of that probability `p`. Who does not has neither finished nor watched.
    - The rows know the user, the video, its author and the position as categories, and as numbers
      the duration, and which shares of the last 20 videos shown to the user before he opened and
      finished. Taste, topics, quality and patience are hidden.

    So the second and the third label follow the first, and the third is in seconds: its squared
    error is hundreds of times the cross-entropy of the others.

    Args:
        users: how many there are.
        videos: how many there are.
        shown: rows, in the order of time: the last fifth is the test split, and the tenth before it
            is for validation.
        seed: of all draws.

    Returns:
        The splits, and the number of categories of each column.
    """
    rng = np.random.default_rng(seed)

    def directions(count: int) -> np.ndarray:
        drawn = rng.normal(size=(count, TOPICS))
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    taste, patience = directions(users), rng.normal(size=users)
    topics, quality = directions(videos), rng.normal(size=videos)
    author = rng.integers(0, max(videos // 5, 1), videos)
    duration = 20 * np.exp(0.6 * rng.normal(size=videos))
    user, video = rng.integers(0, users, shown), rng.integers(0, videos, shown)
    position = rng.integers(1, POSITIONS + 1, shown)

    likely = lambda logits: rng.random(shown) < 1 / (1 + np.exp(-logits))
    fit = np.sum(taste[user] * topics[video], axis=1)
    click = likely(2 * fit + quality[video] - 0.15 * position - 0.5)
    logits = 1.5 * fit + patience[user] - np.log(duration[video] / 20)
    finish = click & likely(logits)
    part = rng.beta(1 + 2 / (1 + np.exp(-logits)), 2)
    seconds = np.where(finish, 1, np.where(click, part, 0)) * duration[video]

    raw = Raw(
        np.stack([np.log(duration[video]), _before(user, click), _before(user, finish)], axis=1),
        np.stack([user, video, author[video], position], axis=1),
        np.stack([click, finish, seconds], axis=1).astype(float),
    )
    test, validation = shown - shown // 5, shown - shown // 5 - shown // 10
    train = rng.permutation(validation)
    return fitted(raw, (train, np.arange(validation, test), np.arange(test, shown)))


def _before(user: np.ndarray, done: np.ndarray) -> np.ndarray:
    """The share of the last rows of the same user, before each, in which it was done."""
    shares = np.zeros(len(user))
    order = np.argsort(user, kind="stable")
    starts = np.flatnonzero(np.diff(user[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        until = np.concatenate([[0], np.cumsum(done[rows])])
        places = np.arange(len(rows))
        first = np.maximum(places - MEMORY, 0)
        shares[rows] = (until[places] - until[first]) / np.maximum(places - first, 1)
    return shares
