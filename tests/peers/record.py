"""What other libraries answer to small fixed questions, for the tests of this folder.

Run `python -m tests.peers.record` in an environment of its own to write `tests/data/peers.json`:

    pip install torch==2.13.0 "torchjd[full]==0.18.0" clarabel LibMTL==1.1.5
    pip install -r tests/peers/requirements.txt
    pip install --no-deps -r tests/peers/without_dependencies.txt

It does not import this library. The rows of docs/peers.md are computed as the page says, all else
in float64, and a second run writes the same file. Of LibMTL 1.1.5:

- `import LibMTL` fails with a current torchvision, for its vision models. The weightings need
  none of them, so they are imported without the package's `__init__`.
- Its weightings are methods of a model. `plain` makes one whose shared parameter is a vector θ and
  whose losses are linear, `L_t + <g_t, θ>` at θ = 0, so that the gradients are the given matrix.
  It zeroes gradients in place, as torch did then; since torch 2 they would be None, on which
  LibMTL stumbles.
- Its CAGrad is written for three tasks and fails for any other number.
- There is no Nash-MTL in this release, only in its repository.
- Its GradDrop acts on activations, another definition.

Random methods are recorded by what does not depend on the draw: PCGrad by the set of its outcomes,
GradDrop by the two values that each coordinate can take. RLW has nothing of the kind.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import pathlib
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torchjd.aggregation as torchjd
import torchjd.scalarization as scalarization
from torchjd.linalg import QuadprogProjector

from benchmarks.speed.libmtl import plain, weightings
from tests.peers import others
from tests.peers.rows import answers

OUT = pathlib.Path(__file__).parents[1] / "data" / "peers.json"
LIBRARIES = (
    "torch",
    "torchjd",
    "LibMTL",
    "conflictfree",
    "gradnorm-pytorch",
    "torch-rechub",
    "softadapt",
    "cvxpy",
    "clarabel",
    "ecos",
    "scipy",
    "numpy",
)
SECONDS = 5  # LibMTL's MGDA has no cap on its iterations.
DRAWS = 200  # Seeds over which the outcomes of a random method are gathered.
COLUMNS = 6
LOSSES = np.array([1.3, 0.7, 1.9, 0.5, 1.1])  # Of the first T tasks, where a method reads them.

# Those on which the guides compare libraries.
TEN = (
    "two agree",
    "two conflict",
    "two, 1000 apart",
    "three",
    "three conflict",
    "three, 100 apart",
    "five",
    "five conflict",
    "five of rank three",
    "one and a multiple",
)

Record = dict[str, Any]


def matrices() -> dict[str, Any]:
    """Task gradients of few digits, by name."""
    rng = np.random.default_rng(2024)

    def gaussian(num_tasks: int) -> Any:
        return rng.normal(size=(num_tasks, COLUMNS)).round(2)

    def conflicting(num_tasks: int) -> Any:
        rows = rng.normal(size=(num_tasks, COLUMNS))
        return (rows - 0.8 * rows.mean(0)).round(2)

    kinds = {
        "two agree": (gaussian(2) + 1.0).round(2),
        "two conflict": conflicting(2),
        "two, 1000 apart": gaussian(2) * np.array([[1.0], [1000.0]]),
        "three": gaussian(3),
        "three conflict": conflicting(3),
        "three, 100 apart": conflicting(3) * np.array([[10.0], [1.0], [0.1]]),
        "five": gaussian(5),
        "five conflict": conflicting(5),
        "five of rank three": (
            rng.normal(size=(5, 3)).round(1) @ rng.normal(size=(3, COLUMNS)).round(1)
        ).round(2),
        # Where the libraries part.
        "nearly stationary": np.array([[1.0, 1e-5, 0, 0, 0, 0], [-1.0, 1e-5, 0, 0, 0, 0]]),
        "opposite": np.array([[1.0, 2, 0, 0, 0, 0], [-1.0, -2, 0, 0, 0, 0]]),
        "nearly parallel": np.array(
            [[1.0, 0.01, 0, 0, 0, 0], [1, 0, 0.01, 0, 0, 0], [-1, 0, 0, 0.01, 0, 0]]
        ),
        "own task in the way": np.array(
            [[1.0, 0, 0, 0, 0, 0], [-2, 0.4, 0, 0, 0, 0], [-2, -0.4, 0.1, 0, 0, 0]]
        ),
        "one and a multiple": np.array([[0.3, 0.4, 0, 0, 0, 0], [3, 4.1, 0, 0, 0, 0]]),
    }
    kinds["three, all small"] = kinds["three conflict"] * 1e-6
    kinds["three, all large"] = kinds["three conflict"] * 1e13
    kinds["uphill"] = uphill(rng)
    kinds["single"] = kinds["three"][:1]
    return kinds


def uphill(rng: Any) -> Any:
    """Returns three rows for which IMTL-G's weights, that sum to one, climb for every task."""
    while True:
        rows = (rng.normal(size=(3, COLUMNS)) * [[1.0], [1.0], [4.0]]).round(2)
        total = np.sum(np.linalg.solve(rows @ rows.T, np.linalg.norm(rows, axis=1)))
        if total < -0.05:
            return rows


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raises TimeoutError in the body after `SECONDS` of this process."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no result in {SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(compute: Callable[[], Any]) -> Record:
    """Returns the update, or the error in its place."""
    try:
        with time_limit():
            return {"update": compute()}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}


