"""CPU seconds of tracing and compiling programs, measured in turns."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import track

import mtl_optax as mtl
from benchmarks.compiler import WITHOUT_EMITTERS

ADAM = optax.adam(1e-3)


class Program(NamedTuple):
    """A function that is to be compiled."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Cost(NamedTuple):
    """CPU seconds, of all threads together."""

    tracing: float
    """To trace and lower."""
    compiling: float
    """To compile by XLA."""
    without_emitters: float
    """The same with `WITHOUT_EMITTERS`."""


def with_adam(name: str, num_tasks: int) -> optax.GradientTransformationExtraArgs:
    """A method and the optimiser of its updates, where it is none itself."""
    method = mtl.get(name, num_tasks)
    optimizes = mtl.method_info(name).is_optimizer
    return optax.with_extra_args_support(method if optimizes else optax.chain(method, ADAM))


def costs(
    programs: Mapping[str, Program], *, rounds: int, title: str, console: Console
) -> dict[str, Cost]:
    """The medians of all rounds; in each, every program has a turn."""
    turns = [name for _ in range(rounds) for name in programs]
    measured: dict[str, list[Cost]] = {name: [] for name in programs}
    with _no_compilation_cache():
        cost(next(iter(programs.values())))  # What a process does once counts for none.
        for name in track(turns, title, console=console):
            measured[name].append(cost(programs[name]))
    return {name: Cost(*np.median(each, axis=0).tolist()) for name, each in measured.items()}


def cost(program: Program) -> Cost:
    """One turn, with nothing left of those before."""
    jax.clear_caches()
    began = time.process_time()
    lowered = jax.jit(program.function).lower(*program.arguments)
    traced = time.process_time()
    lowered.compile()
    compiled = time.process_time()
    lowered.compile(WITHOUT_EMITTERS)
    return Cost(traced - began, compiled - traced, time.process_time() - compiled)


@contextmanager
def _no_compilation_cache() -> Iterator[None]:
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
