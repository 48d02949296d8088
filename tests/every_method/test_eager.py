"""Ten steps without `jit`, as in a notebook or a debugger: only the first may compile anything."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mtl_optax as mtl
from mtl_optax import adversarial, metrics
from mtl_optax._task_gradients.passes import LARGE
from tests.common import METHODS, inputs, make, one_step, step

STEPS = 10
FEW, MANY = 3, 20
_compiles = 0


def _count(event, _duration, **_):
    # Told of what the persistent cache holds too: it costs a trace, a lowering and a look-up.
    global _compiles
    _compiles += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def compiles_of_steps(take):
    """How many programs each call of `take(i)` compiles, i = 0 to 9, once the first has run."""
    counts = []
    for index in range(STEPS):
        before = _compiles
        jax.block_until_ready(take(index))
        counts.append(_compiles - before)
    return counts[1:]


def steps_of(tx, num_tasks, **extra):
    """Steps of a transformation, each on gradients, losses and a state of its own."""
    given = [inputs(num_tasks, seed) for seed in range(STEPS)]
    state = tx.init(given[0].params)

    def take(index):
        nonlocal state
        updates, state = step(tx, state, given[index], **extra)
        return updates, state

    return take


def after(number, take):
    """The same steps, when `number` of them have been taken: as many make one of the method."""
    for index in range(number):
        take(index)
    return take


def injected(name, num_tasks):
    info = mtl.method_info(name)
    factory = optax.inject_hyperparams(info.factory, static_args=("num_tasks",))
    return factory(num_tasks=num_tasks, **info.arguments(num_tasks))


@pytest.mark.parametrize("num_tasks", [FEW, MANY])
@pytest.mark.parametrize("maker", [make, injected])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_compiles_nothing_after_its_first_step(name, maker, num_tasks):
    assert sum(compiles_of_steps(steps_of(maker(name, num_tasks), num_tasks))) == 0


OPTIONS = [
    ("mgda", {"solver": "frank_wolfe", "normalization": "loss+"}),
    ("mgda", {"solver": "projected_gradient", "normalization": "l2"}),
    ("getmtl", {"variant": "exact"}),
    ("getmtl", {"variant": "official"}),
    ("nash_mtl", {"max_norm": None}),
    ("dwa", {"steps_per_epoch": 3}),
    ("tchebycheff", {"smooth": 0.1}),
    ("rlw", {"distribution": "dirichlet"}),
    ("meta_weighting", {"project": "simplex"}),
    ("layerwise_adatask", {"learning_rate": optax.linear_schedule(0.1, 0.0, 5)}),
    ("pcgrad", {"combine": False}),
    ("graddrop", {"leak": 0.5, "combine": False}),
    ("gradnorm", {"norm_mask": {"dense": True, "scale": False}}),
    ("emtl", {"base": mtl.mgda(FEW)}),
]


@pytest.mark.parametrize(
    ("name", "options"),
    OPTIONS,
    ids=[f"{number}-{name}-{'-'.join(options)}" for number, (name, options) in enumerate(OPTIONS)],
)
def test_an_option_compiles_nothing_after_the_first_step(name, options):
    tx = make(name, FEW, **options)
    mask = jnp.array([True, False, True])
    assert sum(compiles_of_steps(steps_of(tx, FEW, task_mask=mask))) == 0


def wide_params(size):
    """Parameters that losses are functions of, `size` numbers in the trunk."""
    return {"trunk": jnp.linspace(-1.0, 1.0, size), "heads": jnp.ones((FEW, 2))}


SHARED = {"trunk": True, "heads": False}
SMALL = wide_params(6)
LARGE = wide_params(LARGE + 6)


def losses_of(p, x):
    z = mtl.mark_features(encoder(p, x))
    return decoder(p, z, x)


def encoder(p, x):
    trunk = p["trunk"]
    return jnp.tanh(x[:, :2] + jnp.sum(trunk.reshape(2, -1), axis=1)[None, :] * 1e-3)


def decoder(p, z, x):
    return jnp.mean((z @ p["heads"].T - x[:, 2:]) ** 2, axis=0)


def loss_of_one(p, x):
    return jnp.mean((encoder(p, x) @ p["heads"][0]) ** 2)


BATCHES = [
    jnp.asarray(np.random.default_rng(i).normal(size=(4, 5)), jnp.float32) for i in range(STEPS)
]


def calls(fun, *arguments):
    """Steps of a function of a batch."""
    return lambda index: fun(*arguments, BATCHES[index])


def weighing(way, method, params=SMALL, **options):
    """Steps of one of the ways without a stack."""
    fun, init = one_step(losses_of, method, way, **options)
    state = init(params)

    def take(index):
        nonlocal state
        losses, gradient, state = fun(params, state, BATCHES[index])
        return losses, gradient, state

    return take


def then_adam(num_tasks):
    return optax.chain(mtl.mgda(num_tasks), optax.adam(1e-3))


def squares(index):
    return inputs(FEW, index).gradients


def nnx_gradients():
    layer = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    losses = lambda layer, batch: jnp.mean(layer(batch) ** 2, axis=0)
    return calls(lambda batch: mtl.nnx_value_and_task_grads(losses)(layer, batch))


def read_scalars():
    tx = optax.chain(mtl.track_conflict(FEW), mtl.mgda(FEW))
    take = steps_of(tx, FEW)
    return lambda index: mtl.scalars(take(index)[1])


def read_weights():
    take = steps_of(optax.chain(mtl.mgda(FEW), optax.sgd(0.1)), FEW)
    return lambda index: mtl.task_weights(take(index)[1])


def gated(features, batch):
    loss_of = lambda x: jnp.mean((x @ jnp.ones(5)) ** 2)
    return jax.grad(
        lambda x: loss_of(adversarial.gated_reversal(x, loss_of(batch), 0.5, strength=0.1))
    )(features + batch)


def reversed_gradient(features, batch):
    return jax.grad(lambda x: jnp.sum(adversarial.gradient_reversal(x, 0.3) ** 2))(features + batch)


def penalty(batch):
    return jax.grad(
        lambda x: adversarial.orthogonality_penalty(
            x, 2 * x, center=True, normalize=True, reduction="mean"
        )
    )(batch)


def guess(batch):
    tasks = jnp.arange(4) % 3
    return jax.value_and_grad(
        lambda x: adversarial.task_discriminator_loss(x, tasks, where=tasks > 0)
    )(batch)


# What to call, by name: public callables that are no methods, in each way that they differ in.
EVERY = {
    "value_and_task_grads": lambda: calls(mtl.value_and_task_grads(losses_of), SMALL),
    "value_and_task_grads large": lambda: calls(mtl.value_and_task_grads(losses_of), LARGE),
    "value_and_task_grads shared": lambda: calls(
        mtl.value_and_task_grads(losses_of, shared=SHARED), SMALL
    ),
    "value_and_task_grads shared, large": lambda: calls(
        mtl.value_and_task_grads(losses_of, shared=SHARED), LARGE
    ),
    "sam_value_and_task_grads": lambda: calls(
        mtl.sam_value_and_task_grads(losses_of, 0.1, shared=SHARED), SMALL
    ),
    "sam_value_and_task_grads large": lambda: calls(
        mtl.sam_value_and_task_grads(losses_of, 0.1), LARGE
    ),
    "sam_value_and_task_grads samo": lambda: (
        lambda index: mtl.sam_value_and_task_grads(losses_of, 0.1, beta=0.5, key=index)(
            SMALL, BATCHES[index]
        )
    ),
    "per_task_value_and_grad": lambda: (
        lambda index: mtl.per_task_value_and_grad(loss_of_one)(
            SMALL, jnp.stack([BATCHES[index]] * FEW)
        )
    ),
    "per_task_value_and_grad large": lambda: (
        lambda index: mtl.per_task_value_and_grad(loss_of_one)(
            LARGE, jnp.stack([BATCHES[index]] * FEW)
        )
    ),
    "TaskGradients losses only": lambda: weighing("taps", mtl.uw(FEW)),
    "TaskGradients losses only, shared": lambda: weighing("taps", mtl.uw(FEW), shared=SHARED),
    "TaskGradients taps": lambda: weighing("taps", mtl.mgda(FEW), shared=SHARED),
    "mark_features": lambda: weighing("features", mtl.mgda(FEW), shared=SHARED),
    "TaskGradients rows": lambda: weighing("rows", mtl.mgda(FEW)),
    "TaskGradients rows, norms": lambda: weighing("rows", mtl.gradnorm(FEW), shared=SHARED),
    "TaskGradients rows, large": lambda: weighing("rows", mtl.mgda(FEW), params=LARGE),
    "per_task": lambda: steps_of(mtl.per_task(FEW, optax.adam(1e-3)), FEW),
    "on_shared": lambda: steps_of(
        mtl.on_shared(mtl.uw(FEW), {"dense": True, "scale": True}, heads="weighted"), FEW
    ),
    "check_updates": lambda: steps_of(mtl.check_updates(then_adam(FEW)), FEW),
    "skip_nonfinite": lambda: steps_of(mtl.skip_nonfinite(then_adam(FEW)), FEW),
    "skip_nonfinite skip_step": lambda: steps_of(
        mtl.skip_nonfinite(mtl.mgda(FEW), policy="skip_step"), FEW
    ),
    "accumulate_task_gradients": lambda: after(
        3, steps_of(mtl.accumulate_task_gradients(FEW, 3, then=then_adam(FEW)), FEW)
    ),
    "accumulate_task_gradients of pcgrad": lambda: after(
        3, steps_of(mtl.accumulate_task_gradients(FEW, 3, then=mtl.pcgrad(FEW)), FEW)
    ),
    "track_conflict": lambda: steps_of(mtl.track_conflict(FEW), FEW),
    "track_conflict many": lambda: steps_of(mtl.track_conflict(MANY), MANY),
    "track_dominance": lambda: steps_of(mtl.track_dominance(FEW), FEW),
    "split_step": lambda: steps_of(mtl.split_step(FEW, optax.adam(1e-3)), FEW),
    "every": lambda: steps_of(mtl.every(mtl.nash_mtl(FEW), 3), FEW),
    "momentum": lambda: steps_of(mtl.momentum(mtl.pcgrad(FEW)), FEW),
    "by_group": lambda: steps_of(mtl.by_group(mtl.momentum(mtl.mgda(FEW))), FEW),
    "by_group of every": lambda: steps_of(mtl.by_group(mtl.every(mtl.cagrad(FEW), 2), "leaf"), FEW),
    "task_ema": lambda: steps_of(mtl.task_ema(FEW, 0.9), FEW),
    "task_ema schedule": lambda: steps_of(
        mtl.task_ema(FEW, optax.linear_schedule(0.1, 0.9, 5), start="first"), FEW
    ),
    "split_step momentum": lambda: steps_of(
        mtl.split_step(FEW, optax.sgd(1e-3), momentum=0.9), FEW
    ),
    "gram": lambda: lambda index: mtl.gram(squares(index)),
    "gram many": lambda: lambda index: mtl.gram(inputs(MANY, index).gradients),
    "combine": lambda: lambda index: mtl.combine(jnp.ones(FEW), squares(index)),
    "conflict": lambda: lambda index: mtl.conflict(mtl.gram(squares(index))),
    "dominance_ratio": lambda: lambda index: mtl.dominance_ratio(squares(index)),
    "dominance_histogram": lambda: lambda index: mtl.dominance_histogram(squares(index)),
    "dominance_by_layer": lambda: lambda index: mtl.dominance_by_layer(squares(index)),
    "nnx_value_and_task_grads": nnx_gradients,
    "scalars": read_scalars,
    "task_weights": read_weights,
    "from_weighting": lambda: steps_of(
        mtl.from_weighting(
            mtl.stateless("mine", FEW, frozenset({"gram"}), lambda seen: jnp.diag(seen.gram))
        ),
        FEW,
    ),
    "metrics.delta_m": lambda: (
        lambda index: metrics.delta_m(BATCHES[index][0], BATCHES[0][1], [True] * 5)
    ),
    "metrics.delta_p": lambda: (
        lambda index: metrics.delta_p(BATCHES[index][0], BATCHES[0][1], [True] * 5, [0, 0, 1, 1, 2])
    ),
    "metrics.task_variance": lambda: lambda index: metrics.task_variance(BATCHES[index]),
    "metrics.confusion_matrix": lambda: (
        lambda index: metrics.confusion_matrix(*(x.astype(int) for x in BATCHES[index][:2]), 3)
    ),
    "metrics.mean_iou": lambda: lambda index: metrics.mean_iou(BATCHES[index][:, :4] ** 2),
    "metrics.pixel_accuracy": lambda: (
        lambda index: metrics.pixel_accuracy(BATCHES[index][:, :4] ** 2)
    ),
    "metrics.depth_errors": lambda: lambda index: metrics.depth_errors(BATCHES[index], BATCHES[0]),
    "metrics.normal_errors": lambda: (
        lambda index: metrics.normal_errors(BATCHES[index][:, :3], BATCHES[0][:, :3])
    ),
    "metrics.auc": lambda: lambda index: metrics.auc(BATCHES[index][0], jnp.arange(5) % 2),
    "metrics.user_auc": lambda: (
        lambda index: metrics.user_auc(BATCHES[index][0], jnp.arange(5) % 2, jnp.arange(5) // 3)
    ),
    "metrics.weighted_auc": lambda: (
        lambda index: metrics.weighted_auc(
            {"like": BATCHES[index][0], "finish": BATCHES[index][1]}, "tiktok"
        )
    ),
    "adversarial.gradient_reversal": lambda: calls(reversed_gradient, BATCHES[0]),
    "adversarial.gated_reversal": lambda: calls(gated, BATCHES[0]),
    "adversarial.orthogonality_penalty": lambda: calls(penalty),
    "adversarial.task_discriminator_loss": lambda: calls(guess),
}
# Plain tuples, what reads the registry alone, and what makes what `from_weighting` takes.
NO_STEP = {"Conflict", "Evidence", "MethodInfo", "Weighting"} | {"get", "list_methods"}
NO_STEP |= {"method_info", "stateless", "metrics.DepthErrors", "metrics.NormalErrors"}


@pytest.mark.parametrize("called", EVERY)
def test_nothing_else_compiles_after_its_first_step(called):
    assert sum(compiles_of_steps(EVERY[called]())) == 0


def test_every_public_callable_takes_ten_steps():
    public = {
        prefix + name
        for module, prefix in ((mtl, ""), (metrics, "metrics."), (adversarial, "adversarial."))
        for name, value in inspect.getmembers(module, callable)
        if not name.startswith("_") and value.__module__.startswith(module.__name__)
    }
    ours = {name for name in public if not name.endswith("at_least_float32")}
    assert ours - NO_STEP == {called.split(" ")[0] for called in EVERY} | set(METHODS)


def test_a_compile_is_counted_even_where_the_persistent_cache_has_it():
    """A fresh function each time: the same program, found on disk, and counted."""
    taken = compiles_of_steps(lambda index: jax.jit(lambda x: x * 2 + 1)(jnp.ones(7)))
    assert taken == [1] * (STEPS - 1)