def aggregate(make: Callable[..., Any], parameters: Record, rows: Any) -> Any:
    """Returns the update of one of TorchJD's aggregators."""
    return make(**parameters)(torch.tensor(rows)).numpy()


# Without the ridge that TorchJD adds, and its rule for short gradients.
PROJECTOR = QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)


class Scalarized:
    """An aggregator made of a scalarizer: its gradient in the losses, `LOSSES`, weighs the rows."""

    def __init__(self, scalarizer: Any) -> None:
        self.scalarizer = scalarizer

    def __call__(self, rows: Any) -> Any:
        losses = torch.tensor(LOSSES[: len(rows)], requires_grad=True)
        self.scalarizer(losses).backward()
        return losses.grad @ rows


def scalars(num_tasks: int) -> list[tuple[str, Record, Callable[..., Any]]]:
    """Questions to TorchJD's scalarizers, with the first T losses for a preference."""
    preference = torch.tensor(LOSSES[:num_tasks])
    return [
        ("GeometricMean", {}, lambda: Scalarized(scalarization.GeometricMean())),
        ("STCH", {"mu": 0.5}, lambda mu: Scalarized(scalarization.STCH(mu))),
        (
            "COSMOS",
            {"lambda_": 2.0},
            lambda lambda_: Scalarized(scalarization.COSMOS(lambda_, preference.flip(0))),
        ),
        (
            "PBI",
            {"theta": 5.0},
            lambda theta: Scalarized(scalarization.PBI(theta, preference.flip(0))),
        ),
    ]


def single_steps(libmtl: Any) -> list[Record]:
    """One aggregation of each matrix by each deterministic method."""
    records = []

    def add(library: str, method: str, parameters: Record, matrix: str, **result: Any) -> None:
        records.append(
            {"library": library, "method": method, "parameters": parameters, "matrix": matrix}
            | result
        )

    for name, rows in matrices().items():
        num_tasks = len(rows)
        questions: list[tuple[str, Record, Callable[..., Any]]] = [
            ("Mean", {}, torchjd.Mean),
            ("Sum", {}, torchjd.Sum),
            ("MGDA", {}, torchjd.MGDA),
            ("MGDA", {"epsilon": 1e-12, "max_iters": 20000}, torchjd.MGDA),
            ("CAGrad", {"c": 0.5}, torchjd.CAGrad),
            ("CAGrad", {"c": 0.2}, torchjd.CAGrad),
            ("IMTLG", {}, torchjd.IMTLG),
            ("NashMTL", {"n_tasks": num_tasks}, torchjd.NashMTL),
            ("NashMTL", {"n_tasks": num_tasks, "max_norm": 0.0}, torchjd.NashMTL),
        ]
        questions += [
            *[
                ("AlignedMTL", {"scale_mode": mode}, torchjd.AlignedMTL)
                for mode in ("min", "median", "rmse")
            ],
            ("ConFIG", {}, torchjd.ConFIG),
            ("UPGrad", {}, torchjd.UPGrad),
            ("UPGrad", {"exact": True}, lambda exact: torchjd.UPGrad(projector=PROJECTOR)),
            ("DualProj", {"exact": True}, lambda exact: torchjd.DualProj(projector=PROJECTOR)),
            ("FairGrad", {"alpha": 1.0}, torchjd.FairGrad),
            ("FairGrad", {"alpha": 2.0}, torchjd.FairGrad),
            ("PCD", {}, torchjd.PCD),
        ]
        if num_tasks >= 3:
            questions.append(("Krum", {"n_byzantine": 0}, torchjd.Krum))
            questions.append(("TrimmedMean", {"trim_number": 1}, torchjd.TrimmedMean))
        if num_tasks == 2:
            questions.append(("PCGrad", {}, torchjd.PCGrad))
            questions.append(("GradVac", {}, torchjd.GradVac))
        questions += scalars(num_tasks)
        for method, parameters, make in questions:
            step = functools.partial(aggregate, make, parameters, rows)
            add("torchjd", method, parameters, name, **attempt(step))

        if num_tasks == 1:
            continue
        if name in TEN:
            for library, method, parameters, compute in others.questions(rows):
                add(library, method, parameters, name, **attempt(compute))
        asked: list[tuple[str, Record]] = [
            *[("MGDA", {"mgda_gn": gn}) for gn in ("none", "l2", "loss", "loss+")],
            ("IMTL", {}),
        ]
        if num_tasks == 3:
            asked += [("CAGrad", {"calpha": 0.5, "rescale": rescale}) for rescale in (0, 1, 2)]
        if num_tasks == 2:
            asked.append(("PCGrad", {}))
        for method, parameters in asked:
            model = plain(getattr(libmtl, method), num_tasks, COLUMNS)
            step = functools.partial(model.step, rows, LOSSES[:num_tasks], **parameters)
            add("LibMTL", method, parameters, name, **attempt(step))
    return records


