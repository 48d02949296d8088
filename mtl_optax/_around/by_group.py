"""A method with weights of its own for each layer, or each leaf, of the parameters."""

from mtl_optax._frame import Method, from_weighting, recipe_of
from mtl_optax._trees import Group, check_group


def by_group(method: Method, group: Group = "layer") -> Method:
    """Runs a method on each group of leaves by itself: `d_k = Σ_t w_kt g_kt` for group `k`.

    Layer-wise PCGrad, GradVac or Aligned-MTL are this. The Gram matrix, or the norms, are those of
    the group's leaves; the losses are the same for all groups.

    Args:
        method: a method made from a weighting: one that reads the Gram matrix, norms or losses.
        group: "layer", the leaves of one parent, such as a kernel and its bias; "leaf", each leaf
            by itself; or a function from a leaf's key path, as
            `jax.tree_util.tree_map_with_path` passes it, to the name of its group.

    Returns:
        A `GradientTransformationExtraArgs` called as `method` is, with the method's scale in each
        group. Its state has `group_weights`, `(K, T)`, a row for each group in the order in which
        the leaves first name it, in place of `weights`, and K states of the weighting, which is
        run once for all groups. A method that draws draws the same in each. With `TaskGradients`
        gathered row by row, each group takes passes of its own.

    When not to use:
        Where the directions of a whole step matter: what does not conflict in any layer may
        conflict in the sum of them, and the other way round.

    Example:
        The tasks conflict in one leaf alone, and PCGrad changes nothing in the other:

        >>> import jax.numpy as jnp, mtl_optax as mtl
        >>> tx = mtl.by_group(mtl.pcgrad(2), "leaf")
        >>> gradients = {"a": jnp.array([[1.0, 0.0], [-1.0, 1.0]]), "b": jnp.array([[1.0], [2.0]])}
        >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> print(updates["a"], updates["b"])
        [0.5 1.5] [3.]
        >>> print(state.group_weights)
        [[2.  1.5]
         [1.  1. ]]
    """
    recipe = recipe_of("by_group", "method", method)
    check_group("by_group", group)
    return from_weighting(recipe.weighting, combine_tasks=recipe.combine_tasks, group=group)
