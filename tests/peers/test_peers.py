"""Our numbers against the peers', and which side ours takes where they part.

`tests/data/peers.json` holds the libraries' versions, the matrices and what they answered; the
script that made it is `record.py`. The peers computed in float64, ours in float32.
"""

import contextlib
import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import ROOT, optimised, relative_error
from tests.peers.guides import agreements
from tests.peers.page import block

PEERS = json.loads((ROOT / "tests" / "data" / "peers.json").read_text("utf-8"))
MATRICES = {name: np.array(rows) for name, rows in PEERS["matrices"].items()}
LOSSES = np.array(PEERS["losses"])
SEQUENCE = {key: np.array(value) for key, value in PEERS["sequence"].items()}


@functools.cache
def first_step(name, num_tasks, hyperparameters):
    tx = getattr(mtl, name)(num_tasks, **dict(hyperparameters))
    return optimised(lambda g, losses: tx.update(g, tx.init(g[0]), g[0], task_losses=losses))


def ours(name, rows, **hyperparameters):
    """The first update and its state."""
    step = first_step(name, len(rows), tuple(hyperparameters.items()))
    losses = jnp.asarray(LOSSES[: len(rows)], jnp.float32)
    updates, state = step(jnp.asarray(rows, jnp.float32), losses)
    return np.asarray(updates, np.float64), state


def steps(name, **hyperparameters):
    """The updates and the weights over the sequence."""
    gradients, losses = (jnp.asarray(SEQUENCE[k], jnp.float32) for k in ("gradients", "losses"))
    tx = getattr(mtl, name)(gradients.shape[1], **hyperparameters)

    def body(state, given):
        updates, state = tx.update(given[0], state, given[0][0], task_losses=given[1])
        return state, (updates, optax.tree_utils.tree_get(state, "weights"))

    _, (updates, weights) = jax.jit(
        lambda: jax.lax.scan(body, tx.init(gradients[0, 0]), (gradients, losses))
    )()
    return np.asarray(updates, np.float64), np.asarray(weights, np.float64)


def records(library, method, matrix, parameters):
    return [
        record
        for record in PEERS["single_steps"]
        if (record["library"], record["method"], record["matrix"]) == (library, method, matrix)
        and record["parameters"] == parameters
    ]


def theirs(library, method, matrix, **parameters):
    """The peer's update, or the text of its error."""
    (found,) = records(library, method, matrix, parameters)
    return np.array(found["update"]) if "update" in found else found["error"]


def run_of(method, **parameters):
    (found,) = [
        run
        for run in PEERS["runs"]
        if run["method"] == method and parameters.items() <= run["parameters"].items()
    ]
    return found


def unit(x):
    return x / np.linalg.norm(x)


TEN = PEERS["ten"]
ORDINARY = [matrix for matrix in TEN if matrix != "one and a multiple"]
AGREEMENTS = list(agreements())
# What the tables leave to other tests: defaults that stop early, and preferences that are arrays.
ELSEWHERE = {
    ("torchjd", "MGDA", ()),
    ("torchjd", "UPGrad", ()),
    ("torchjd", "COSMOS", (("lambda_", 2.0),)),
    ("torchjd", "PBI", (("theta", 5.0),)),
    ("softadapt", "LossWeightedSoftAdapt", (("beta", 0.1),)),
}


@functools.cache
def gradnorm_steps(num_tasks, alpha):
    """The weights after two steps of gradients whose longest has length one, as `others` has it."""
    tx = mtl.gradnorm(num_tasks, alpha=alpha, optimizer=optax.sgd(1e-3 / num_tasks))

    @jax.jit
    def weights(g):
        state = tx.init(g[0])
        for _ in range(3):
            _, state = tx.update(g, state, g[0], task_losses=jnp.ones(num_tasks))
        return mtl.task_weights(state)

    return weights


def weights_of_gradnorm(rows, alpha):
    longest = np.linalg.norm(rows, axis=1).max()
    return gradnorm_steps(len(rows), alpha)(jnp.asarray(rows / longest, jnp.float32))


