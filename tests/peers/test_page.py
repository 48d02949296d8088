"""docs/peers.md: its rows are those of tests/data/peers.json, and ours are what oracles say.

The oracles are SciPy, NumPy in float64, and what follows by hand.
"""

import contextlib
import io
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import fsolve, minimize_scalar, nnls

from tests.common import ROOT
from tests.peers.page import PAGE, block, numbers, sections

PEERS = json.loads((ROOT / "tests" / "data" / "peers.json").read_text("utf-8"))
ROWS = [row for section in sections() for row in section.rows]
RECORDED = {(row["package"], row["situation"]): row for row in PEERS["rows"]}
METHODS = ROOT / "mtl_optax" / "_methods"
CONFLICT = np.array([[1.0, 0.0], [-0.5, 1.0]])


def pcgrad(rows):
    """Of two tasks."""
    a, b = rows
    share = min(a @ b, 0)
    return a - share / (b @ b) * b + b - share / (a @ a) * a


def upgrad(rows):
    return np.mean([g + rows.T @ nnls(rows.T, -g)[0] for g in rows], axis=0)


def dual_proj(rows):
    mean = rows.mean(0)
    return mean + rows.T @ nnls(rows.T, -mean)[0]


def cagrad(rows, c=0.5):
    """Of two tasks, or of more whose best weights lie on the first two."""
    mean = rows.mean(0)
    pair = lambda w: w * rows[0] + (1 - w) * rows[1]
    value = lambda w: pair(w) @ mean + c * np.linalg.norm(mean) * np.linalg.norm(pair(w))
    best = pair(minimize_scalar(value, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x)
    update = mean + c * np.linalg.norm(mean) * best / np.linalg.norm(best)
    assert np.min(rows[2:] @ update, initial=np.inf) >= np.min(rows[:2] @ update) - 1e-9
    return update


def config(rows):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    e = np.linalg.lstsq(units, np.ones(len(rows)), rcond=None)[0]
    e /= np.linalg.norm(e)
    return np.sum(rows @ e) * e


def nash(rows):
    """Of two tasks: both have the gain 1 / a, and a ‖g‖ is the same for both."""
    cosine = rows[0] @ rows[1] / np.prod(np.linalg.norm(rows, axis=1))
    weights = 1 / (np.linalg.norm(rows, axis=1) * np.sqrt(1 + cosine))
    return weights @ rows / np.linalg.norm(weights @ rows)


def fairgrad(rows, alpha):
    weights = fsolve(
        lambda w: rows @ rows.T @ w - w ** (-1 / alpha), np.ones(len(rows)), xtol=1e-12
    )
    return weights @ rows


def aligned(rows):
    left, sizes, right = np.linalg.svd(rows)
    return sizes.min() * (left @ right).mean(0)


def krum(rows):
    """Of three: each has one neighbour, and the nearest two share the place."""
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.diag([np.inf] * 3)
    scores = distances.min(1)
    return rows[scores == scores.min()].mean(0)


def mgda(rows):
    """The shortest point of the hull, as nonnegative least squares with weights that sum to one."""
    big = 1e3 * np.linalg.norm(rows)
    weights = nnls(np.vstack([rows.T, np.full(len(rows), big)]), np.r_[0, 0, big])[0]
    return weights @ rows


def sdmgrad(rows, lam=0.3):
    u = np.full(2, 0.5)
    gram = rows @ rows.T
    scale = np.mean(np.sqrt(np.diag(gram))) ** 2
    value = lambda p: np.array([p, 1 - p]) @ gram / scale @ (np.array([p, 1 - p]) / 2 + lam * u)
    p = minimize_scalar(value, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x
    return (np.array([p, 1 - p]) + lam * u) / (1 + lam)


def gradnorm(alpha, rate, rows, *losses):
    """Two tasks' weights after descents of Σ |w n - mean(w n) r^α|, as the paper has them."""
    norms, weights = np.linalg.norm(rows, axis=1), np.ones(2)
    for values in losses:
        rates = np.array(values) / losses[0]
        lengths = weights * norms
        target = lengths.mean() * (rates / rates.mean()) ** alpha
        far = np.abs(lengths - target) > 1e-6 * target
        moved = np.maximum(weights - rate * np.sign(lengths - target) * far * norms, 1e-3)
        weights = 2 * moved / moved.sum()
    return weights


def gradnorm_adam(steps, rows, rate=0.025):
    """The same with Adam, α = 0 and losses that stand."""
    norms, weights = np.linalg.norm(rows, axis=1), np.ones(2)
    mean, square = np.zeros(2), np.zeros(2)
    for count in range(1, steps + 1):
        lengths = weights * norms
        slopes = np.sign(lengths - lengths.mean()) * norms
        mean, square = 0.9 * mean + 0.1 * slopes, 0.999 * square + 0.001 * slopes**2
        down = (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        moved = np.maximum(weights - rate * down, 1e-3)
        weights = 2 * moved / moved.sum()
    return weights


def dwa(before, now, temperature=2.0):
    shares = np.exp(np.array(now) / np.array(before) / temperature)
    return 2 * shares / shares.sum()


def quadratics(decay, x=((1.0, 2.0), (3.0, 4.0))):
    """The Gram matrix of `mean((x k_t)²) + decay ‖K‖²` at K = 1, from its derivatives."""
    data = np.array(x).T @ np.array(x)
    rows = [np.outer(data[:, t], np.eye(2)[t]) + 2 * decay * np.eye(2) for t in range(2)]
    return np.array([[np.sum(a * b) for b in rows] for a in rows])


def alone(transformation, gradient, params=None):
    """Optax's own step of one task's gradient."""
    gradient = jnp.array(gradient)
    params = jnp.zeros_like(gradient) if params is None else jnp.array(params)
    return transformation.update(gradient, transformation.init(params), params)[0]


def muon():
    step = alone(optax.contrib.muon(1.0), [[4.0, 1.0], [1.0, 2.0]])
    return np.linalg.svd(np.asarray(step), compute_uv=False)


SLOW = [[1.0, 1.0], [0.9, 0.5]]
HALF = [[1.0, 1.0], [1.0, 0.25], [1.0, 0.25]]
DEPENDENT = np.array([[5.0, 7.0], [-7.0, 4.0], [8.0, 6.0], [5.0, -3.0]])
PAIR = np.array([[1.0, 0.0], [0.5, 1.0]])

# For each row in the order of the page, what ours must be.
WANTED = {
    "torchjd": [
        np.zeros(2),  # Of <g, d> / ‖g‖ that are equal and opposite.
        np.zeros(2),
        *[lambda: nash(PAIR)] * 3,
        lambda: np.array([1.0, 2.0]) / math.sqrt(5),
        lambda: pcgrad(CONFLICT) / 2,
        lambda: upgrad(DEPENDENT).round(2),
        lambda: dual_proj(np.array([[1.0, 0.0], [-2.0, 0.5]])),
        lambda: cagrad(CONFLICT),
        1 + (0.02 + 0.999) * -0.999,  # d = g_0 + (τ - cos) g_1.
        lambda: upgrad(CONFLICT),
        lambda: config(CONFLICT),
        lambda: cagrad(CONFLICT),
        lambda: fairgrad(CONFLICT, 0.05),
        0.0,
        lambda: krum(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])),
        lambda: aligned(np.array([[3000.0, 0.0], [0.0, 1.0]])),
        np.array([2.0, 4.5]),  # The cosine of the last pair is above 0.99: the plain sum.
        np.full(2, 14 / 3),  # The mean.
        lambda: sdmgrad(CONFLICT),
        np.array([0.0, 1.0]),  # The second loss alone.
        lambda: quadratics(0.5),
        lambda: quadratics(0.0),
    ],
    "LibMTL": [
        lambda: sum(f.read_text().count("\n@register(") for f in METHODS.glob("*.py")),
        "mtl_optax",
        lambda: cagrad(CONFLICT),
        lambda: cagrad(np.vstack([CONFLICT, [0.0, 1.0]])),
        lambda: mgda(CONFLICT),
        lambda: mgda(1e5 * np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])),
        np.full(2, 0.5),
        math.sqrt(4) / 2 / np.array([4.0, 1.0]),  # The geometric mean over T L.
    ],
    "conflictfree": [
        np.zeros(2),
        np.array([2.0, 4.0]),
        np.array([1.0, 0.0]),
        np.array([2.0, 4.0]),
        0.0,
        np.ones(2),  # The first step of Adam along (1, 1).
    ],
    "gradnorm-pytorch": [
        lambda: gradnorm(1.0, 0.05, np.eye(2), *HALF[:2]),
        lambda: gradnorm(1.5, 0.05, np.eye(2), *HALF[:2]),
        lambda: gradnorm(0.0, 0.5, np.diag([10.0, 0.1]), [1.0, 1.0]),
        np.array([2.0, 1.0]),
    ],
    "torch-rechub": [
        lambda: gradnorm(1.0, 0.05, np.eye(2), *HALF[:2]),
        "bottom",
        np.ones(2),
        1 + (0.7 * 1 / 3 + 0.3) * 3,
    ],
    "golden-pendulum-mtl": [
        *[np.full(2, math.sqrt(0.5))] * 2,
        math.sqrt(0.5) / np.array([100.0, 1.0]),
        np.zeros(2),
    ],
    "softadapt": [
        lambda: dwa(*SLOW),
        lambda: dwa(*SLOW),
        lambda: dwa([0.9, 1.0], [1.3, 1.0]),
        np.ones(2),
    ],
    "pytorch-optimizer": [lambda: pcgrad(CONFLICT), 3.0],
    "jinns": [*[0.1 + 0.9 * 2 / 0.5] * 2, *[2.0] * 2],
    "deepxde": [np.array([1.0, 9.0]), "ValueError"],
    "pina-mathlab": [
        2 * np.array([1 / 10, 1.0]) / 1.1,
        11 / np.array([10.0, 1.0]),
        np.array([1.0, 0.0]),
    ],
    "nextrec": [lambda: gradnorm_adam(20, np.diag([8e-5, 2e-5]))],
    "moocore": [np.nan, (60 + 90) / 2, 20.0, np.full(2, -50.0)],
    "pymoo": [np.nan, np.array([1, 2]), np.full(3, -50.0)],
    "libmoon": [-100 * np.mean([[1.3 / 2.6, 0.4 / 0.8], [0.6 / 2.6, 0.7 / 0.8]], axis=1)],
    "optax": [
        muon,
        lambda: alone(optax.scale_by_factored_rms(min_dim_size_to_factor=2), [1.0, 3.0]),
        np.array([1.0, 3.0]),
        np.array([0.6, 0.0]),
        -1.0,  # A trust ratio of one, and Adam's first step.
        np.full(2, -0.1),
        *[np.full(2, -math.sqrt(0.5))] * 2,  # The first step is cut to length one.
        np.array([0.0, 1.0]),
    ],
    "jax": [
        np.zeros(2),
        np.zeros(2),
        np.full(2, np.nan),
        *[np.full((2, 2), 6.0)] * 2,
        lambda: nash(PAIR),
        np.full((2, 2, 2), 6.0),
        lambda: [mgda(np.diag([1.0, size])) for size in (1.0, 3.0)],
    ],
    "orbax-checkpoint": ["WeightingState", "float32"],
}


