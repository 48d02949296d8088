"""Methods that descend one number made of the losses: their weights are its derivatives.

GLS, STCH, COSMOS and PBI, over draws of losses of every size, against `jax.grad` in float64 of the
number as the papers print it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl

T = 4
ROWS, PARAMS = jnp.eye(T), jnp.zeros(T)
R = np.array([0.1, 0.4, 0.2, 0.3])
Z = np.array([0.01, 0.02, 0.0, 0.03])
NADIR = np.array([1.0, 3.0, 0.2, 5.0])


def geometric_mean(losses):
    return jnp.exp(jnp.mean(jnp.log(losses)))


def smooth_maximum(losses, weights=1 / T, z=0.0, mu=0.3):
    return mu * jax.nn.logsumexp(weights * (losses - z) / mu)


def of_logarithms(losses, mu=0.7):
    return T * smooth_maximum(jnp.log(losses / NADIR), 1.0, 0.0, mu)


def cosmos(losses, strength=2.0):
    along = R @ losses / jnp.linalg.norm(R) / jnp.linalg.norm(losses)
    return R @ losses - strength * along


def pbi(losses, theta=3.0):
    ray = R / np.linalg.norm(R)
    way = (losses - Z) @ ray
    return way + theta * jnp.linalg.norm(losses - Z - way * ray)


NUMBERS = {
    "gls": (lambda: mtl.gls(T), geometric_mean),
    "stch": (lambda: mtl.stch(T, 0.3), smooth_maximum),
    "stch weighted": (
        lambda: mtl.stch(T, 0.3, weights=R, reference=Z),
        lambda losses: smooth_maximum(losses, R, Z),
    ),
    "stch of logarithms": (lambda: mtl.stch(T, 0.7, nadir=NADIR), of_logarithms),
    "cosmos": (lambda: mtl.cosmos(T, R, strength=2.0), cosmos),
    "pbi": (lambda: mtl.pbi(T, R, penalty=3.0, reference=Z), pbi),
}


def weights_for(tx, losses, **extra):
    one = lambda row: tx.update(ROWS, tx.init(PARAMS), PARAMS, task_losses=row, **extra)[1].weights
    return jax.jit(jax.vmap(one))(jnp.asarray(losses))


@pytest.mark.parametrize("name", NUMBERS)
def test_weights_are_the_derivatives_of_the_number(name):
    make, number = NUMBERS[name]
    losses = np.exp(np.random.default_rng(0).normal(size=(300, T)) * 2)
    found = weights_for(make(), losses.astype(np.float32))
    with jax.enable_x64(True):
        wanted = np.asarray(jax.jit(jax.vmap(jax.grad(number)))(jnp.asarray(losses, jnp.float64)))
    scale = np.abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / scale, wanted / scale, atol=3e-5)


@pytest.mark.parametrize("name", NUMBERS)
def test_float64_to_nine_digits(name):
    make, number = NUMBERS[name]
    losses = np.exp(np.random.default_rng(1).normal(size=T))
    with jax.enable_x64(True):
        tx, given = make(), jnp.asarray(losses, jnp.float64)
        rows, params = jnp.eye(T, dtype=jnp.float64), jnp.zeros(T, jnp.float64)
        found, _ = tx.update(rows, tx.init(params), params, task_losses=given)
        wanted = jax.grad(number)(given)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_losses_of_any_size_give_finite_weights(name, size):
    losses = size * np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert np.all(np.isfinite(weights_for(NUMBERS[name][0](), losses.astype(np.float32))))


def test_the_ends_of_mu():
    losses = np.exp(np.random.default_rng(2).normal(size=(20, T))).astype(np.float32)
    largest = weights_for(mtl.tchebycheff(T, weights=R), losses)
    np.testing.assert_allclose(
        weights_for(mtl.stch(T, 1e-6, weights=R), losses), largest, rtol=1e-5
    )
    equal = weights_for(mtl.stch(T, 1e6, weights=R), losses)
    np.testing.assert_allclose(equal, np.tile(R / T, (20, 1)), rtol=1e-4)
    smooth = weights_for(mtl.tchebycheff(T, weights=R, smooth=0.2), losses)
    np.testing.assert_array_equal(weights_for(mtl.stch(T, 0.2, weights=R), losses), smooth)


def test_libmtl_with_mu_one():
    """`T (1 / nadir_t) / Σ (L / nadir)`, of LibMTL main 4336804 after its warm-up."""
    losses = np.array([[1.0, 2.0, 4.0, 0.5]], np.float32)
    wanted = T / NADIR / np.sum(losses / NADIR)
    np.testing.assert_allclose(
        weights_for(mtl.stch(T, 1.0, nadir=NADIR), losses)[0], wanted, rtol=1e-5
    )


@pytest.mark.parametrize(
    "make", [lambda: mtl.gls(T), lambda: mtl.stch(T, 2.0, nadir=NADIR)], ids=["gls", "stch"]
)
def test_a_loss_without_a_logarithm_leaves_its_task_out(make):
    """TorchJD 0.18's geometric mean gives NaN for a loss of zero."""
    tx = make()
    losses, absent = jnp.array([[1.0, 0.0, -2.0, 3.0]]), jnp.array([True, False, False, True])
    found = weights_for(tx, losses)[0]
    wanted = weights_for(tx, losses, task_mask=absent)[0]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found[1:3], 0)
    assert np.all(found[::3] > 0)


@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_stch_of_a_loss_of_zero_is_the_limit(mu):
    tx = mtl.stch(T, mu, nadir=NADIR)
    near, at = weights_for(tx, jnp.array([[1e-30, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(near, at, rtol=1e-5, atol=1e-12)


def test_on_the_ray_there_is_no_penalty():
    for scale in (1e-20, 1.0, 1e20):
        losses = (scale * R).astype(np.float32)[None]
        found = weights_for(mtl.pbi(T, R, penalty=5.0), losses)[0]
        np.testing.assert_allclose(found, R / np.linalg.norm(R), rtol=1e-6)


def test_preferences_are_checked():
    for make in (mtl.cosmos, mtl.pbi):
        name = make.__name__
        with pytest.raises(ValueError, match=rf"{name}: preference has shape \(2,\), wanted"):
            make(T, [1.0, 2.0])
        with pytest.raises(ValueError, match=f"{name}: preference must not be all zeros"):
            make(T, [0.0] * T)
        with pytest.raises(TypeError, match=f"{name}: preference must hold 4 real numbers, got No"):
            make(T, None)
    with pytest.raises(ValueError, match="stch: reference is for the losses, and nadir for"):
        mtl.stch(T, 1.0, nadir=NADIR, reference=Z)