@functools.cache
def softadapt():
    """The method that its guide writes."""
    namespace = {}
    guide = (ROOT / "docs" / "guides" / "from-softadapt.md").read_text("utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(block(guide, "python"), namespace)
    return namespace["softadapt"]


def weights_of_softadapt(rows, **parameters):
    """After the last of six epochs, whose losses are the sizes of the rows' entries."""
    tx, params = softadapt()(len(rows), **parameters), jnp.zeros(1)
    state = tx.init(params)
    for losses in np.abs(rows).T[-2:]:
        given = jnp.asarray(losses, jnp.float32)
        _, state = tx.update(jnp.zeros((len(rows), 1)), state, params, task_losses=given)
    return mtl.task_weights(state)


ANSWERS = {
    "gradnorm-pytorch": lambda name, rows, **options: weights_of_gradnorm(rows, **options),
    "softadapt": lambda name, rows, **options: weights_of_softadapt(rows, **options),
}


def label(agreement):
    options = [str(value) for value in agreement.parameters.values()]
    return "-".join([agreement.name, agreement.peer, agreement.method, *options])


@pytest.mark.parametrize("agreement", AGREEMENTS, ids=label)
def test_the_guides_same_numbers(agreement):
    apart, tried = [], 0
    for matrix in TEN:
        rows, parameters = MATRICES[matrix], agreement.parameters
        if agreement.method == "NashMTL":
            parameters = {"n_tasks": len(rows), **parameters}
        if agreement.tasks not in (None, len(rows)):
            continue
        # Some take three tasks and more.
        if not records(agreement.peer, agreement.method, matrix, parameters):
            assert agreement.method in ("Krum", "TrimmedMean")
            assert len(rows) == 2
            continue
        tried += 1
        answer = ANSWERS.get(agreement.peer, lambda *given, **options: ours(*given, **options)[0])
        found = np.asarray(answer(agreement.name, rows, **agreement.hyperparameters), np.float64)
        wanted = theirs(agreement.peer, agreement.method, matrix, **parameters)
        if agreement.factor is None:
            found, wanted = unit(found), unit(wanted)
        if relative_error(found * (agreement.factor or 1), wanted) > agreement.tolerance:
            apart.append(matrix)
    assert tried >= 3
    assert apart == [matrix for matrix in TEN if matrix in agreement.but_for]


def test_the_guides_leave_nothing_out_that_was_recorded():
    key = lambda parameters: tuple(sorted((k, v) for k, v in parameters.items() if k != "n_tasks"))
    listed = {(a.peer, a.method, key(a.parameters)) for a in AGREEMENTS} | ELSEWHERE
    asked = {(r["library"], r["method"], key(r["parameters"])) for r in PEERS["single_steps"]}
    assert asked == listed


def test_torchjds_mgda_stops_early_and_ours_is_never_longer():
    """It stops at a step of 1e-3 or at 100 iterations; ours at a certified gap of about zero."""
    excesses = []
    for matrix in ORDINARY:
        rows = MATRICES[matrix]
        updates, state = ours("mgda", rows)
        peer = theirs("torchjd", "MGDA", matrix)
        excesses.append((peer @ peer - updates @ updates) / np.mean(np.sum(rows**2, axis=1)))
        assert state.inner.gap < 1e-6
    assert min(excesses) > -1e-6
    assert 1e-3 < max(excesses) < 1e-2


def test_torchjds_mgda_misses_common_descent_where_ours_has_it():
    """`<g_t, d> >= ‖d‖²` for every task is what makes the min-norm point a descent direction."""
    rows = MATRICES["five"]
    shortfall = {}
    for library, d in (
        ("ours", ours("mgda", rows)[0]),
        ("torchjd", theirs("torchjd", "MGDA", "five")),
    ):
        shortfall[library] = 1 - np.min(rows @ d) / (d @ d)
    assert shortfall["ours"] < 1e-5
    assert shortfall["torchjd"] > 0.05


@pytest.mark.parametrize("kind", ["none", "l2", "loss", "loss+"])
def test_libmtls_mgda_is_never_shorter(kind):
    """It clips the weights of a pair to [0.001, 0.999], and stops where a step is small."""
    excess = {}
    for matrix in ORDINARY:
        rows, losses = MATRICES[matrix], LOSSES[: len(MATRICES[matrix])]
        lengths = np.linalg.norm(rows, axis=1)
        v = np.ones_like(losses)
        v = v * lengths if kind in ("l2", "loss+") else v
        v = v * losses if kind in ("loss", "loss+") else v
        _, state = ours("mgda", rows, normalization=kind)
        weights = np.asarray(state.weights, np.float64) * v
        shortest = np.linalg.norm(weights / weights.sum() @ (rows / v[:, None]))
        peer = theirs("LibMTL", "MGDA", matrix, mgda_gn=kind)
        excess[matrix] = np.linalg.norm(peer) / shortest - 1
    assert min(excess.values()) > -1e-5
    if kind == "none":
        # A thousandth of the large gradient is longer than the small one.
        assert excess["two, 1000 apart"] > 1


@pytest.mark.parametrize("kind", ["l2", "loss", "loss+"])
def test_ours_rescales_mgdas_normalised_direction_to_weights_that_sum_to_one(kind):
    """LibMTL's step has the scale of `g / v`: gradients 1e13 times larger take the same step."""
    for matrix in ("three conflict", "three, all large"):
        _, state = ours("mgda", MATRICES[matrix], normalization=kind)
        np.testing.assert_allclose(np.sum(state.weights), 1, rtol=1e-6)
    if kind != "loss":
        sizes = [
            np.linalg.norm(theirs("LibMTL", "MGDA", matrix, mgda_gn=kind))
            for matrix in ("three conflict", "three, all large")
        ]
        np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-3)