@pytest.fixture(scope="module")
def ours():
    """The names of the page's own blocks."""
    namespace = {"__name__": "docs/peers.md"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block(PAGE.read_text("utf-8"), "python"), "docs/peers.md", "exec"), namespace)
    return namespace


def number_of(row):
    return [other for other in ROWS if other.package == row.package].index(row)


def close(answer, value, tolerance):
    """That a printed answer is a value, up to a share of its largest entry."""
    value = np.asarray(value)
    if value.dtype.kind == "U":
        return answer == str(value)
    found, wanted = np.array(numbers(answer)), value.astype(float).ravel()
    if found.shape != wanted.shape:
        return False
    finite = np.isfinite(wanted)
    size = np.max(np.abs(wanted[finite]), initial=0)
    apart = np.abs(found[finite] - wanted[finite]) <= tolerance * size + 1e-12
    return bool(np.all(apart) and np.array_equal(found[~finite], wanted[~finite], equal_nan=True))


@pytest.mark.nans
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.package}-{number_of(row)}")
def test_ours_at_that_very_input(row, ours):
    wanted = WANTED[row.package][number_of(row)]
    wanted = wanted() if callable(wanted) else wanted
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(False), jax.debug_nans(False):
        found = eval(row.ours, ours)
        found = found if isinstance(found, str) else np.asarray(found, float)
    assert close(row.our_answer, wanted, 6e-3 if "bfloat16" in row.ours else 1e-3)
    if isinstance(found, str):
        assert found == wanted
    else:
        wanted = np.asarray(wanted, float)
        atol = 1e-3 * np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0) + 1e-6
        rtol = 6e-3 if "bfloat16" in row.ours else 1e-3
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=rtol, atol=atol)