def outcomes(libmtl: Any) -> list[Record]:
    """The set of results of the methods that draw, or what bounds it."""
    records: list[Record] = []
    for name in ("three conflict", "own task in the way"):
        rows = matrices()[name]

        def torchjd_draw(seed: int, rows: Any = rows) -> Any:
            torch.manual_seed(seed)
            return torchjd.PCGrad()(torch.tensor(rows)).numpy()

        def libmtl_draw(seed: int, rows: Any = rows) -> Any:
            random.seed(seed)
            return plain(libmtl.PCGrad, len(rows), COLUMNS).step(rows, LOSSES[: len(rows)])

        for library, draw in (("torchjd", torchjd_draw), ("LibMTL", libmtl_draw)):
            seen = np.unique(np.stack([draw(seed) for seed in range(DRAWS)]).round(8), axis=0)
            records.append(
                {"library": library, "method": "PCGrad", "matrix": name, "outcomes": seen}
            )
    for name in ("two conflict", "five"):
        rows = torch.tensor(matrices()[name])
        # f decides which sign survives: with one for every coordinate, there is nothing to draw.
        either = [torchjd.GradDrop(f=f)(rows).numpy() for f in (torch.ones_like, torch.zeros_like)]
        records.append(
            {"library": "torchjd", "method": "GradDrop", "matrix": name, "either": either}
        )
    return records


def sequences(libmtl: Any) -> Record:
    """Several steps of the methods that have a state."""
    rng = np.random.default_rng(7)
    gradients = rng.normal(size=(6, 3, COLUMNS)).round(2)
    losses = rng.uniform(0.3, 3.0, size=(6, 3)).round(2)
    runs = []

    def learned(method: str, parameters: Record, start: float | None, rate: float) -> None:
        model = plain(getattr(libmtl, method), 3, COLUMNS)
        if start is not None:
            model.loss_scale.data.fill_(start)
        optimizer = torch.optim.SGD([model.loss_scale], lr=rate)
        updates, weights = [], []
        for g, loss in zip(gradients, losses, strict=True):
            updates.append(model.step(g, loss, **parameters))
            weights.append(model.reported)
            optimizer.step()
        runs.append(
            {
                "library": "LibMTL",
                "method": method,
                "parameters": {**parameters, "start": start, "learning_rate": rate},
                "weights": np.stack(weights),
                "updates": np.stack(updates),
            }
        )

    learned("UW", {}, None, 0.1)
    learned("UW", {}, 0.0, 0.1)
    learned("IMTL", {}, None, 0.1)

    for temperature in (2.0, 0.5):
        updates, weights = [], []
        for epoch in range(len(losses)):
            model = plain(libmtl.DWA, 3, COLUMNS)
            model.epoch, model.train_loss_buffer = epoch, losses.T
            updates.append(model.step(gradients[epoch], losses[epoch], T=temperature))
            weights.append(model.reported)
        runs.append(
            {
                "library": "LibMTL",
                "method": "DWA",
                "parameters": {"T": temperature},
                "weights": np.stack(weights),
                "updates": np.stack(updates),
            }
        )

    # One step each from w = 1: later ones depend on LibMTL's own parametrisation of w.
    for alpha in (0.12, 1.5):
        slopes = []
        for g, loss in zip(gradients[1:], losses[1:], strict=True):
            model = plain(libmtl.GradNorm, 3, COLUMNS)
            model.epoch, model.train_loss_buffer = 1, losses[:1].T
            model.step(g, loss, alpha=alpha)
            slopes.append(model.loss_scale.grad.numpy().copy())
        runs.append(
            {
                "library": "LibMTL",
                "method": "GradNorm",
                "parameters": {"alpha": alpha},
                "slopes": np.stack(slopes),
            }
        )
    return {"gradients": gradients, "losses": losses, "runs": runs + of_torchjd(gradients, losses)}