def test_libmtls_mgda_fails_on_large_gradients_and_ours_does_not():
    """It starts from the best pair below a norm of 1e4, and finds none."""
    assert "UnboundLocalError" in theirs("LibMTL", "MGDA", "three, all large", mgda_gn="none")
    large, _ = ours("mgda", MATRICES["three, all large"])
    plain, _ = ours("mgda", MATRICES["three conflict"])
    assert relative_error(large, 1e13 * plain) < 1e-5


def test_torchjds_cagrad_gives_up_near_stationarity_and_ours_stays_in_its_ball():
    """Below a relative norm of 1e-4 of `g_w`, TorchJD's update is zero; the problem's is not."""
    rows = MATRICES["nearly stationary"]
    assert np.all(theirs("torchjd", "CAGrad", "nearly stationary", c=0.5) == 0)
    updates, _ = ours("cagrad", rows, c=0.5)
    mean = rows.mean(0)
    assert np.linalg.norm(updates - mean) <= 0.5 * np.linalg.norm(mean) * (1 + 1e-4)
    assert np.min(rows @ updates) > 0


def test_cagrad_of_small_gradients_is_small_and_the_same():
    """TorchJD's threshold and LibMTL's 1e-8 are absolute; ours has no unit.

    TorchJD returns zero. LibMTL leaves the ball around the mean, to hundreds of its norms.
    """
    small, mean = MATRICES["three, all small"], MATRICES["three, all small"].mean(0)
    plain, _ = ours("cagrad", MATRICES["three conflict"], c=0.5)
    assert relative_error(ours("cagrad", small, c=0.5)[0], 1e-6 * plain) < 1e-4
    assert np.all(theirs("torchjd", "CAGrad", "three, all small", c=0.5) == 0)
    peer = theirs("LibMTL", "CAGrad", "three, all small", calpha=0.5, rescale=0)
    assert np.linalg.norm(peer - mean) > 100 * np.linalg.norm(mean)


