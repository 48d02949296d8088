"""Task gradients at a shared representation, which stand in for those of the parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mtl_optax import _checks
from mtl_optax._gram import ScaledGram, norms, scaled_gram
from mtl_optax._precision import power_of_two
from mtl_optax._task_gradients.passes import for_all_rows, one_for_each
from mtl_optax._task_gradients.rows import RowByRow
from mtl_optax._tracing import varying_axes

MARK = "mtl_optax.features"


def mark_features(features: Any) -> Any:
    """Marks the features that all tasks read, for `way="features"`; returns them as they are.

    MGDA-UB for MGDA, and the same for every method that reads the Gram matrix or norms: with
    `value_and_task_grads(fun, stacked=False, way="features")` these are those of `∂L_t/∂z` over
    all entries of the marked `z`, the batch included, and one backward pass of the weighted loss
    ends the step. Elsewhere a mark does nothing.

    Args:
        features: an array or pytree, inside `fun`; it may be called several times.

    Returns:
        `features`.

        The feature gradients bound those of the parameters before them where all tasks see the
        same input. With different inputs for each task the features differ too, and inner products
        between them have no such meaning. Parameters that tasks use behind the mark are heads, and
        `shared=` says so.

    References:
        Sener and Koltun, `Multi-Task Learning as Multi-Objective Optimization
        <https://arxiv.org/abs/1810.04650>`_, 2018, section 3.3. LibMTL's `rep_grad` first sums
        the feature gradients over the batch, which is another Gram matrix.

    Example:
        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> def loss_fn(params, x):
        ...     z = mtl.mark_features(x @ params["trunk"])
        ...     return jnp.mean((z @ params["heads"].T - 1.0) ** 2, axis=0)
        >>> params = {"trunk": jnp.eye(2), "heads": jnp.array([[1.0, 0.0], [0.0, 2.0]])}
        >>> gather = mtl.value_and_task_grads(
        ...     loss_fn, shared="trunk", stacked=False, way="features"
        ... )
        >>> losses, gradients = gather(params, 2 * jnp.ones((5, 2)))
        >>> tx = mtl.on_shared(mtl.mgda(2), "trunk")
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print([round(float(w), 2) for w in mtl.task_weights(state)])
        [0.97, 0.03]
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(features):
        _checks.check_floating("mark_features", f"features{jax.tree_util.keystr(path)}", leaf)
    return jax.tree.map(lambda z: checkpoint_name(jnp.asarray(z), MARK), features)


class AtFeatures(RowByRow):
    """Task gradients whose inner products are those at the marked features."""

    name = "features"
    at_features = True

    def __init__(
        self,
        losses: Float[Array, " T"],
        leaves: Sequence[Any],
        pull: Callable[[Array], list[Array]],
        pull_features: Callable[[Array], Any],
    ) -> None:
        """Takes also the pullback to the features."""
        super().__init__(losses, leaves, pull)
        self._pull_features = pull_features
        self._features: Any = None
        # The axes of a mesh over which features are cut in pieces, and the losses are not.
        self._pieces: tuple[str, ...] = ()

    def _at_features(self) -> Any:
        if self._features is None:
            features = for_all_rows(self._pull_features)(one_for_each(self.losses))
            self._pieces = tuple(sorted(varying_axes(features) - varying_axes(self.losses)))
            self._features = _once(features, frozenset(self._pieces))
        return self._features

    def scaled_gram(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Any:
        gram, scale = scaled_gram(self._at_features(), mask)
        if self._pieces:
            own = jnp.where(jnp.diagonal(gram) > 0, scale, 0)
            scale = jax.lax.pmax(own, self._pieces)
            shares = own / jnp.where(scale > 0, scale, 1)
            gram = jax.lax.psum(gram * jnp.outer(shares, shares), self._pieces)
            unit = power_of_two(jnp.sqrt(jnp.diagonal(gram)))
            scale = jnp.where(scale > 0, scale * unit, 1)
            gram = gram / jnp.outer(unit, unit)
        return ScaledGram(gram, scale)

    def norms(self, slots: Sequence[int], mask: Bool[Array, " T"]) -> Float[Array, " T"]:
        lengths = norms(self._at_features())
        if self._pieces:
            unit = jax.lax.pmax(power_of_two(lengths), self._pieces)
            lengths = unit * jnp.sqrt(jax.lax.psum((lengths / unit) ** 2, self._pieces))
        return lengths


def _once(features: Any, axes: frozenset[str]) -> Any:
    """Zeros but for the first device, of what is the same on all devices and summed over them."""

    def once(leaf: Array) -> Array:
        same = tuple(axes - varying_axes(leaf))
        return jnp.where(jax.lax.axis_index(same) == 0, leaf, 0) if same else leaf

    return jax.tree.map(once, features)
