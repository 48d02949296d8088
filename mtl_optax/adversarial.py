"""Adversarial parts: for models whose shared features must not tell which task a text is from.

AdvMTL (Liu et al. 2017) and TchebycheffAdv (Mao et al. 2020) add terms to the losses; they are no
gradient methods, so they go with any method of the library:

- `gradient_reversal` between the shared features and a discriminator that guesses the task: the
  discriminator learns to guess, the encoder learns to defeat it, in one backward pass;
- `task_discriminator_loss`, the discriminator's cross-entropy;
- `orthogonality_penalty` between the shared and the private features of a shared-private model;
- `gated_reversal`, a reversal that acts only while the discriminator's loss is above or below a
  threshold.

AdvMTL minimises `Σ_t [L_t + λ L_adv,t + γ L_diff,t]` with λ = 0.05 and γ = 0.01, where `L_adv,t` is
the discriminator's loss on reversed features and `L_diff,t` the penalty. As a JAX function of a
batch of texts for each task::

    def losses_of(params, tokens, labels):  # tokens (T, B, length), labels (T, B)
        shared, private = features(params, tokens)  # (T, B, d) each
        loss = task_losses(params, shared, private, labels)  # (T,)
        guess = discriminator(params, gradient_reversal(shared))  # (T, B, T)
        loss += 0.05 * jax.vmap(task_discriminator_loss)(guess, tasks)  # tasks[t, :] == t
        return loss + 0.01 * jax.vmap(orthogonality_penalty)(shared, private)

Where a method weights the tasks, let `shared` of `value_and_task_grads` and `on_shared` select the
encoder alone. The discriminator then counts as a head and gets the plain gradient of the summed
loss, and with heads="unweighted" no weight of the method slows it down.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mtl_optax import _checks
from mtl_optax._precision import HIGHEST, at_least_float32
from mtl_optax._tracing import varying_like

Gate = Literal["always", "above", "below"]
Reduction = Literal["sum", "mean"]


def gradient_reversal(x: Any, strength: Any = 1.0) -> Any:
    """Returns `x`, and multiplies the gradient that comes back by `-strength`.

    Put it between an encoder and a discriminator. Minimising the discriminator's loss then trains
    the discriminator as usual and the encoder against it: `dL/dx -> -l dL/dx`.

    Args:
        x: an array or a pytree of arrays, the shared features.
        strength: l, a number or a scalar array, which may be traced: `schedule(step)` with any
            optax schedule. No gradient flows to it. Zero detaches the features.

    Returns:
        `x` unchanged. Only reverse-mode differentiation is defined (`jax.grad`, `jax.vjp`); it
        works under `jax.jit` and `jax.vmap`.

    References:
        Ganin and Lempitsky, `Unsupervised Domain Adaptation by Backpropagation
        <https://arxiv.org/abs/1409.7495>`_, 2015, Eqs. 11 to 14, where l rises from 0 to 1; in
        AdvMTL (Liu, Qiu and Huang, `Adversarial Multi-task Learning for Text Classification
        <https://arxiv.org/abs/1704.05742>`_, 2017) l is 1 and the loss is weighted by 0.05
        instead. The two differ: a weight on the loss slows the discriminator too.

    Example:
        >>> import jax, optax
        >>> from mtl_optax import adversarial
        >>> rising = optax.linear_schedule(0.0, 1.0, transition_steps=10)
        >>> loss = lambda x, step: adversarial.gradient_reversal(x, rising(step)) ** 2
        >>> print(loss(3.0, 5), jax.grad(loss)(3.0, 5))
        9.0 -3.0
    """
    _check_scalar("gradient_reversal", "strength", strength)
    strength = jnp.asarray(strength, float)
    return _reverse(varying_like(x, strength), strength)


def _check_scalar(caller: str, name: str, value: Any) -> None:
    _checks.check_number(caller, name, value)
    if jnp.ndim(value):
        raise ValueError(
            f"{caller}: {name} must be a scalar, got shape {jnp.shape(value)}. For one {name} per "
            "task use jax.vmap over the task axis."
        )


@jax.custom_vjp
def _reverse(x: Any, strength: Float[Array, ""]) -> Any:
    del strength
    return x


def _forward(x: Any, strength: Float[Array, ""]) -> tuple[Any, Float[Array, ""]]:
    return x, strength


def _backward(strength: Float[Array, ""], cotangent: Any) -> tuple[Any, Float[Array, ""]]:
    def reverse(c: Any) -> Any:
        if c.dtype == jax.dtypes.float0:
            return c
        return -strength.astype(c.dtype) * c

    return jax.tree.map(reverse, cotangent), jnp.zeros_like(strength)


_reverse.defvjp(_forward, _backward)


def gated_reversal(
    x: Any,
    loss: Float[Array, ""] | float,
    threshold: Any,
    *,
    gate: Gate = "above",
    strength: Any = 1.0,
) -> Any:
    """Reverses the gradient while the discriminator's loss is on one side of a threshold.

    `gradient_reversal(x, strength * open)` with `open` 1 or 0. While the gate is shut the
    discriminator goes on learning and the encoder does not feel it. This is the auxiliary part of
    a TchebycheffAdv-like training: a shared encoder under `mtl_optax.tchebycheff`, plus this term.

    **What could not be verified**: the full text of TchebycheffAdv was not available and no public
    code is known. That its adversarial term is gated by the discriminator's empirical loss, and
    that the gate opens *above* a threshold, is from a secondary summary; the threshold's value, the
    term's weight, and whether the gate compares this step's or an average loss are not known. This
    is a construction in its spirit, not a reproduction.

    Args:
        x: an array or a pytree of arrays, the shared features.
        loss: the discriminator's loss `()`, no gradient flows to it. That of the same batch comes
            from a first pass, which `jax.jit` merges with the second (without dropout), that of
            the last step from your training state. A loss of NaN makes the gradient NaN.
        threshold: a number or a scalar array. The natural scale is `log T`, the loss of a
            discriminator that cannot tell T tasks apart, which it seldom exceeds: near `log T`
            "above" is almost always shut, while "below" trains the encoder against the
            discriminator as long as that still finds something.
        gate: "above" opens where `loss > threshold`, "below" where `loss < threshold`; "always"
            ignores both and is `gradient_reversal`.
        strength: that of `gradient_reversal` while the gate is open.

    Returns:
        `x` unchanged.

    References:
        Mao et al., `Tchebycheff Procedure for Multi-task Text Classification
        <https://aclanthology.org/2020.acl-main.388/>`_, 2020, with the reservations above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mtl_optax import adversarial
        >>> def loss_of(features, threshold):
        ...     discriminate = lambda x: jnp.sum(x**2)
        ...     x = adversarial.gated_reversal(features, discriminate(features), threshold)
        ...     return discriminate(x)
        >>> for threshold in (0.5, 2.0):
        ...     print(jax.grad(loss_of)(jnp.array([0.6, 0.8]), threshold))
        [-1.2 -1.6]
        [-0. -0.]
    """
    _checks.check_choice("gated_reversal", "gate", gate, get_args(Gate))
    loss = jnp.asarray(loss, float)  # Its value is the model's, and may be NaN.
    for name, value in (("loss", loss), ("threshold", threshold), ("strength", strength)):
        _check_scalar("gated_reversal", name, value)
    strength = jnp.asarray(strength, float)
    if gate != "always":
        loss = jax.lax.stop_gradient(loss)
        limit = jax.lax.stop_gradient(jnp.asarray(threshold, float))
        is_open = loss > limit if gate == "above" else loss < limit
        strength = jnp.where(jnp.isnan(loss), loss, jnp.where(is_open, strength, 0))
    return gradient_reversal(x, strength)


def orthogonality_penalty(
    shared: Float[Array, "*T B D"],
    private: Float[Array, "*T B E"],
    *,
    center: bool = False,
    normalize: bool = False,
    reduction: Reduction = "sum",
) -> Float[Array, ""]:
    """Penalises what shared and private features have in common: `Σ_t ‖S_tᵀ H_t‖_F²`.

    The rows of `S_t` (B × D) and `H_t` (B × E) are the shared and private features of the B texts
    of task t. It is zero where every shared feature is orthogonal, over the batch, to every
    private one, and does not change when either feature space is rotated.

    Args:
        shared: `(B, D)`, or `(T, B, D)` for T tasks, whose penalties are added.
        private: `(B, E)` or `(T, B, E)`.
        center: subtract each feature's mean over the batch first.
        normalize: then divide each text's features by their Euclidean norm, at least 1e-6. Without
            it the penalty grows with the fourth power of the features and the square of B.
        reduction: "sum" over the D × E products, or their "mean".

    Returns:
        `()`, in float32, or in float64 where the features are. AdvMTL weights it by γ = 0.01.

    References:
        AdvMTL (Liu, Qiu and Huang, `Adversarial Multi-task Learning for Text Classification
        <https://arxiv.org/abs/1704.05742>`_, 2017), after Bousmalis et al., `Domain Separation
        Networks <https://arxiv.org/abs/1608.06019>`_, 2016. Public code for AdvMTL
        (fudan_mtl_reviews) follows that of the latter: `center=True, normalize=True,
        reduction="mean"`, times 0.01.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import adversarial
        >>> shared = jnp.array([[1.0], [1.0]])
        >>> print(adversarial.orthogonality_penalty(shared, jnp.array([[2.0], [-2.0]])))
        0.0
        >>> print(adversarial.orthogonality_penalty(shared, jnp.array([[2.0], [1.0]])))
        9.0
    """
    name = "orthogonality_penalty"
    _checks.check_choice(name, "reduction", reduction, get_args(Reduction))
    _checks.check_real_array(name, "shared", shared)
    _checks.check_real_array(name, "private", private)
    if shared.ndim not in (2, 3) or shared.shape[:-1] != private.shape[:-1]:
        raise ValueError(
            f"{name}: shared and private must be (B, D) and (B, E), or (T, B, D) and (T, B, E), "
            f"got shapes {shared.shape} and {private.shape}: one row per text in both."
        )
    dtype = at_least_float32(shared, private)
    prepare = functools.partial(_prepare, center=center, normalize=normalize)
    left, right = prepare(shared.astype(dtype)), prepare(private.astype(dtype))
    squares = jnp.einsum("...bd,...be->...de", left, right, precision=HIGHEST) ** 2
    return jnp.sum(squares if reduction == "sum" else jnp.mean(squares, axis=(-2, -1)))


def _prepare(features: Array, *, center: bool, normalize: bool) -> Array:
    if center:
        features = features - jnp.mean(features, axis=-2, keepdims=True)
    if normalize:
        # Bounding the square, not the norm, keeps the gradient finite at zero.
        squares = jnp.sum(features**2, axis=-1, keepdims=True)
        features = features * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    return features


def task_discriminator_loss(
    logits: Float[Array, "*N T"],
    tasks: Int[Array, "*N"],
    *,
    where: Bool[Array, "*N"] | None = None,
) -> Float[Array, ""]:
    """Computes the mean cross-entropy of a discriminator that guesses the task of each text.

    `-(1/N) Σ_n log softmax(logits_n)[tasks_n]`; `log T` for a discriminator that cannot tell.

    Args:
        logits: `(*N, T)`, from (reversed) shared features: `(B, T)`, or `(T, B, T)` for a batch
            of each task.
        tasks: `(*N)` integers in [0, T). One outside makes the loss NaN.
        where: `(*N)`, the texts that count; all of them by default. With none, the loss is zero.

    Returns:
        `()`, in float32 or float64. AdvMTL weights it by λ = 0.05.

    References:
        AdvMTL (Liu, Qiu and Huang, `Adversarial Multi-task Learning for Text Classification
        <https://arxiv.org/abs/1704.05742>`_, 2017), where D is one linear layer.

    Example:
        >>> import jax.numpy as jnp
        >>> from mtl_optax import adversarial
        >>> logits, tasks = jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0])
        >>> print(adversarial.task_discriminator_loss(logits, tasks).round(4), jnp.log(3).round(4))
        1.0986 1.0986
    """
    name = "task_discriminator_loss"
    _checks.check_real_array(name, "logits", logits)
    if not hasattr(tasks, "dtype"):
        raise TypeError(f"{name}: tasks must be an array of integers, got {tasks!r}.")
    if logits.shape[:-1] != tasks.shape:
        raise ValueError(
            f"{name}: tasks has shape {tasks.shape}, wanted {logits.shape[:-1]}, "
            f"one task index for each row of logits {logits.shape}."
        )
    if not jnp.issubdtype(tasks.dtype, jnp.integer):
        raise TypeError(
            f"{name}: tasks must be integers, got {tasks.dtype}. One-hot rows "
            "become indices with jnp.argmax(rows, axis=-1)."
        )
    if where is not None and not (
        hasattr(where, "dtype") and where.dtype == bool and where.shape == tasks.shape
    ):
        raise ValueError(
            f"{name}: where must be a boolean array of shape {tasks.shape}, True for a text that "
            f"counts, got {where!r}."
        )
    logits = logits.astype(at_least_float32(logits))
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tasks)
    if where is None:
        return jnp.mean(losses)
    count = jnp.sum(where).astype(losses.dtype)
    return jnp.sum(jnp.where(where, losses, 0)) / jnp.maximum(count, 1)
