"""An error where an update would make its parameter grow."""

from typing import Any

import optax

from mtl_optax import _checks


def check_updates(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Raises where an update has not the shape of its parameter, which would grow in silence.

    `optax.apply_updates` adds by broadcasting, and so do `flax.nnx.Optimizer` and Flax's
    `TrainState`: an update of shape `(T, *p.shape)` makes an axis of its parameter. It is left over
    where no method has combined the task gradients: it was forgotten, or it stands inside
    `optax.masked`, `optax.partition` or `optax.selective_transform` and was not given the leaf. A
    method sees its own leaves alone. What stands around everything can tell.

    Args:
        transformation: the whole of it, `check_updates(optax.chain(method, optax.adam(lr)))`.

    Returns:
        A `GradientTransformationExtraArgs` with the updates and the state of `transformation`. It
        compares shapes while the step is traced, and leaves nothing in the compiled step. The call
        has to have `params`.

    Example:
        The frozen leaf is not given to the method, and so stays stacked:

        >>> import jax.numpy as jnp, mtl_optax as mtl, optax
        >>> trained = optax.chain(mtl.mgda(2), optax.sgd(0.1))
        >>> masked = optax.selective_transform(trained, freeze_mask={"base": True, "lora": False})
        >>> tx = mtl.check_updates(masked)
        >>> params = {"base": jnp.ones(3), "lora": jnp.ones(3)}
        >>> gradients = {"base": jnp.ones((2, 3)), "lora": jnp.ones((2, 3))}
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        Traceback (most recent call last):
        ValueError: check_updates: updates['base'] has shape (2, 3), wanted that of its ...
    """
    _checks.check_optimizer("check_updates", "transformation", transformation)
    inner = optax.with_extra_args_support(transformation)

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        updates, state = inner.update(updates, state, params, **extra)
        _checks.check_like_params("check_updates", updates, params)
        return updates, state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
