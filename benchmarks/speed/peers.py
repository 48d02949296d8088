"""TorchJD and LibMTL at the same work, with as many threads; both come with the extra `peers`."""

import functools
import importlib.metadata
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.errors import UserError
from benchmarks.speed.timing import Work

# Ours to TorchJD's, each with its defaults, or ours where it has none.
TORCHJD: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "sum_tasks": ("Sum", lambda t: {}),
    "mean_tasks": ("Mean", lambda t: {}),
    "rlw": ("Random", lambda t: {}),
    "mgda": ("MGDA", lambda t: {}),
    "pcgrad": ("PCGrad", lambda t: {}),
    "cagrad": ("CAGrad", lambda t: {"c": 0.5}),
    "imtl_g": ("IMTLG", lambda t: {}),
    "nash_mtl": ("NashMTL", lambda t: {"n_tasks": t}),
    "graddrop": ("GradDrop", lambda t: {}),
    "aligned_mtl": ("AlignedMTL", lambda t: {}),
    "config": ("ConFIG", lambda t: {}),
    "dual_proj": ("DualProj", lambda t: {}),
    "excess_mtl": ("ExcessMTL", lambda t: {}),
    "fairgrad": ("FairGrad", lambda t: {"alpha": 2.0}),
    "gradvac": ("GradVac", lambda t: {}),
    "krum": ("Krum", lambda t: {"n_byzantine": 0}),
    "pcd": ("PCD", lambda t: {}),
    "trimmed_mean": ("TrimmedMean", lambda t: {"trim_number": 1}),
    "upgrad": ("UPGrad", lambda t: {}),
}
# Its robust means want three tasks.
TORCHJD_TASKS = {"krum": 3, "trimmed_mean": 3}
LIBMTL = {"mgda": ("MGDA", {"mgda_gn": "none"}), "pcgrad": ("PCGrad", {}), "imtl_g": ("IMTL", {})}
# LibMTL's MGDA does not always end for many tasks, and its PCGrad copies rows T² times.
LIBMTL_TASKS = 4


def load() -> Any:
    """Returns torch, with the threads that XLA has, or says what to install."""
    try:
        import torch
        import torchjd  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'the peers are not installed ({error}): pip install -e ".[bench,peers]", or leave '
            "them out with --no-peers"
        ) from error
    torch.set_num_threads(threads())
    # Their solvers and attention complain at each call of options that are their own.
    warnings.filterwarnings("ignore", module="torch|cvxpy")
    return torch


def threads() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Returns the versions of the peers."""
    return {name: importlib.metadata.version(name) for name in ("torch", "torchjd", "LibMTL")}


def aggregator(method: str, num_tasks: int) -> Any:
    """Returns TorchJD's aggregator of a method in `TORCHJD`."""
    import torchjd.aggregation

    name, arguments = TORCHJD[method]
    return getattr(torchjd.aggregation, name)(**arguments(num_tasks))


def aggregation_work(method: str, matrix: np.ndarray) -> dict[str, Work]:
    """Returns the peers' work of aggregating a matrix of task gradients `(T, N)`."""
    torch = load()
    gradients = torch.from_numpy(matrix)
    works: dict[str, Work] = {}
    if method in TORCHJD and len(matrix) >= TORCHJD_TASKS.get(method, 1):
        works["TorchJD"] = functools.partial(aggregator(method, len(matrix)), gradients)
    if method in LIBMTL and len(matrix) <= LIBMTL_TASKS:
        works["LibMTL"] = _libmtl(method, gradients)
    return works


def _libmtl(method: str, gradients: Any) -> Work:
    """One call of LibMTL's `backward`, with the gradients given in place of computed."""
    import torch

    from benchmarks.speed.libmtl import plain, weightings

    name, arguments = LIBMTL[method]
    model = plain(getattr(weightings(), name), len(gradients), gradients.shape[1])
    model._compute_grad = lambda *_, **__: gradients
    model.theta.grad = torch.zeros(gradients.shape[1])
    losses = torch.ones(len(gradients))
    return lambda: model.backward(losses, **arguments)
