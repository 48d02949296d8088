"""Inputs and small helpers that the test files share."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mtl_optax as mtl

METHODS = mtl.list_methods()
LINEAR = [name for name in METHODS if "linear" in mtl.method_info(name).properties]
# Their weights, in the state as those of linear methods, are of averages of the task gradients.
AVERAGED = [name for name in METHODS if "averaged" in mtl.method_info(name).properties]
WEIGHTED = LINEAR + AVERAGED


def with_property(name: str) -> list[str]:
    return [method for method in METHODS if name in mtl.method_info(method).properties]


class Inputs(NamedTuple):
    """One step's worth of arguments for any method."""

    params: Any
    gradients: Any
    losses: jax.Array
    query_gradients: Any


def tree_gradients(matrix: Any) -> Any:
    """Lays the rows of a `(T, 17)` matrix out as task gradients of three leaves."""
    matrix = jnp.asarray(matrix)
    rows = matrix.shape[0]
    return {
        "dense": {"kernel": matrix[:, :12].reshape(rows, 3, 4), "bias": matrix[:, 12:16]},
        "scale": matrix[:, 16],
    }


def flat(tree: Any, *, tasks: bool = False) -> np.ndarray:
    """Undoes `tree_gradients`, in float64; `tasks` says that leaves have a task axis."""
    leaves = [tree["dense"]["kernel"], tree["dense"]["bias"], tree["scale"]]
    arrays = [np.asarray(leaf, np.float64) for leaf in leaves]
    lead = arrays[0].shape[:1] if tasks else ()
    return np.concatenate([a.reshape(*lead, -1) for a in arrays], axis=-1)


def inputs(num_tasks: int, seed: int = 0, dtype: Any = jnp.float32) -> Inputs:
    rng = np.random.default_rng(seed)

    def draw() -> Any:
        # A common part makes some pairs agree and others conflict.
        matrix = rng.normal(size=(num_tasks, 17)) + 0.3 * rng.normal(size=17)
        return tree_gradients(jnp.asarray(matrix, dtype))

    gradients, query = draw(), draw()
    params = jax.tree.map(lambda g: 0.1 * g[0], gradients)
    losses = jnp.asarray(rng.uniform(0.5, 2.0, num_tasks), jnp.float32)
    return Inputs(params, gradients, losses, query)


def make(name: str, num_tasks: int, **hyperparameters: Any) -> Any:
    return mtl.get(name, num_tasks, **hyperparameters)


def step(tx: Any, state: Any, given: Inputs, **extra: Any) -> tuple[Any, Any]:
    return tx.update(
        given.gradients,
        state,
        given.params,
        task_losses=given.losses,
        query_gradients=given.query_gradients,
        next_losses=given.losses,
        **extra,
    )


WAYS = ("stacked", "taps", "rows", "features")


def one_step(
    loss_fn: Callable[..., Any],
    method: Any,
    way: str,
    *,
    shared: Any = None,
    heads: Any = "unweighted",
    has_aux: bool = False,
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """A step of a method in one way of gathering, for equal steps in all ways.

    Returns a function of `(params, state, *args, **extra)` to the losses, with what else `loss_fn`
    returns, the updates and the state; and what makes its first state. What is `extra` goes to the
    method, but for losses, which an object carries.
    """
    tx = method if shared is None else mtl.on_shared(method, shared, heads=heads)
    stacked = way == "stacked"
    options = {} if stacked else {"stacked": False, "way": way}
    gather = mtl.value_and_task_grads(loss_fn, has_aux=has_aux, shared=shared, **options)

    def take(params: Any, state: Any, *args: Any, **extra: Any) -> Any:
        out, gradients = gather(params, *args)
        if stacked:
            extra["task_losses"] = out[0] if has_aux else out
        updates, state = tx.update(gradients, state, params, **extra)
        return out, updates, state

    return take, tx.init


def first_update(tx: Any, given: Inputs, **extra: Any) -> tuple[Any, Any]:
    """The jitted first step from a fresh state."""
    return jax.jit(lambda g: step(tx, tx.init(g.params), g, **extra))(given)


# As users have it, where `conftest` has XLA do no more than it must: for what depends on how a
# program is compiled, the last digits and the plan of its memory.
AS_USERS_HAVE_IT = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


def optimised(fun: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit`, compiled as users have it."""
    return jax.jit(fun, compiler_options=AS_USERS_HAVE_IT, **options)


def masked_steps(tx: Any, gradients: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Updates and weights of steps on task gradients `(S, T, N)`, with masks `(S, T)`."""

    @jax.jit
    def scan(gradients: Any, masks: Any) -> Any:
        def body(state: Any, now: Any) -> Any:
            update, state = tx.update(now[0], state, task_mask=now[1])
            return state, (update, state.weights)

        return jax.lax.scan(body, tx.init(gradients[0, 0]), (gradients, masks))[1]

    updates, weights = scan(jnp.asarray(gradients), jnp.asarray(masks))
    return np.asarray(updates, np.float64), np.asarray(weights)


def weights_of(state: Any) -> np.ndarray:
    return np.asarray(mtl.task_weights(state))


def relative_error(got: Any, wanted: Any) -> float:
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-300))


def from_matrix(matrix: np.ndarray, scale: float = 1.0) -> Inputs:
    given = inputs(matrix.shape[0])
    gradients = tree_gradients(jnp.asarray(matrix * scale, jnp.float32))
    return given._replace(gradients=gradients)


ROOT = pathlib.Path(__file__).parent.parent


def stamps(folder: pathlib.Path) -> dict[str, int]:
    """When each JSON file in a folder was written, by its name."""
    return {file.stem: file.stat().st_mtime_ns for file in folder.glob("*.json")}


def environment_of(devices: int) -> dict[str, str]:
    """The environment of a process with several host devices: it is given them as it starts."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "error"}


def run_on_devices(count: int, *arguments: str) -> str:
    """Runs Python in a process of its own with `count` host devices; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment_of(count),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
