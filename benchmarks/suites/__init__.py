"""One file for each suite: its data, model and losses as a `Problem`."""

from benchmarks.suite import Suite
from benchmarks.suites.digits import Digits

SUITES: tuple[type[Suite], ...] = (Digits,)