def test_cagrads_scale_is_the_papers_and_libmtls_default_is_an_option():
    rows = MATRICES["three"]
    default = theirs("LibMTL", "CAGrad", "three", calpha=0.5, rescale=1)
    assert relative_error(ours("cagrad", rows)[0], 1.25 * default) < 1e-3
    assert (
        relative_error(ours("cagrad", rows)[0], theirs("torchjd", "CAGrad", "three", c=0.5)) < 1e-4
    )


def outcomes(library, matrix):
    (found,) = [
        record["outcomes"]
        for record in PEERS["outcomes"]
        if (record["library"], record["matrix"], record["method"]) == (library, matrix, "PCGrad")
    ]
    return np.array(found)


def is_among(update, possible):
    return np.any(np.max(np.abs(possible - update[None]), axis=1) < 1e-5)


@pytest.mark.parametrize("matrix", ["three conflict", "own task in the way"])
def test_pcgrads_outcomes_are_torchjds(matrix):
    """Both project on the other tasks in random order, so that the same updates can occur."""
    rows, possible = jnp.asarray(MATRICES[matrix], jnp.float32), outcomes("torchjd", matrix)
    tx = mtl.pcgrad(3, key=5)
    body = lambda state, _: tuple(reversed(tx.update(rows, state)))
    _, seen = jax.lax.scan(body, tx.init(rows[0]), length=100)
    seen = np.asarray(seen, np.float64)
    assert all(is_among(update, possible) for update in seen)
    assert all(is_among(wanted, seen) for wanted in possible)


def test_pcgrad_leaves_the_own_task_out_and_libmtl_does_not():
    """A projected gradient can turn against its own task's; only LibMTL projects it once more."""
    matrix = "own task in the way"
    possible = outcomes("torchjd", matrix)
    extra = [update for update in outcomes("LibMTL", matrix) if not is_among(update, possible)]
    assert len(extra) > 0


@pytest.mark.parametrize("start", [0.0, None])
def test_uw_takes_libmtls_steps_and_starts_at_zero(start):
    run = run_of("UW", start=start)
    updates, weights = steps("uw", optimizer=optax.sgd(0.1))
    if start == 0.0:
        assert relative_error(weights, run["weights"]) < 1e-5
        assert relative_error(updates, run["updates"]) < 1e-5
    else:
        # LibMTL starts at s = -0.5, and so weighs by 0.82; the paper gives no start.
        np.testing.assert_allclose(run["weights"][0], 0.5 * np.exp(0.5), rtol=1e-6)
        np.testing.assert_allclose(weights[0], 0.5, rtol=1e-6)


def test_imtl_g_descends_where_both_peers_ascend_for_every_task():
    rows = MATRICES["uphill"]
    for library, method in (("torchjd", "IMTLG"), ("LibMTL", "IMTL")):
        peer = theirs(library, method, "uphill")
        assert np.all(rows @ peer < 0)
        assert relative_error(ours("imtl_g", rows)[0], -peer) < 1e-5
        assert relative_error(ours("imtl_g", rows, safe=False)[0], peer) < 1e-5


def test_imtl_g_is_zero_where_no_direction_projects_equally():
    """Of five gradients of rank three TorchJD's pseudo-inverse and LibMTL's inverse make more."""
    rows = MATRICES["five of rank three"]
    lengths = np.linalg.norm(rows, axis=1)
    for library, method in (("torchjd", "IMTLG"), ("LibMTL", "IMTL")):
        peer = theirs(library, method, "five of rank three")
        assert np.std(rows @ peer / lengths) > 0.1 * np.linalg.norm(peer)
    assert np.linalg.norm(ours("imtl_g", rows)[0]) < 1e-5 * np.min(lengths)


def test_imtl_takes_libmtls_steps():
    run = run_of("IMTL")
    updates, _ = steps("imtl", optimizer=optax.sgd(0.1), safe=False)
    assert relative_error(updates, run["updates"]) < 1e-4


def bargain(rows, update):
    """Returns `a_t <g_t, d>` for each task, all one at the bargaining solution."""
    return np.linalg.lstsq(rows.T, update, rcond=None)[0] * (rows @ update)


