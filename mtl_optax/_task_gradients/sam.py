"""Task gradients where each task's loss is high nearby: sharpness-aware minimisation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_optax import _checks
from mtl_optax._complex import accumulator, is_complex
from mtl_optax._gram import norms, sum_rows
from mtl_optax._task_gradients.calls import as_tuple, check_task_losses, differentiated, split_aux
from mtl_optax._task_gradients.passes import for_each_row
from mtl_optax._tracing import varying_axes, varying_like
from mtl_optax._trees import Shared, shared_leaves

_Leaves = list[Array]


def sam_value_and_task_grads(
    fun: Callable[..., Any],
    rho: float,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    shared: Shared | None = None,
    *,
    beta: float | None = None,
    key: Any | None = None,
) -> Callable[..., Any]:
    """Makes a function that returns all task losses, and task gradients at points uphill of them.

    Each task's gradient is taken where a step of length ρ uphill, of its own, leads:
    `s_t = ∇L_t(θ + ε_t)`, so that descent looks for flat regions.

    F-MTL, the default, goes up the task's own gradient, `ε_t = ρ g_t / ‖g_t‖`. It gives a method
    the loss part `g_t` and the flat part `s_t - g_t`, each to be combined by itself; added up
    before the method, they are `s_t`.

    SAMO, with `beta`, has no use for the T backward passes at θ. It goes up the mean gradient `ḡ`
    and a guess at the task's own, a random direction `z` with the sign of the slope of `L_t` along
    it: `p_t = (1 - β) ḡ ± β ‖ḡ‖ z / ‖z‖` leaf by leaf, and `ε_t = ρ p_t / ‖p_t‖` over all leaves.

    Args:
        fun: maps `(params, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`, as for
            `value_and_task_grads`.
        rho: ρ, at least 0, in the units of the parameters.
        argnums: which positional argument or arguments to differentiate.
        has_aux: whether `fun` returns `(losses, aux)`; `aux` is that of the pass at θ.
        shared: which leaves of the differentiated argument all tasks share, as for
            `value_and_task_grads`. The others, the heads, go up their own task's gradient, by a
            length ρ of their own.
        beta: β of SAMO, in [0, 1]: the share of the task's own direction.
        key: for SAMO, the random key, an int seed or a typed key; a new one for each step.

    Returns:
        A function of the arguments of `fun` that returns `(losses, gradients, flat)`, the losses
        and the first gradients at θ; with `beta`, `(losses, s)`. With `has_aux`, the first of these
        is `(losses, aux)`. Shared leaves are `(T, *p.shape)`, heads `p.shape`, sums over tasks.

        Passes: one forward and T backward at θ, as of `value_and_task_grads`; then T times one
        forward, of all T losses, and one backward. With `beta`, what is at θ is one forward, one
        backward and one forward-mode pass, and T backward passes of the heads alone. Of heads, T
        gradients are held before they are added up. A gradient of zeros takes no step uphill.

    References:
        F-MTL: Phan et al., `Improving Multi-task Learning via Seeking Task-based Flat Regions
        <https://arxiv.org/abs/2211.13723>`_, 2022. Its code has a variant that scales steps by the
        size of each parameter, and 1e-12 beside each norm.

        SAMO: Ban et al., `SAMO: A Lightweight Sharpness-Aware Approach for Multi-Task Optimization
        with Joint Global-Local Perturbation <https://arxiv.org/abs/2507.07883>`_, 2025. Its code
        has `ρ = 0.001` and `β = 0.5`; on NYUv2 it takes no lengths leaf by leaf. It draws for each
        task and takes slopes from two forward passes of each, 0.01 to either side, which cost as
        much as the T gradients; here all tasks have one draw, the signs their own.

    Example:
        F-MTL with MGDA: two updates, each with a state of its own, added up:

        >>> import jax, jax.numpy as jnp, mtl_optax as mtl
        >>> centres = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> loss_fn = lambda w: jnp.sum(jnp.array([[1.0, 3.0]]) * (w[None] - centres) ** 2, axis=1)
        >>> method, params = mtl.mgda(2), jnp.zeros(2)
        >>> states = [method.init(params), method.init(params)]
        >>> losses, *parts = mtl.sam_value_and_task_grads(loss_fn, rho=0.1)(params)
        >>> pairs = [method.update(p, s, params) for p, s in zip(parts, states, strict=True)]
        >>> updates, states = jax.tree.map(jnp.add, *(u for u, _ in pairs)), [s for _, s in pairs]
        >>> print([round(float(u), 2) for u in updates])
        [-2.95, -1.91]
    """
    name = "sam_value_and_task_grads"
    _checks.check_callable(name, "fun", fun)
    _checks.check_number(name, "rho", rho, low=0)
    if beta is not None:
        _checks.check_number(name, "beta", beta, low=0, high=1)
        if key is None:
            raise ValueError(
                f"{name}: key is missing, and beta draws directions. Give a new one in each step, "
                "key=jax.random.fold_in(key, step)."
            )
        drawn = _checks.check_key(name, key)
    elif key is not None:
        raise ValueError(f"{name}: key only means something with beta. Leave it out.")
    numbers = as_tuple(name, argnums)

    @functools.wraps(fun)
    def value_and_grads(*args: Any, **kwargs: Any) -> Any:
        call, params = differentiated(name, fun, argnums, numbers, args, kwargs)
        structure: Any
        leaves, structure = jax.tree.flatten(params)
        chosen = [True] * len(leaves)
        if shared is not None:
            chosen = jax.tree.leaves(shared_leaves(name, shared, params))
        trunk = [leaf for leaf, pick in zip(leaves, chosen, strict=True) if pick]
        heads = [leaf for leaf, pick in zip(leaves, chosen, strict=True) if not pick]

        def tree_of(trunk: Sequence[Any], heads: Sequence[Any]) -> Any:
            of_trunk, of_heads = iter(trunk), iter(heads)
            return structure.unflatten([next(of_trunk if pick else of_heads) for pick in chosen])

        def losses_of(trunk: _Leaves, heads: _Leaves) -> tuple[Array, Any]:
            out = call(tree_of(trunk, heads))
            losses, aux = split_aux(name, out) if has_aux else (out, None)
            check_task_losses(name, losses)
            return losses, aux

        losses, pullback, aux = jax.vjp(losses_of, trunk, heads, has_aux=True)
        mean: _Leaves = []  # Or any multiple of it, which leads as it does.
        draws: _Leaves = []
        signs = jnp.zeros_like(losses)
        if beta is not None:
            mean = [_uphill(g) for g in pullback(jnp.ones_like(losses))[0]]
            keys = jax.random.split(drawn, len(trunk))
            draws = [_normal(k, leaf) for k, leaf in zip(keys, trunk, strict=True)]
            slopes = jax.jvp(lambda at: losses_of(at, heads)[0], (trunk,), (draws,))[1]
            # Of losses that are sums over devices, as their gradients are.
            summed = tuple(varying_axes(slopes) - varying_axes(mean))
            signs = jnp.sign(jax.lax.psum(slopes, summed) if summed else slopes)

        def gathered(row: Float[Array, " T"]) -> list[Any]:
            """Returns the parts of the gradient of the task of a row, each of trunk and heads."""
            of_losses = varying_like(row, losses)
            gradient = pullback(of_losses)
            up = [[_uphill(g) for g in part] for part in gradient]
            if beta is not None:
                sign = jnp.sum(jnp.where(row > 0, signs, 0))
                up[0] = [_joint(*part, sign, beta) for part in zip(mean, draws, strict=True)]
            moved = _moved(trunk, up[0], rho), _moved(heads, up[1], rho)
            _, steep, _ = jax.vjp(losses_of, *moved, has_aux=True)
            found = steep(of_losses)
            if beta is not None:
                return [found]
            return [gradient, jax.tree.map(jnp.subtract, found, gradient)]

        # The same on all devices, and so the signs.
        rows = jnp.eye(len(losses), dtype=losses.dtype)
        parts = for_each_row(gathered, rows, leaves)
        trees = [tree_of(rows, list(map(sum_rows, own))) for rows, own in parts]
        return (losses, aux) if has_aux else losses, *trees

    return value_and_grads


def _uphill(gradient: Array) -> Array:
    """Returns the direction of a gradient: its conjugate, where it is complex."""
    return jnp.conj(gradient) if is_complex(gradient) else gradient


def _normal(key: Any, like: Array) -> Array:
    return jax.random.normal(key, jnp.shape(like), jnp.result_type(like))


def _length(leaves: _Leaves) -> Float[Array, ""]:
    return norms([jnp.expand_dims(leaf, 0) for leaf in leaves])[0]


def _joint(mean: Array, draw: Array, sign: Array, beta: Any) -> Array:
    """Returns SAMO's direction in one leaf, in float32 or better."""
    wide = accumulator(mean)
    length, size = _length([mean]), _length([draw])
    share = jnp.asarray(beta, length.dtype)
    own = share * sign.astype(length.dtype) * length / jnp.where(size > 0, size, 1)
    return (1 - share).astype(wide) * mean.astype(wide) + own.astype(wide) * draw.astype(wide)


def _moved(leaves: _Leaves, direction: _Leaves, rho: Any) -> _Leaves:
    """Takes a step of length ρ."""
    if not leaves:
        return leaves
    length = _length(direction)
    factor = jnp.asarray(rho, length.dtype) / jnp.where(length > 0, length, 1)

    def step(leaf: Array, d: Array) -> Array:
        wide = accumulator(d)
        return (leaf.astype(wide) + factor.astype(wide) * d.astype(wide)).astype(leaf.dtype)

    return [step(leaf, d) for leaf, d in zip(leaves, direction, strict=True)]
