"""One backward pass of the weighted loss, where the weights can be had without all gradients.

The stacked way holds all task gradients. Where a method reads the losses alone, where the
gradients at a shared representation stand in for those of the parameters (MGDA-UB), or where the
rows of the Gram matrix are computed one task at a time, the weights are known before the last
backward pass, and `Σ_t w_t ∇L_t` is the gradient of one loss. The method is the same object; its
state is the same too.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._around.on_shared import Heads
from mtl_optax._complex import by_parts
from mtl_optax._frame import (
    Evidence,
    Method,
    Weighting,
    WeightingState,
    gather_evidence,
    make_evidence,
    measured_leaves,
    weigh,
)
from mtl_optax._gram import gram_from_rows, norms
from mtl_optax._precision import at_least_float32, power_of_two
from mtl_optax._task_gradients.calls import check_task_losses, split_aux
from mtl_optax._task_gradients.passes import for_all_rows, in_turn
from mtl_optax._tracing import varying_axes, varying_like
from mtl_optax._trees import Shared, merge_trees, shared_leaves, split_tree


def weighted_value_and_grad(
    fun: Callable[..., Any],
    method: Method,
    *,
    has_aux: bool = False,
    shared: Shared | None = None,
    heads: Heads = "weighted",
) -> Callable[..., Any]:
    """Makes a function that weighs the losses and differentiates their sum, in one backward pass.

    The gradient equals the update that `method` makes of the stacked task gradients, at the cost
    of equal weighting. Weights may leave the range of the losses' dtype; of losses in float16,
    those below 6e-5 of the sum of all keep fewer digits.

    Args:
        fun: maps `(params, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`. Where every
            task has its own batch: `jax.vmap(loss_fn, in_axes=(None, 0))`.
        method: a method that reads nothing but the losses: `uw`, `sum_tasks`, ...
        has_aux: whether `fun` returns `(losses, aux)`.
        shared: which leaves of `params` all tasks share, as for `value_and_task_grads`; needed
            for heads="unweighted" alone.
        heads: "weighted" multiplies each head's gradient by its task's weight, as the weighted
            loss does; "unweighted" gives heads the gradient of the plain sum of losses.

    Returns:
        A function `(params, state, *args, task_mask=None, **kwargs)` to
        `(losses, gradient, state)`, or `((losses, aux), gradient, state)`, where `state` begins
        as `method.init(params)` and `gradient` is for any optax optimiser.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> loss_fn = lambda w: jnp.stack([jnp.sum(w**2), jnp.sum((w - 1) ** 2)])
        >>> method = mtl.uw(2)
        >>> step = mtl.weighted_value_and_grad(loss_fn, method)
        >>> w = jnp.array([2.0, 0.0])
        >>> losses, gradient, state = step(w, method.init(w))
        >>> print(losses, gradient, state.weights)
        [4. 2.] [ 3. -1.] [0.5 0.5]
    """
    name = "weighted_value_and_grad"
    _checks.check_callable(name, "fun", fun)
    weighting = _weighting_of(name, method)
    _checks.check_choice(name, "heads", heads, ("unweighted", "weighted"))
    if heads == "unweighted" and shared is None:
        raise ValueError(
            f'{name}: heads="unweighted" needs `shared`, to know which leaves are heads.'
        )
    beyond = weighting.reads - {"losses"}
    if beyond:
        raise ValueError(
            f"{name}: {weighting.name} reads {sorted(beyond)}, which the losses do not tell. Use "
            "streamed_value_and_grad, feature_value_and_grad or value_and_task_grads."
        )

    def value_and_grad(
        params: Any,
        state: WeightingState,
        *args: Any,
        task_mask: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        _check_arguments(name, params, state)

        def losses_of(p: Any) -> tuple[Array, Any]:
            return _losses_and_aux(name, fun(p, *args, **kwargs), has_aux)

        losses, pullback, aux = jax.vjp(losses_of, params, has_aux=True)
        _checks.check_losses(weighting.name, weighting.num_tasks, losses)
        evidence = gather_evidence(weighting, None, losses, task_mask)
        _, weights, state = weigh(weighting, evidence, state)
        (gradient,) = _of_weighted_sum(pullback, weights, losses)
        if heads == "unweighted":
            (plain,) = pullback(_like_losses(evidence.mask.astype(losses.dtype), losses))
            mask = shared_leaves(name, shared, params)
            gradient = jax.tree.map(lambda keep, g, h: g if keep else h, mask, gradient, plain)
        return ((losses, aux) if has_aux else losses), gradient, state

    return _with_state(fun, value_and_grad)


def feature_value_and_grad(
    encoder: Callable[..., Any],
    decoder: Callable[..., Any],
    method: Method,
    *,
    has_aux: bool = False,
    heads: Heads = "unweighted",
) -> Callable[..., Any]:
    """Makes a function that weighs tasks by their gradients at a shared representation.

    MGDA-UB for MGDA, and the same for every method that reads the Gram matrix: with
    `z = encoder(params, ...)` and `L = decoder(params, z, ...)`, the Gram matrix is that of
    `∂L_t/∂z` over all entries of `z`, the batch included. Then one weighted backward pass.

    Args:
        encoder: maps `(params, *args)` to the features, an array or pytree that all tasks read.
        decoder: maps `(params, features, *args)` to losses `(T,)`, or to `(losses, aux)`.
        method: any method made from a weighting; those that go coordinate by coordinate are not.
        has_aux: whether `decoder` returns `(losses, aux)`.
        heads: what happens to parameters that the decoder uses directly: "unweighted" gives them
            the gradient of the summed loss, "weighted" that of the weighted loss.

    Returns:
        A function `(params, state, *args, task_mask=None)` to `(losses, gradient, state)`, or
        `((losses, aux), gradient, state)`; `state` begins as `method.init(params)`.

        The feature gradients bound those of the encoder's parameters where all tasks see the same
        input. With different inputs for each task the features differ too, and inner products
        between them have no such meaning.

    References:
        Sener and Koltun, `Multi-Task Learning as Multi-Objective Optimization
        <https://arxiv.org/abs/1810.04650>`_, 2018, section 3.3. LibMTL's `rep_grad` first sums
        the feature gradients over the batch, which is another Gram matrix.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> encoder = lambda p, x: x @ p["trunk"]
        >>> decoder = lambda p, z, x: jnp.mean((z @ p["heads"].T - 1.0) ** 2, axis=0)
        >>> params = {"trunk": jnp.eye(2), "heads": jnp.array([[1.0, 0.0], [0.0, 2.0]])}
        >>> method = mtl.mgda(2)
        >>> step = mtl.feature_value_and_grad(encoder, decoder, method)
        >>> losses, gradient, state = step(params, method.init(params), 2 * jnp.ones((5, 2)))
        >>> print(losses, [round(float(w), 2) for w in state.weights])
        [1. 9.] [0.97, 0.03]
    """
    name = "feature_value_and_grad"
    _checks.check_callable(name, "encoder", encoder)
    _checks.check_callable(name, "decoder", decoder)
    weighting = _weighting_of(name, method)
    _checks.check_choice(name, "heads", heads, ("unweighted", "weighted"))
    if weighting.norm_mask is not None:
        raise ValueError(
            f"{name}: norms are taken at the features here, and the norm_mask of {weighting.name} "
            "picks parameters. Leave it out."
        )

    def value_and_grad(
        params: Any, state: WeightingState, *args: Any, task_mask: Array | None = None
    ) -> Any:
        _check_arguments(name, params, state)

        def losses_of(p: Any, z: Any) -> tuple[Array, Any]:
            return _losses_and_aux(name, decoder(p, z, *args), has_aux)

        features, encoder_pullback = jax.vjp(lambda p: encoder(p, *args), params)
        losses, decoder_pullback, aux = jax.vjp(losses_of, params, features, has_aux=True)
        rows = varying_like(jnp.eye(losses.shape[0], dtype=losses.dtype), losses)
        feature_gradients = for_all_rows(lambda row: decoder_pullback(row)[1])(rows)
        _checks.check_task_gradients(
            weighting.name, weighting.num_tasks, feature_gradients, features
        )
        pieces = varying_axes(feature_gradients) - varying_axes(losses)
        evidence = gather_evidence(weighting, _once(feature_gradients, pieces), losses, task_mask)
        evidence = _over_pieces(weighting, evidence, pieces)
        _, weights, state = weigh(weighting, evidence, state)

        def through_both(row: Float[Array, " T"]) -> tuple[Any, Any]:
            direct, at_features = decoder_pullback(row)
            return direct, encoder_pullback(at_features)[0]

        direct, through = _of_weighted_sum(through_both, weights, losses)
        if heads == "unweighted":
            direct, _ = decoder_pullback(_like_losses(evidence.mask.astype(losses.dtype), losses))
        gradient = jax.tree.map(jnp.add, direct, through)
        return ((losses, aux) if has_aux else losses), gradient, state

    return value_and_grad


def streamed_value_and_grad(
    fun: Callable[..., Any],
    method: Method,
    *,
    has_aux: bool = False,
    shared: Shared | None = None,
    heads: Heads = "unweighted",
) -> Callable[..., Any]:
    """Makes a function that weighs tasks by their gradients and never holds more than one.

    The gradient equals the update that `method` makes of the stacked task gradients. The Gram
    matrix is computed row by row: the gradient `g_s` of one loss, by a backward pass, then
    `M[s, :] = J g_s`, the change of all losses along it, by the transpose of that pass. With the
    weights known, one backward pass of the weighted loss ends the step. Temporaries are those of
    equal weighting and one gradient, whatever T; the time is that of about 2 T + 1 passes. On the
    CPU, passes with convolutions are written out for up to 16 tasks, because XLA runs these many
    times slower in a loop: they take T times as long to compile, and more memory.

    Args:
        fun: maps `(params, *args, **kwargs)` to losses `(T,)`, or to `(losses, aux)`. Where every
            task has its own batch: `jax.vmap(loss_fn, in_axes=(None, 0))`. Inner products are
            sums over the model's own operations, so that in half precision they are less exact
            than those of stacked gradients.
        method: any method made from a weighting; those that go coordinate by coordinate are not.
        has_aux: whether `fun` returns `(losses, aux)`.
        shared: which leaves of `params` all tasks share, as for `value_and_task_grads`; all by
            default. The method sees those alone.
        heads: what happens to the other leaves: "unweighted" gives them the gradient of the
            summed loss, "weighted" that of the weighted loss.

    Returns:
        A function `(params, state, *args, task_mask=None, **kwargs)` to
        `(losses, gradient, state)`, or `((losses, aux), gradient, state)`, where `state` begins
        as `method.init(params)` and `gradient` is for any optax optimiser.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> loss_fn = lambda w: jnp.stack([2 * w[0], w[1]])
        >>> method = mtl.mgda(2)
        >>> step = mtl.streamed_value_and_grad(loss_fn, method)
        >>> w = jnp.array([3.0, 1.0])
        >>> losses, gradient, state = step(w, method.init(w))
        >>> print(losses, gradient.round(3), state.weights.round(3))
        [6. 1.] [0.4 0.8] [0.2 0.8]
    """
    name = "streamed_value_and_grad"
    _checks.check_callable(name, "fun", fun)
    weighting = _weighting_of(name, method)
    _checks.check_choice(name, "heads", heads, ("unweighted", "weighted"))

    def value_and_grad(
        params: Any,
        state: WeightingState,
        *args: Any,
        task_mask: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        _check_arguments(name, params, state)
        chosen = True if shared is None else shared
        trunk, head = split_tree(shared_leaves(name, chosen, params), params)

        def losses_of(trunk: Any, head: Any) -> tuple[Array, Any]:
            return _losses_and_aux(name, fun(merge_trees(trunk, head), *args, **kwargs), has_aux)

        losses, pullback, aux = jax.vjp(losses_of, trunk, head, has_aux=True)
        _checks.check_losses(weighting.name, weighting.num_tasks, losses)
        mask = _checks.check_mask(weighting.name, weighting.num_tasks, task_mask)
        evidence = _streamed_evidence(weighting, lambda row: pullback(row)[0], losses, mask)
        _, weights, state = weigh(weighting, evidence, state)
        gradient, at_heads = _of_weighted_sum(pullback, weights, losses)
        if heads == "unweighted":
            _, at_heads = pullback(_like_losses(mask.astype(losses.dtype), losses))
        return ((losses, aux) if has_aux else losses), merge_trees(gradient, at_heads), state

    return _with_state(fun, value_and_grad)


def _streamed_evidence(
    weighting: Weighting,
    pullback: Callable[[Array], Any],
    losses: Float[Array, " T"],
    mask: Bool[Array, " T"],
) -> Evidence:
    """Computes what `weighting` reads, one task after the other, from a pullback of the losses."""
    reads = weighting.reads
    room = math.sqrt(jnp.finfo(losses.dtype).max)

    def length_of(leaves: Any) -> Float[Array, ""]:
        return norms(jax.tree.map(lambda g: jnp.expand_dims(g, 0), leaves))[0]

    def scaled(leaf: Array, unit: Float[Array, ""]) -> Array:
        # Conjugate, for what comes back is the product itself, and no inner product.
        divided = lambda part: (part.astype(unit.dtype) / unit).astype(part.dtype)
        return jnp.conj(by_parts(divided, leaf))

    def look(row: Float[Array, " T"]) -> tuple[Any, Any]:
        # The transpose of the pullback, and not a jvp of the losses, so that functions with a
        # backward pass of their own count as they do in the stacked way.
        gradient, push = jax.vjp(pullback, row)
        _check_pieces(gradient, losses)
        products = lengths = None
        if "gram" in reads:
            length = length_of(gradient)
            unit = power_of_two(length)
            # A product has the size of a norm, and in float16 to leave room for larger ones.
            share = jnp.clip(unit / room, 1, room)
            (along,) = push(jax.tree.map(lambda g: scaled(g, unit * share), gradient))
            # The gradient of parameters that do not differ from device to device is a sum over
            # those that the losses differ on.
            parts = tuple(varying_axes(along) - varying_axes(gradient))
            along = jax.lax.psum(along.astype(length.dtype), parts) if parts else along
            products = along.astype(length.dtype) * share, length
        if "norms" in reads:
            lengths = length_of(measured_leaves(weighting, gradient))
        return products, lengths

    products = lengths = None
    if reads & {"gram", "norms"}:
        rows = varying_like(jnp.eye(losses.shape[0], dtype=losses.dtype), losses)
        products, lengths = in_turn(look, rows)
    gram = None if products is None else gram_from_rows(products[0], products[1], mask)
    return make_evidence(weighting, mask, gram, lengths, losses)


def _with_state(fun: Callable[..., Any], value_and_grad: Callable[..., Any]) -> Callable[..., Any]:
    """Gives `value_and_grad` the name and the signature of `fun`, with `state` after the params.

    What marks arguments, as `jax.jit` does, goes by signatures.
    """
    signature = inspect.signature(value_and_grad)
    params, state, _, task_mask, _ = signature.parameters.values()
    functools.update_wrapper(value_and_grad, fun)
    # The signature stays as it is where `fun` has none to show, or one that has our names.
    with contextlib.suppress(TypeError, ValueError):
        others = list(inspect.signature(fun).parameters.values())
        if others and others[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            del others[0]
        end = len(others) - sum(p.kind is inspect.Parameter.VAR_KEYWORD for p in others)
        others.insert(end, task_mask)
        signature = signature.replace(parameters=[params, state, *others])
    value_and_grad.__signature__ = signature  # type: ignore[attr-defined]
    return value_and_grad


def _like_losses(values: Array, losses: Float[Array, " T"]) -> Float[Array, " T"]:
    """Lets values of the tasks differ from device to device where the losses do, and only there."""
    more = tuple(varying_axes(values) - varying_axes(losses))
    return varying_like(jax.lax.pmean(values, more) if more else values, losses)


def _of_weighted_sum(
    pullback: Callable[[Array], Any], weights: Float[Array, " T"], losses: Float[Array, " T"]
) -> Any:
    """Computes the gradient of `Σ_t w_t L_t` from a pullback of the losses.

    Weights can leave the range of a half precision where the gradients do not. Divided by a power
    of two above their sum, they make no cotangent larger than the losses themselves do.
    """
    weights = _like_losses(weights, losses)
    if varying_axes(weights):  # A sum over devices needs a unit that they have in common.
        return pullback(weights.astype(losses.dtype))
    unit = 2 * power_of_two(jnp.sum(jnp.abs(weights)))

    def whole(leaf: Array) -> Array:
        wide = at_least_float32(leaf)
        return (leaf.astype(wide) * unit.astype(wide)).astype(leaf.dtype)

    divided = pullback((weights / unit).astype(losses.dtype))
    return jax.tree.map(lambda leaf: by_parts(whole, leaf), divided)


def _check_pieces(gradient: Any, losses: Float[Array, " T"]) -> None:
    """Raises where what lies on one device is neither a whole gradient nor the device's own."""
    kinds = {varying_axes(leaf) for leaf in jax.tree.leaves(gradient)}
    if len(kinds) > 1 or not max(kinds) <= varying_axes(losses):
        raise ValueError(
            "streamed_value_and_grad: inside jax.shard_map the shared parameters must all vary "
            "over the same axes of the mesh, and the losses over these too, got parameters that "
            f"vary over {sorted(map(sorted, kinds))} and losses that vary over "
            f"{sorted(varying_axes(losses))}. Parameters that are cut into pieces are for jax.jit "
            "on a mesh."
        )