@pytest.mark.parametrize("matrix", ["two, 1000 apart", "three conflict", "three, all small"])
def test_nash_mtl_solves_what_torchjd_does_not(matrix):
    """Its rounds with ECOS fail or stop early; the equations decide who is right."""
    rows = MATRICES[matrix]
    peer = theirs("torchjd", "NashMTL", matrix, n_tasks=len(rows), max_norm=0.0)
    assert np.max(np.abs(bargain(rows, peer) - 1)) > 0.2
    assert np.max(np.abs(bargain(rows, ours("nash_mtl", rows, max_norm=None)[0]) - 1)) < 1e-3


def test_nash_mtls_default_length_is_one_as_torchjds():
    for matrix in ("three", "five conflict"):
        rows = MATRICES[matrix]
        peer = theirs("torchjd", "NashMTL", matrix, n_tasks=len(rows))
        for update in (peer, ours("nash_mtl", rows)[0]):
            np.testing.assert_allclose(np.linalg.norm(update), 1, rtol=1e-5)


def test_nash_mtl_of_one_task_is_its_unit_gradient_where_torchjd_fails():
    assert "Error" in theirs("torchjd", "NashMTL", "single", n_tasks=1)
    rows = MATRICES["single"]
    assert relative_error(ours("nash_mtl", rows)[0], unit(rows[0])) < 1e-6


@pytest.mark.parametrize("matrix", ["two conflict", "five"])
def test_graddrop_takes_one_of_torchjds_two_values_at_each_coordinate(matrix):
    (either,) = [
        np.array(record["either"])
        for record in PEERS["outcomes"]
        if (record["method"], record["matrix"]) == ("GradDrop", matrix)
    ]
    rows = jnp.asarray(MATRICES[matrix], jnp.float32)
    tx = mtl.graddrop(len(rows), key=1)
    body = lambda state, _: tuple(reversed(tx.update(rows, state)))
    _, seen = jax.lax.scan(body, tx.init(rows[0]), length=200)
    near = np.abs(np.asarray(seen)[:, None] - either[None]) < 1e-5
    assert np.all(np.any(near, axis=1))
    two_signs = np.all(either != 0, axis=0)
    assert np.all(np.any(near, axis=0)[:, two_signs])


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_dwa_takes_libmtls_steps(temperature):
    run = run_of("DWA", T=temperature)
    updates, weights = steps("dwa", temperature=temperature)
    assert relative_error(weights, run["weights"]) < 1e-5
    assert relative_error(updates, run["updates"]) < 1e-5


@pytest.mark.parametrize("alpha", [0.12, 1.5])
def test_gradnorms_first_step_has_the_direction_of_libmtls(alpha):
    """LibMTL learns `w = T softmax(s)`, ours w and rescales it; from w = 1 they move alike.

    Both keep the target constant under differentiation.
    """
    gradients, losses = (jnp.asarray(SEQUENCE[k], jnp.float32) for k in ("gradients", "losses"))
    # The first step only shows the initial losses.
    rate = lambda count: jnp.where(count == 0, 0.0, 0.01)
    tx = mtl.gradnorm(3, alpha=alpha, optimizer=optax.sgd(rate))

    @jax.jit
    def moved(gradient, loss):
        state = tx.init(gradient[0])
        for g, known in ((gradients[0], losses[0]), (gradient, loss), (gradient, loss)):
            _, state = tx.update(g, state, g[0], task_losses=known)
        return optax.tree_utils.tree_get(state, "weights") - 1

    slopes = np.array(run_of("GradNorm", alpha=alpha)["slopes"])
    for gradient, loss, slope in zip(gradients[1:], losses[1:], slopes, strict=True):
        assert relative_error(unit(np.asarray(moved(gradient, loss))), -unit(slope)) < 1e-3


