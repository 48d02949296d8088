"""Contests: several pieces of work timed in turns, so that a noisy machine is noisy for all."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Work = Callable[[], object]
"""Does the work once, and returns when it is done."""


class Question(NamedTuple):
    """Something to measure, whole in itself: all its ratios come from one contest."""

    part: str
    """Of the benchmark."""
    asked: dict[str, Any]
    """What identifies it within its part."""
    answer: Callable[[], list[dict[str, Any]]]
    """Measures, and returns one row for each contender."""


_BURST = 0.01  # Seconds of work in a turn, where one call takes less.
_PAUSE = 0.01  # Seconds in which idle threads go to sleep.
_SLOW = 1.0  # Seconds; work that takes longer has fewer turns.


@dataclass(frozen=True)
class Times:
    """Seconds per call of each contender, `(rounds,)` each; a slow one has fewer rounds."""

    seconds: Mapping[str, np.ndarray]

    def median(self, name: str) -> float:
        """Returns the median seconds of a contender."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, reference: str) -> tuple[float, float]:
        """Returns the ratio of two contenders: its median, and half its quartiles' distance."""
        ours, theirs = self.seconds[name], self.seconds[reference]
        rounds = min(len(ours), len(theirs))
        ratios = ours[:rounds] / theirs[:rounds]
        low, high = np.percentile(ratios, [25, 75])
        return float(np.median(ratios)), float(high - low) / 2


def contest(contenders: Mapping[str, Work], rounds: int) -> Times:
    """Times each contender once per round, in a burst of calls of about ten milliseconds.

    Each turn begins with a pause and a call that does not count: the contender before leaves
    threads that still spin, and caches of its own.
    """
    calls = {}
    turns = {}
    for name, work in contenders.items():
        work()  # Compiles, and fills caches.
        seconds = _time(work, 1)
        calls[name] = int(np.clip(_BURST / max(seconds, 1e-6), 1, 200))
        turns[name] = rounds if seconds < _SLOW else max(1, rounds // 5)
    seconds_of: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, work in contenders.items():
            if turn < turns[name]:
                time.sleep(_PAUSE)
                work()
                seconds_of[name].append(_time(work, calls[name]))
    return Times({name: np.array(seconds) for name, seconds in seconds_of.items()})


def _time(work: Work, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
