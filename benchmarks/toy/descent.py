"""Every method on the landscape, from all starting points at once."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.console import Console

import mtl_optax as mtl
from benchmarks.command import notes_after
from benchmarks.errors import InterruptedRunError, UserError
from benchmarks.results.cells import Config, plain, provenance
from benchmarks.toy.landscape import FLOOR, STARTS, Trajectories, losses
from benchmarks.train.recipes import default_hyperparameters, own_optimizer
from benchmarks.writing import write

POINTS = 250  # along each trajectory at most, the start not counted


def descend_all(
    folder: Path,
    methods: Sequence[str],
    *,
    scale: float,
    steps: int,
    learning_rate: float,
    fresh: bool,
    quiet: bool,
) -> dict[str, Trajectories]:
    """Run the methods that ``folder`` has not yet, and keep them there."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    runs: dict[str, Trajectories] = {}
    with notes_after(console), console.status("") as status:
        try:
            for number, method in enumerate(methods, start=1):
                status.update(f"{method} ({number} of {len(methods)})")
                path = folder / f"{method}.json"
                config = _config(method, scale=scale, steps=steps, learning_rate=learning_rate)
                if fresh:
                    path.unlink(missing_ok=True)
                run = _load(path, method, config)
                if run is None:
                    run = descend(method, scale=scale, steps=steps, learning_rate=learning_rate)
                    _save(path, method, config, run)
                runs[method] = run
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted: {len(runs)} of {len(methods)} methods are kept in {folder}; "
                "the same command (without --fresh) goes on from there"
            ) from None
    return runs


def descend(
    method: str, *, scale: float, steps: int, learning_rate: float, points: int = POINTS
) -> Trajectories:
    """Run a method of the registry from all starting points at once.

    The losses that the method reads are lifted by a constant, so that none is negative: weighting
    by logarithms or ratios of losses takes that for granted. Gradients do not change by it.

    Args:
        method: its name; its hyper-parameters are the library's defaults.
        scale: of the first loss.
        steps: updates of the parameters.
        learning_rate: of Adam.
        points: how many to keep of each trajectory at most, the start not counted.
    """
    # Most of the way is made early, and so most points are kept there.
    kept = np.unique(np.rint(steps * np.linspace(0, 1, points + 1) ** 2).astype(int))
    starts = jnp.asarray(STARTS, jnp.float32)
    path = _paths(_optimizer(method, learning_rate), scale, steps, starts)
    params = np.concatenate([starts[:, None], path], axis=1)[:, kept]
    values = np.asarray(losses(jnp.moveaxis(jnp.asarray(params), -1, 0), scale))
    return Trajectories(kept.tolist(), params, np.moveaxis(values, 0, -1))


def _optimizer(method: str, learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """Task gradients to steps, always with Adam."""
    adam = optax.adam(learning_rate)
    if mtl.method_info(method).is_optimizer:
        return own_optimizer(method, 2, adam, learning_rate)
    return optax.with_extra_args_support(optax.chain(mtl.get(method, 2), adam))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _paths(
    optimizer: optax.GradientTransformationExtraArgs,
    scale: float,
    steps: int,
    starts: Float[Array, "s 2"],
) -> Float[Array, "s n 2"]:
    lift = -FLOOR * jnp.array([scale, 1.0])

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], Array]:
        params, state = carry
        gradients = jax.jacrev(losses)(params, scale)
        updates, state = optimizer.update(
            gradients,
            state,
            params,
            task_losses=losses(params, scale) + lift,
            next_losses=losses(params, scale) + lift,
            # Nothing is drawn here: a second batch would be the same as the first.
            query_gradients=gradients,
        )
        params = optax.apply_updates(params, updates)
        return (params, state), params

    def one_start(start: Array) -> Array:
        return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]

    return jax.vmap(one_start)(starts)


def _config(method: str, *, scale: float, steps: int, learning_rate: float) -> Config:
    """Everything that decides a run's numbers, apart from the code itself."""
    return {
        "suite": "toy",
        "starts": STARTS.tolist(),
        "scale": scale,
        "optimizer": "adam",
        "learning_rate": learning_rate,
        "steps": steps,
        "points": POINTS,
        "hyperparameters": default_hyperparameters(method),
    }


def _save(path: Path, method: str, config: Config, run: Trajectories) -> None:
    content = {
        "method": method,
        "config": config,
        **provenance(),
        "step": run.step,
        "params": plain(run.params.tolist()),
        "losses": plain(run.losses.tolist()),
    }
    write(path, json.dumps(content, allow_nan=False) + "\n")


def _load(path: Path, method: str, config: Config) -> Trajectories | None:
    """The finished run, or None where there is none with this configuration."""
    try:
        content = json.loads(path.read_text())
        if content["method"] != method:
            raise ValueError(f"it is of {content['method']}")
        if content["config"] != config:
            return None
        run = Trajectories(
            [int(step) for step in content["step"]],
            np.asarray(content["params"], float),
            np.asarray(content["losses"], float),
        )
        shape = (len(STARTS), len(run.step), 2)
        if run.params.shape != shape or run.losses.shape != shape:
            raise ValueError("its trajectories have the wrong length")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{path}: not a finished run ({reason}); remove it or pass --fresh"
        ) from error
    return run