@pytest.mark.parametrize(
    ("name", "hyperparameters", "method", "parameters"),
    [
        ("cosmos", {"strength": 2.0}, "COSMOS", {"lambda_": 2.0}),
        ("pbi", {"penalty": 5.0}, "PBI", {"theta": 5.0}),
    ],
)
def test_scalarizers_with_a_preference_are_torchjds(name, hyperparameters, method, parameters):
    for matrix in ORDINARY:
        rows = MATRICES[matrix]
        preference = tuple(LOSSES[: len(rows)][::-1])
        updates, _ = ours(name, rows, preference=preference, **hyperparameters)
        wanted = theirs("torchjd", method, matrix, **parameters)
        assert relative_error(updates, wanted) < 1e-5


RUNS = {
    "pcd": (lambda: mtl.pcd(3, tau=0.3, decay=0.8), {"tau": 0.3, "beta": 0.8}, "PCD"),
    "momentum": (lambda: mtl.momentum(mtl.mgda(3)), {}, "CRMOGM"),
    "modo": (lambda: mtl.modo(3), {}, "MoDo"),
    "sdmgrad": (lambda: mtl.sdmgrad(3, learning_rate=0.2), {"lr": 0.2}, "SDMGrad"),
    "famo": (lambda: mtl.famo(3), {}, "FAMO"),
    "gradvac": (lambda: mtl.gradvac(2), {}, "GradVac"),
}


@pytest.mark.parametrize("name", RUNS)
def test_six_steps_are_torchjds(name):
    make, parameters, method = RUNS[name]
    tx, run = make(), run_of(method, **parameters)
    gradients, losses = SEQUENCE["gradients"], SEQUENCE["losses"]
    others = np.roll(gradients, 1, axis=0)
    if name == "gradvac":
        gradients, others, losses = gradients[:, :2], others[:, :2], losses[:, :2]

    def take(state, given):
        rows, query, values = given
        updates, state = tx.update(rows, state, rows[0], query_gradients=query, task_losses=values)
        return state, updates

    given = [jnp.asarray(x, jnp.float32) for x in (gradients, others, losses)]
    _, updates = jax.jit(lambda x: jax.lax.scan(take, tx.init(x[0][0, 0]), x))(given)
    # MGDA is solved to rounding here, and to 20,000 small steps there.
    assert relative_error(updates, run["updates"]) < (2e-3 if name == "momentum" else 1e-4)


def test_torchjds_fairgrad_stops_early_for_gradients_of_far_lengths():
    """`M w = w^(-1/2)`, as shares: ours solves it, and theirs is a thousandth away and more."""
    rows = MATRICES["two, 1000 apart"]
    _, state = ours("fairgrad", rows, alpha=2.0)
    theirs_is = theirs("torchjd", "FairGrad", "two, 1000 apart", alpha=2.0)
    peer = np.linalg.lstsq(rows.T, theirs_is, rcond=None)[0]
    missed = lambda w: np.max(np.abs((rows @ rows.T @ w) * np.sqrt(w) - 1))
    assert missed(np.asarray(state.weights, np.float64)) < 1e-4
    assert missed(peer) > 1e-3


def test_torchjds_ridge_moves_upgrad_and_ours_has_none():
    """Most where gradients are linearly dependent."""
    moved = {}
    for matrix in ORDINARY:
        exact, default = (
            theirs("torchjd", "UPGrad", matrix, **options) for options in ({"exact": True}, {})
        )
        moved[matrix] = np.linalg.norm(default - exact) / np.linalg.norm(MATRICES[matrix])
    assert max(moved.values()) > 1e-3


def test_torchjds_upgrad_of_short_gradients_is_their_mean_and_ours_is_not():
    rows = MATRICES["three, all small"]
    wanted, _ = ours("upgrad", rows)
    np.testing.assert_allclose(theirs("torchjd", "UPGrad", "three, all small"), rows.mean(0))
    assert relative_error(rows.mean(0), wanted) > 0.1
    larger, _ = ours("upgrad", rows * 1e6)
    np.testing.assert_allclose(wanted * 1e6, larger, rtol=1e-4, atol=1e-6)
