"""The list of what there is to run."""

from collections.abc import Mapping

from rich import box
from rich.table import Table

from benchmarks.methods import BASELINES, COMPOSED, registry


def suite_list(summaries: Mapping[str, str]) -> Table:
    """Every suite with its summary."""
    result = Table(box=box.SIMPLE_HEAD)
    result.add_column("suite", no_wrap=True)
    result.add_column("what it trains on")
    for name, summary in summaries.items():
        result.add_row(name, summary)
    return result


def method_list() -> Table:
    """The baselines, every method of the registry, and what is made of them."""
    result = Table(box=box.SIMPLE_HEAD)
    result.add_column("method", no_wrap=True)
    result.add_column("what it does")
    result.add_column("source", style="dim", overflow="fold")
    for name, summary in BASELINES.items():
        result.add_row(name, summary, "baseline")
    for name, entry in (registry() | COMPOSED).items():
        result.add_row(name, entry.summary, entry.source)
    return result