def of_torchjd(gradients: Any, losses: Any) -> list[Record]:
    """The runs of TorchJD's methods that have a state."""
    runs = []

    def add(method: str, parameters: Record, updates: list[Any]) -> None:
        record = {"library": "torchjd", "method": method, "parameters": parameters}
        runs.append({**record, "updates": np.stack(updates)})

    for method, parameters in (("PCD", {"tau": 0.3, "beta": 0.8}), ("PCD", {})):
        aggregator = getattr(torchjd, method)(**parameters)
        add(method, parameters, [aggregator(torch.tensor(g)).numpy() for g in gradients])
    averaged = torchjd.GramianWeightedAggregator(
        torchjd.CRMOGMWeighting(torchjd.MGDAWeighting(epsilon=1e-12, max_iters=20000))
    )
    add("CRMOGM", {}, [averaged(torch.tensor(g)).numpy() for g in gradients])
    two = torchjd.GradVac()
    add("GradVac", {}, [two(torch.tensor(g[:2])).numpy() for g in gradients])
    for method, parameters in (("MoDo", {}), ("SDMGrad", {"lr": 0.2})):
        weighting = getattr(torchjd, f"{method}Weighting")(**parameters)
        updates = []
        for g, other in zip(gradients, np.roll(gradients, 1, axis=0), strict=True):
            weights = weighting(torch.tensor(g) @ torch.tensor(other).T)
            updates.append(weights.detach().numpy() @ g)
        add(method, parameters, updates)
    famo, updates = scalarization.FAMO(3), []
    for step, (g, now) in enumerate(zip(gradients, losses, strict=True)):
        if step:
            famo.update(torch.tensor(now))
        at = torch.tensor(now, requires_grad=True)
        famo(at).backward()
        updates.append(at.grad.numpy() @ g)
    add("FAMO", {}, updates)
    return runs


def as_json(value: Any) -> str:
    """Formats numbers to ten digits."""

    def simple(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: simple(entry) for key, entry in value.items()}
        if isinstance(value, np.ndarray | list | tuple):
            return [simple(entry) for entry in value]
        if isinstance(value, float | np.floating) and np.isfinite(value):
            return float(f"{value:.10g}") + 0.0  # No negative zero.
        return value

    return json.dumps(simple(value), ensure_ascii=False)


def main() -> None:
    """Writes the file, one record to a line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    libmtl = weightings()

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    runs = sequences(libmtl)
    sections: dict[str, str] = {
        "made_by": as_json("python -m tests.peers.record"),
        "versions": as_json(versions),
    }

    def rows_of(entries: list[str], braces: str) -> str:
        return braces[0] + "\n  " + ",\n  ".join(entries) + "\n " + braces[1]

    named = [f"{json.dumps(name)}: {as_json(rows)}" for name, rows in matrices().items()]
    sections["matrices"] = rows_of(named, "{}")
    sections["ten"] = as_json(list(TEN))
    sections["losses"] = as_json(LOSSES)
    sections["single_steps"] = rows_of([as_json(r) for r in single_steps(libmtl)], "[]")
    sections["outcomes"] = rows_of([as_json(r) for r in outcomes(libmtl)], "[]")
    sections["sequence"] = as_json({key: runs[key] for key in ("gradients", "losses")})
    sections["runs"] = rows_of([as_json(r) for r in runs["runs"]], "[]")
    torch.set_default_dtype(torch.float32)
    sections["rows"] = rows_of([as_json(row) for row in answers()], "[]")
    body = ",\n".join(f" {json.dumps(key)}: {text}" for key, text in sections.items())
    out.write_text("{\n" + body + "\n}\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