def test_the_page_and_the_record_hold_the_same_rows():
    assert list(RECORDED) == [(row.package, row.situation) for row in ROWS]
    assert len(RECORDED) == len(PEERS["rows"])
    for section in sections():
        for row in section.rows:
            recorded = RECORDED[row.package, row.situation]
            assert recorded["program"] == row.program
            assert recorded["version"] == section.version


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.package}-{number_of(row)}")
def test_what_the_page_says_a_peer_answers_is_what_was_recorded(row):
    answer = RECORDED[row.package, row.situation]["answer"]
    if isinstance(answer, str) and "Error" in answer:
        assert answer.startswith(f"{row.answer}:")
    elif isinstance(answer, bool):
        assert str(answer) == row.answer
    else:
        assert close(row.answer, np.array(answer), 1e-3), answer


def test_the_recorders_environment_has_the_pages_versions():
    here = ROOT / "tests" / "peers"
    files = [here / "requirements.txt", here / "without_dependencies.txt", ROOT / "pyproject.toml"]
    pinned = re.sub(r"\[\w+\]", "", "\n".join(file.read_text("utf-8") for file in files))
    for section in sections():
        assert re.search(
            rf"(?m)(^|\"){section.package}=={re.escape(section.version)}($|\")", pinned
        )


def test_there_are_as_many_rows_and_packages_as_the_page_is_for():
    assert len(ROWS) >= 45
    assert len({row.package for row in ROWS}) >= 12
    assert sum(len(wanted) for wanted in WANTED.values()) == len(ROWS)


def test_a_row_that_drifts_is_seen():
    assert close("[0.25, -1.5e-3]", [0.25, -1.5e-3], 1e-3)
    assert close("[nan, inf]", [np.nan, np.inf], 1e-3)
    for wrong in ("[0.26, 1]", "[0.25, -1]", "[0.25]", "[nan, 1]", "[0.25, inf]"):
        assert not close(wrong, [0.25, 1.0], 1e-3)
    with pytest.raises(ValueError, match="not `program`"):
        sections("## jax 0.1\n\n| a | `f()` | `g()` → `1` | why |\n")