def _once(features: Any, axes: frozenset[str]) -> Any:
    """Zeros but for the first device, of what is the same on all devices and summed over them."""

    def once(leaf: Array) -> Array:
        same = tuple(axes - varying_axes(leaf))
        return jnp.where(jax.lax.axis_index(same) == 0, leaf, 0) if same else leaf

    return jax.tree.map(once, features)


def _over_pieces(weighting: Weighting, evidence: Evidence, axes: frozenset[str]) -> Evidence:
    """Adds up the evidence of features that are cut over devices, where the losses are not."""
    names = tuple(axes)
    if not names:
        return evidence
    if "gram" in weighting.reads:
        own = jnp.where(jnp.diagonal(evidence.gram) > 0, evidence.scale, 0)
        scale = jax.lax.pmax(own, names)
        shares = own / jnp.where(scale > 0, scale, 1)
        gram = jax.lax.psum(evidence.gram * jnp.outer(shares, shares), names)
        unit = power_of_two(jnp.sqrt(jnp.diagonal(gram)))
        scale = jnp.where(scale > 0, scale * unit, 1)
        evidence = evidence._replace(gram=gram / jnp.outer(unit, unit), scale=scale)
    if "norms" in weighting.reads:
        unit = jax.lax.pmax(power_of_two(evidence.norms), names)
        square = jax.lax.psum((evidence.norms / unit) ** 2, names)
        evidence = evidence._replace(norms=unit * jnp.sqrt(square))
    return evidence


def _weighting_of(caller: str, method: Any) -> Any:
    if not isinstance(method, Method) or method.weighting is None:
        raise TypeError(
            f"{caller}: method must be one made from a weighting, such as mtl_optax.mgda(3), got "
            f"{method!r}. Chained, guarded, injected and coordinate-wise transformations need the "
            "stacked way, value_and_task_grads."
        )
    return method.weighting


def _check_arguments(caller: str, params: Any, state: Any) -> None:
    _checks.check_params(caller, params)
    if not isinstance(state, WeightingState):
        raise TypeError(
            f"{caller}: state must be what method.init(params) returned, or the last step, got "
            f"{state!r}."
        )


def _losses_and_aux(caller: str, out: Any, has_aux: bool) -> tuple[Array, Any]:
    losses, aux = split_aux(caller, out) if has_aux else (out, None)
    check_task_losses(caller, losses)
    return losses, aux
