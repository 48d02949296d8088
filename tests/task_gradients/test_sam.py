"""Task gradients uphill of the parameters, against NumPy on quadratics and hand-made loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_optax as mtl
from mtl_optax._task_gradients import passes

T, RHO = 3, 0.3
SIZES = {"a": (2, 2), "b": (3,)}
N = 7


def quadratic(seed=0):
    """`½ (θ - c_t)ᵀ A_t (θ - c_t)` of two leaves, where all gradients are known."""
    rng = np.random.default_rng(seed)
    roots, centres = rng.normal(size=(T, N, N)), rng.normal(size=(T, N))
    curves = np.einsum("tij,tkj->tik", roots, roots)

    def losses_of(params):
        theta = jnp.concatenate([params["a"].reshape(-1), params["b"]])
        away = theta[None] - jnp.asarray(centres, theta.dtype)
        return 0.5 * jnp.einsum("ti,tij,tj->t", away, jnp.asarray(curves, theta.dtype), away)

    theta = rng.normal(size=N)
    params = {"a": jnp.asarray(theta[:4].reshape(2, 2)), "b": jnp.asarray(theta[4:])}
    gradients_at = lambda theta: np.einsum("tij,tj->ti", curves, theta - centres)
    return losses_of, params, theta, gradients_at, curves


def rows_of(tree):
    return np.concatenate([np.asarray(tree[k], np.float64).reshape(T, -1) for k in SIZES], axis=1)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("large", [False, True], ids=["together", "in turn"])
def test_each_tasks_own_gradient_leads_uphill(large, monkeypatch):
    if large:
        monkeypatch.setattr(passes, "LARGE", 0)
    with jax.enable_x64(True):
        losses_of, params, theta, gradients_at, curves = quadratic()
        losses, gradients, flat = jax.jit(mtl.sam_value_and_task_grads(losses_of, RHO))(params)
        np.testing.assert_allclose(losses, losses_of(params), rtol=1e-12)
        own = gradients_at(theta)
        np.testing.assert_allclose(rows_of(gradients), own, rtol=1e-11)
        # Of a quadratic, what a step adds to the gradient is the step times the curvature.
        wanted = RHO * np.einsum("tij,tj->ti", curves, unit(own))
        np.testing.assert_allclose(rows_of(flat), wanted, rtol=1e-9, atol=1e-11)


def test_in_float32_it_is_a_loop_of_jax_grad():
    losses_of, params, *_ = quadratic(1)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    _, gradients, flat = jax.jit(mtl.sam_value_and_task_grads(losses_of, RHO))(params)
    of_tasks = jax.jit(lambda p, t: jax.grad(lambda p: losses_of(p)[t])(p))
    for t in range(T):
        of_task = lambda p, t=t: of_tasks(p, t)
        own = of_task(params)
        length = np.sqrt(sum(float(jnp.sum(g**2)) for g in own.values()))
        moved = {k: params[k] + RHO * own[k] / length for k in params}
        steep = of_task(moved)
        for k in params:
            np.testing.assert_allclose(gradients[k][t], own[k], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(flat[k][t], steep[k] - own[k], rtol=1e-4, atol=1e-4)


def points_of(steep, theta, curves, gradients_at):
    """The steps `ε_t` at whose ends the gradients are `steep`."""
    away = np.linalg.solve(curves, (rows_of(steep) - gradients_at(theta))[..., None])
    return away[..., 0]


def samo(losses_of):
    """In one program for all shares and keys."""
    return jax.jit(
        lambda params, beta, key: mtl.sam_value_and_task_grads(losses_of, RHO, beta=beta, key=key)(
            params
        )
    )


def test_samo_goes_up_a_mixture_of_the_mean_and_of_draws_up_each_tasks_slope():
    with jax.enable_x64(True):
        losses_of, params, theta, gradients_at, curves = quadratic()
        run, own = samo(losses_of), gradients_at(theta)
        mean = own.mean(axis=0)
        steps_of = lambda beta, key: points_of(
            run(params, beta, jax.random.key(key))[1], theta, curves, gradients_at
        )
        np.testing.assert_allclose(
            run(params, 0.5, jax.random.key(0))[0], losses_of(params), rtol=1e-12
        )
        # Without a share of its own, every task goes up the mean.
        np.testing.assert_allclose(
            steps_of(0.0, 0), np.tile(RHO * unit(mean), (T, 1)), rtol=1e-8, atol=1e-10
        )
        # With nothing else, up a draw that has in each leaf the mean's share of the length.
        draws = steps_of(1.0, 0)
        for leaf in (slice(0, 4), slice(4, 7)):
            wanted = RHO * np.linalg.norm(mean[leaf]) / np.linalg.norm(mean)
            np.testing.assert_allclose(np.linalg.norm(draws[:, leaf], axis=1), wanted, rtol=1e-8)
        # Of all tasks one draw, with signs of their own.
        np.testing.assert_allclose(np.abs(unit(draws) @ unit(draws).T), 1, rtol=1e-8)
        # Between them, up their mixture.
        mixed = 0.6 * mean + 0.4 * np.linalg.norm(mean) * unit(draws)
        np.testing.assert_allclose(steps_of(0.4, 0), RHO * unit(mixed), rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(steps_of(0.4, 0), steps_of(0.4, 0))
        assert np.max(np.abs(steps_of(0.4, 1) - steps_of(0.4, 0))) > 1e-2


def test_samos_draws_lead_up_the_slope_of_their_task():
    """Of one leaf, the step is the draw."""
    with jax.enable_x64(True):
        losses_of, _, theta, gradients_at, curves = quadratic()
        run = samo(lambda v: losses_of({"a": v[:4].reshape(2, 2), "b": v[4:]}))
        for key in range(6):
            steep = run(jnp.asarray(theta), 1.0, jax.random.key(key))[1]
            away = np.asarray(steep) - gradients_at(theta)
            steps = np.linalg.solve(curves, away[..., None])[..., 0]
            assert np.all(np.sum(steps * gradients_at(theta), axis=1) > 0)


def with_heads(params, x):
    """Losses of heads on features, with what else the forward pass tells."""
    features = jnp.tanh(x @ params["trunk"])
    outputs = jnp.stack([features @ params["one"], features @ params["two"]])
    return jnp.mean(outputs**2, axis=1) + outputs[:, 0], {"mean": jnp.mean(features)}


def heads_and_data():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"trunk": draw(4, 3), "one": draw(3), "two": draw(3)}, draw(5, 4)


@pytest.mark.parametrize("beta", [None, 0.0])
def test_heads_go_up_by_a_length_of_their_own(beta):
    params, x = heads_and_data()
    options = {} if beta is None else {"beta": beta, "key": 0}
    made = mtl.sam_value_and_task_grads(with_heads, RHO, has_aux=True, shared="trunk", **options)
    (losses, aux), *parts = jax.jit(made)(params, x)
    wanted, told = with_heads(params, x)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(aux["mean"], told["mean"], rtol=1e-6)

    gradients = [jax.grad(lambda p, t=t: with_heads(p, x)[0][t])(params) for t in range(2)]
    mean = sum(g["trunk"] for g in gradients) / 2
    steep = []
    for t, head in enumerate(("one", "two")):
        up = mean if beta == 0 else gradients[t]["trunk"]
        moved = dict(params)
        moved["trunk"] = params["trunk"] + RHO * up / jnp.linalg.norm(up)
        own = gradients[t][head]
        moved[head] = params[head] + RHO * own / jnp.linalg.norm(own)
        steep.append(jax.grad(lambda p, t=t: with_heads(p, x)[0][t])(moved))
    total = jax.tree.map(lambda *part: sum(part), *parts)
    np.testing.assert_allclose(
        total["trunk"], jnp.stack([g["trunk"] for g in steep]), rtol=1e-4, atol=1e-5
    )
    for t, head in enumerate(("one", "two")):
        assert total[head].shape == params[head].shape
        np.testing.assert_allclose(total[head], steep[t][head], rtol=1e-4, atol=1e-5)
        if beta is None:
            np.testing.assert_allclose(parts[0][head], gradients[t][head], rtol=1e-4, atol=1e-5)


def test_two_updates_of_a_method_add_up_on_shared_parameters():
    """With equal weighting they are the sum of the steep gradients, of heads too."""
    params, x = heads_and_data()
    made = mtl.sam_value_and_task_grads(with_heads, RHO, has_aux=True, shared="trunk")
    tx = mtl.on_shared(mtl.sum_tasks(2), "trunk")

    @jax.jit
    def both(params):
        _, gradients, flat = made(params, x)
        one, _ = tx.update(gradients, tx.init(params), params)
        two, _ = tx.update(flat, tx.init(params), params)
        return jax.tree.map(jnp.add, one, two), jax.tree.map(jnp.add, gradients, flat)

    updates, steep = both(params)
    np.testing.assert_allclose(updates["trunk"], steep["trunk"].sum(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(updates["one"], steep["one"], rtol=1e-6)


def test_a_gradient_of_zeros_takes_no_step():
    losses_of = lambda p: jnp.stack([jnp.sum(p**2), 0.0 * jnp.sum(p)])
    params = jnp.array([3.0, 4.0])
    _, gradients, flat = jax.jit(mtl.sam_value_and_task_grads(losses_of, 0.5))(params)
    np.testing.assert_allclose(flat, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(gradients, [[6.0, 8.0], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_the_step_does_not_depend_on_the_scale_of_the_loss(scale):
    losses_of = lambda p: jnp.stack([jnp.sum(p**3), jnp.sum(p**2)])
    params = jnp.array([3.0, 4.0])
    _, _, flat = jax.jit(mtl.sam_value_and_task_grads(losses_of, 0.5))(params)
    scaled = lambda p: jnp.float32(scale) * losses_of(p)
    _, _, got = jax.jit(mtl.sam_value_and_task_grads(scaled, 0.5))(params)
    np.testing.assert_allclose(got / scale, flat, rtol=1e-4)


def test_complex_parameters_go_uphill_as_real_pairs_do():
    """JAX's gradient of a complex parameter is the conjugate of the pair's."""
    of_parts = lambda a, b: jnp.stack([jnp.sum(a**3 - 2 * a * b), jnp.sum(a * b**2 + b)])
    params = jnp.array([1.0 + 2.0j, -0.5 + 1.0j], jnp.complex64)
    pair = (jnp.real(params), jnp.imag(params))
    uphill = lambda losses_of: jax.jit(mtl.sam_value_and_task_grads(losses_of, RHO))
    losses, *parts = uphill(lambda z: of_parts(z.real, z.imag))(params)
    wanted, *others = uphill(lambda p: of_parts(*p))(pair)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    for found, (real, imaginary) in zip(parts, others, strict=True):
        np.testing.assert_allclose(found, real - 1j * imaginary, rtol=1e-4, atol=1e-5)
    losses, steep = samo(lambda z: of_parts(z.real, z.imag))(params, 0.5, jax.random.key(0))
    assert steep.dtype == jnp.complex64
    assert np.all(np.isfinite(steep))


def test_low_precision_parameters_keep_their_dtype():
    params = jnp.array([1.0, 2.0], jnp.bfloat16)
    losses_of = lambda p: jnp.stack([jnp.sum(p**2), jnp.sum(p**3)])
    _, gradients, flat = jax.jit(mtl.sam_value_and_task_grads(losses_of, 0.5))(params)
    assert gradients.dtype == flat.dtype == jnp.bfloat16
    assert np.all(np.isfinite(np.asarray(flat, np.float32)))
    _, steep = samo(losses_of)(params, 0.5, jax.random.key(0))
    assert steep.dtype == jnp.bfloat16


def test_several_arguments_and_a_traced_radius():
    losses_of = lambda a, b: jnp.stack([jnp.sum(a * b), jnp.sum(a**2) + b])

    @jax.jit
    def run(rho, a, b):
        return mtl.sam_value_and_task_grads(losses_of, rho, argnums=(0, 1))(a, b)

    _, gradients, flat = run(jnp.float32(0.5), jnp.array([3.0, 4.0]), jnp.array(2.0))
    np.testing.assert_allclose(gradients[0], [[2.0, 2.0], [6.0, 8.0]], rtol=1e-6)
    np.testing.assert_allclose(gradients[1], [7.0, 1.0], rtol=1e-6)
    length = np.sqrt(2**2 + 2**2 + 7**2)
    np.testing.assert_allclose(flat[0][0], np.full(2, 0.5 * 7 / length), rtol=1e-4)
    np.testing.assert_allclose(flat[1][0], 0.5 * 4 / length, rtol=1e-4)
