"""Writes what all of Optax does beside a method: `python docs/composition_table.py`.

Runs every public transformation before a method, after it, around it and inside `per_task`, beside
a loop over the tasks in Python, and writes into `docs/composition.md` what it saw.
"""

import functools
import inspect
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import mtl_optax as mtl

PAGE = pathlib.Path(__file__).parent / "composition.md"
OPTAX: Mapping[str, ModuleType] = {"": optax, "contrib.": optax.contrib}
T, STEPS = 2, 2
MATRICES = {"bias": False, "kernel": True}


# How each is made. What must be given, by the name of the parameter:
GIVEN: dict[str, Any] = {
    "clipping": 0.1,
    "decay": 0.9,
    "eta": 0.1,
    "every_k_schedule": 2,
    "f": lambda updates, params: jax.tree.map(lambda g: 2 * g, updates),
    "freeze_mask": MATRICES,
    "gamma": 0.5,
    "l2_norm_clip": 0.3,
    "learning_rate": 0.1,
    "mask": MATRICES,
    "max_backtracking_steps": 3,
    "max_consecutive_errors": 3,
    "max_delta": 0.3,
    "max_linesearch_steps": 3,
    "max_norm": 0.3,
    "measure": optax.global_norm,
    "measure_name": "norm",
    "measures": {"norm": optax.global_norm},
    "noise_multiplier": 0.1,
    "param_labels": MATRICES,
    "seed": 0,
    "should_transform_fn": lambda step: step % 2 == 0,
    "slow_step_size": 0.5,
    "step_size": 0.5,
    "step_size_fn": lambda count: 1.0 / (1 + count),
    "sync_period": 2,
    "threshold": 0.3,
}
# What is given where it can be, to show at once, and on small leaves, what else comes late:
CHOSEN: dict[str, Any] = {
    "k": 2,
    "key": 0,
    "max_linesearch_steps": 2,
    "memory_size": 2,
    "min_dim_size_to_factor": 2,
    "ns_steps": 2,
    "patience": 1,
    "rank": 2,
}

# The parameters that are transformations:
TAKEN: dict[str, Callable[[Any], Any]] = {
    "adv_optimizer": lambda tx: tx,
    "base_optimizer": lambda tx: tx,
    "fast_optimizer": lambda tx: tx,
    "inner": lambda tx: tx,
    "opt": lambda tx: tx,
    "optimizer": lambda tx: tx,
    "transforms": lambda tx: {True: tx, False: optax.set_to_zero()},
    "tx": lambda tx: tx,
}
# And those that are made in another way:
SPECIAL: dict[str, Callable[[Any], Any]] = {
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "chain": lambda tx: optax.chain(tx, optax.scale(2.0)),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(scaled(tx))(rate=2.0),
    "inject_stateful_hyperparams": lambda tx: optax.inject_stateful_hyperparams(scaled(tx))(
        rate=2.0
    ),
    "named_chain": lambda tx: optax.named_chain(("first", tx), ("second", optax.scale(2.0))),
}
SPECIAL_ALONE: dict[str, Callable[[], Any]] = {
    "contrib.scale_by_muon": lambda: optax.masked(
        optax.contrib.scale_by_muon(weight_dimension_numbers=as_matrices), MATRICES
    ),
    "lbfgs": lambda: optax.lbfgs(
        memory_size=2, linesearch=optax.scale_by_backtracking_linesearch(3)
    ),
}


def scaled(tx: Any) -> Callable[..., Any]:
    """Returns a factory with a hyper-parameter."""
    return lambda rate: optax.chain(tx, optax.scale(rate))


def as_matrices(tree: Any) -> Any:
    """Returns Muon's description of a tree of matrices."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), tree)


def public_transformations(modules: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Returns all that make transformations in some modules, by names behind their prefixes."""
    return {
        prefix + name: value
        for prefix, module in modules.items()
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and makes_a_transformation(value)
    }


def makes_a_transformation(value: Any) -> bool:
    """Whether a public name returns a transformation: by its annotation, or by its source."""
    kind = "GradientTransformation"
    if inspect.isclass(value):  # `MultiSteps` has the methods of one; states are tuples.
        init = None if issubclass(value, tuple) else getattr(value, "init", None)
        return init is not None and "params" in inspect.signature(init).parameters
    value = value.func if isinstance(value, functools.partial) else value
    if not inspect.isfunction(value):
        return False
    returns = inspect.signature(value).return_annotation
    if returns is inspect.Signature.empty:
        return kind in inspect.getsource(value)
    return kind in str(returns)


class Maker(NamedTuple):
    """How a transformation is made, and whether it is one around another, which it is given."""

    make: Callable[[Any], Any]
    wraps: bool


def maker(name: str, factory: Any) -> Maker:
    """Finds the arguments of a factory; raises if one is not known."""
    if name in SPECIAL_ALONE:
        return Maker(lambda _: SPECIAL_ALONE[name](), wraps=False)
    if name in SPECIAL:
        return Maker(SPECIAL[name], wraps=True)
    parameters = inspect.signature(factory).parameters
    needed = {key for key, of in parameters.items() if of.default is of.empty}
    unknown = sorted(needed - {*GIVEN, *TAKEN})
    if unknown:
        raise ValueError(
            f"optax {optax.__version__}: {name} wants {', '.join(unknown)}. Say what in GIVEN, or "
            "how it is made in SPECIAL, of docs/composition_table.py, and run: "
            "python docs/composition_table.py"
        )
    fixed = {key: GIVEN[key] for key in needed & {*GIVEN}}
    fixed |= {key: value for key, value in CHOSEN.items() if key in parameters}
    taken = needed & {*TAKEN}
    return Maker(
        lambda tx: factory(**fixed, **{key: TAKEN[key](tx) for key in taken}), wraps=bool(taken)
    )


def loss(params: Any, task_losses: Any = None) -> Any:
    """Is the loss of what evaluates one; a line search hands it the arguments of a method too."""
    del task_losses
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))


ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "value": loss,
    "grad": jax.grad(loss),
    "value_fn": lambda params: loss,
    "obj_fn": lambda params: lambda p: loss(p),
}
# What some read of them; the first that do not raise are given.
READ = ((), ("value",), ("value", "grad", "value_fn"), ("obj_fn",))


class Step(NamedTuple):
    """What `update` is given, but for the state."""

    gradients: Any
    params: Any
    extra: dict[str, Any]

    def of(self, fun: Callable[[Any], Any]) -> "Step":
        """Returns the step with other gradients."""
        return self._replace(gradients=fun(self.gradients))


def draw(seed: int, reads: Iterable[str] = (), paired: bool = False) -> list[Step]:
    """Draws gradients `(T, *p.shape)`, parameters, and the arguments that are read."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    shapes = {"bias": (3,), "kernel": (3, 3)}
    steps = []
    for _ in range(STEPS):
        params = {leaf: normal(*shape) for leaf, shape in shapes.items()}
        extra = {key: ARGUMENTS[key](params) for key in reads}
        gradients = {leaf: normal(T, *shape) for leaf, shape in shapes.items()}
        given = optax.LookaheadParams(params, params) if paired else params
        steps.append(Step(gradients, given, extra))
    return steps


class Ran(NamedTuple):
    """The updates of all steps, and the state before the first and after the last."""

    updates: list[Any]
    first: Any
    last: Any


def run(tx: Any, steps: Sequence[Step], **extra: Any) -> Ran:
    """Takes the steps, without compiling any as a whole."""
    tx = optax.with_extra_args_support(tx)
    first = state = tx.init(steps[0].params)
    updates = []
    for step in steps:
        update, state = tx.update(step.gradients, state, step.params, **step.extra, **extra)
        updates.append(update)
    return Ran(updates, first, state)


def run_with_losses(tx: Any, steps: Sequence[Step]) -> tuple[Ran, bool]:
    """Takes the steps as a method needs it, with `task_losses`, and without where that raises."""
    try:
        return run(tx, steps, task_losses=jnp.arange(1.0, T + 1)), True
    except Exception:
        return run(tx, steps), False


def numbers(tree: Any) -> list[np.ndarray]:
    """Returns the arrays of a tree, random keys as numbers too."""
    arrays = map(jnp.asarray, jax.tree.leaves(tree))
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in arrays]


def shapes_of(tree: Any) -> list[tuple[int, ...]]:
    """Returns the shapes of a tree's arrays."""
    return [jnp.shape(x) for x in jax.tree.leaves(tree)]


def close(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays have one shape and the same numbers, up to rounding."""
    return x.shape == y.shape and np.allclose(x, y, rtol=1e-3, atol=1e-5, equal_nan=True)


def alike(found: Any, wanted: Any) -> bool:
    """Whether two trees hold the same numbers."""
    pairs = list(zip(numbers(found), numbers(wanted), strict=False))
    return shapes_of(found) == shapes_of(wanted) and all(close(x, y) for x, y in pairs)


def of_the_tasks(state: Any, states: Sequence[Any]) -> bool:
    """Whether a state holds what the states of the tasks hold: stacked, or common to them."""
    every = list(zip(numbers(state), *map(numbers, states), strict=False))
    return len(jax.tree.leaves(state)) == len(jax.tree.leaves(states[0])) and all(
        close(x, np.stack(rows)) or all(close(x, one) for one in rows) for x, *rows in every
    )


def row(tree: Any, task: int) -> Any:
    """Returns one task's part of a stacked tree."""
    return jax.tree.map(lambda x: x[task], tree)


class Seen(NamedTuple):
    """What was seen at a place: a key of `WORDS`, for calls with `task_losses` or without."""

    kind: str
    with_losses: bool = True
    error: str = ""


class Alone(NamedTuple):
    """What a transformation makes of each task's gradients, and of their mean, on its own."""

    tasks: list[Ran]
    mean: Ran

    @property
    def looped(self) -> list[Any]:
        """The updates of the tasks, stacked."""
        steps = zip(*(ran.updates for ran in self.tasks), strict=True)
        return [jax.tree.map(lambda *rows: jnp.stack(rows), *step) for step in steps]

    @property
    def states(self) -> list[Any]:
        """The last state of each task."""
        return [ran.last for ran in self.tasks]


def alone(tx: Any, steps: Sequence[Step]) -> Alone:
    """Runs a transformation in a loop over the tasks, and on their mean gradient."""
    mean = lambda tree: jax.tree.map(lambda x: jnp.asarray(np.asarray(x).mean(0)), tree)
    tasks = [run(tx, [step.of(lambda g, t=t: row(g, t)) for step in steps]) for t in range(T)]
    return Alone(tasks, run(tx, [step.of(mean) for step in steps]))


def before(tx: Any, steps: Sequence[Step], wanted: Alone) -> Seen:
    """Returns what `tx` does to the task gradients on their way to a method."""
    chain = optax.chain(tx, mtl.sum_tasks(T, combine=False))
    ran, took = run_with_losses(chain, steps)
    grew = [shapes_of(one.first) != shapes_of(one.last) for one in (ran, wanted.mean)]
    if alike(ran.updates, wanted.looped):
        kept = "same" if of_the_tasks(ran.last[0], wanted.states) else "measures"
        return Seen("grows" if grew == [True, False] else kept, took)
    others = draw(1)
    swap = lambda x, y: x.at[1:].set(y[1:])
    moved = [
        step.of(lambda g, o=other: jax.tree.map(swap, g, o.gradients))
        for step, other in zip(steps, others, strict=True)
    ]
    again, _ = run_with_losses(chain, moved)
    apart = all(
        alike(row(x, 0), row(y, 0)) for x, y in zip(ran.updates, again.updates, strict=True)
    )
    return Seen("apart" if apart else "mixes", took)


def inside(tx: Any, steps: Sequence[Step], wanted: Alone) -> Seen:
    """Returns what `per_task` makes of `tx`."""
    ran, took = run_with_losses(mtl.per_task(T, tx), steps)
    same = alike(ran.updates, wanted.looped) and of_the_tasks(ran.last.inner, wanted.states)
    return Seen("same" if same else "differs", took)


def after(tx: Any, steps: Sequence[Step], wanted: Alone) -> Seen:
    """Returns what `tx` does to the update of a method."""
    ran, took = run_with_losses(optax.chain(mtl.mean_tasks(T), tx), steps)
    same = alike(ran.updates, wanted.mean.updates) and alike(ran.last[1], wanted.mean.last)
    return Seen("same" if same else "differs", took)


def around(tx: Any, steps: Sequence[Step], wanted: Alone) -> Seen:
    """Returns what `tx`, around a method and an optimiser, makes of the task gradients."""
    ran, took = run_with_losses(tx, steps)
    if shapes_of(ran.updates) != shapes_of(wanted.mean.updates):
        return Seen("stacked", took)
    return Seen("same" if alike(ran.updates, wanted.mean.updates) else "differs", took)


def seen(place: Callable[..., Seen], *given: Any) -> Seen:
    """Returns what a place shows, an error too."""
    try:
        return place(*given)
    except Exception as error:
        return Seen("raises", error=type(error).__name__)


OPTIMIZER = optax.sgd(0.5, momentum=0.9)
METHOD = optax.chain(mtl.mean_tasks(T), OPTIMIZER)


def observe(name: str, factory: Any) -> dict[str, Seen]:
    """Returns what a transformation does at each place."""
    make, wraps = maker(name, factory)

    def prepared(inner: Any) -> tuple[Any, list[Step], Alone]:
        for reads in READ:
            steps = draw(0, reads, paired=name == "lookahead")
            try:
                return make(inner), steps, alone(make(inner), steps)
            except Exception as error:
                refused = error
        raise ValueError(
            f"optax {optax.__version__}: {name} does not run on its own. Say how it is made in "
            "SPECIAL of docs/composition_table.py, and run: python docs/composition_table.py"
        ) from refused

    given = prepared(OPTIMIZER)
    found = {"inside": seen(inside, *given), "after": seen(after, *given)}
    if wraps:  # Before the method, it shows what it adds to what it is around.
        found["around"] = seen(around, make(METHOD), *given[1:])
        given = prepared(optax.scale(0.5))
    found["before"] = seen(before, *given)
    return found


def walk(factories: Mapping[str, Any]) -> dict[str, dict[Seen, list[str]]]:
    """Runs transformations, and returns by place of which names the same was seen."""
    found: dict[str, dict[Seen, list[str]]] = {}
    with (
        warnings.catch_warnings(action="ignore"),
        # As a user has it, whoever asks.
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
        jax.debug_nans(False),
    ):
        for name, factory in factories.items():
            for place, what in observe(name, factory).items():
                if what.kind not in WORDS[place]:
                    raise AssertionError(f"{COLUMNS[place]}, {name} {what.kind} from a loop.")
                found.setdefault(place, {}).setdefault(what, []).append(name)
    return found


WORDS = {
    "before": {
        "same": "the same as on each task's gradient alone; what is around another "
        "transformation, around one of this kind",
        "grows": "the same, but a state that is made at `p.shape` becomes `(T, *p.shape)` in the "
        "first step: `jax.lax.scan` refuses it, a jitted step compiles twice. Use `per_task` "
        "([`test_moments_before_change_the_shapes_of_the_state`](../tests/around/test_with_optax.py))",
        "mixes": "run, and mean something else: a norm, a mean or factors are those of the whole "
        "stack, so that what one task gets depends on the others. Use `per_task`, or put it after "
        "the method",
        "apart": "run, and do to each task's gradient what they do not do to it alone. Noise is "
        "drawn for each task anew, and by `per_task` the same for all; a mean over a leaf's axes "
        "is over others of a stack",
        "measures": "pass the gradients on, and measure the stack as if it were one gradient",
        "raises": "raise {error}: a stack meets parameters, or a state, of another shape, or is "
        "none any more when it reaches the method. Use `per_task`, or put it after the method",
    },
    "inside": {
        "same": "do what a loop over the tasks does",
        "raises": "raise {error}",
    },
    "after": {
        "same": "what they do to an ordinary gradient",
        "raises": "raise {error}",
    },
    "around": {
        "same": "what they do around the optimiser alone",
        "stacked": "**silent damage where a leaf is not given to the method**: it stays stacked, "
        "and its parameter grows. [Freezing](guides/freezing.md) has ways that work; "
        "`mtl.check_updates` around it says so",
        "raises": "raise {error}; what to do instead stands below",
    },
}
NO_LOSSES = "; only without `task_losses` in the call, which they do not take"
COLUMNS = {
    "before": "before a method",
    "inside": "inside `per_task`",
    "after": "after a method",
    "around": "around a method and an optimiser",
}


def table(place: str, found: Mapping[Seen, Sequence[str]]) -> str:
    """Returns what was seen at a place in Markdown."""
    order = {kind: number for number, kind in enumerate(WORDS[place])}
    rows = sorted(found, key=lambda one: (order[one.kind], not one.with_losses, one.error))
    lines, last = [], []
    for one in rows:
        words = WORDS[place][one.kind].format(error=f"`{one.error}`")
        words += "" if one.with_losses else NO_LOSSES
        names = ", ".join(f"`{name}`" for name in found[one])
        nearly_all = len(found[one]) > 0.8 * sum(map(len, found.values()))
        if len(rows) > 1 and nearly_all:
            last.append(f"| {words} | all the others, {len(found[one])} |")
        else:
            lines.append(f"| {words} | {names} |")
    return "\n".join([f"| {COLUMNS[place]} | which |", "|---|---|", *lines, *last]) + "\n"


def rewritten(text: str, found: Mapping[str, Mapping[Seen, Sequence[str]]], version: str) -> str:
    """Returns a page's text with its tables, and what they were made with, brought up to date."""
    number = len({name for names in found["after"].values() for name in names})
    blocks = {place: table(place, found[place]) for place in COLUMNS} | {
        "walk": f"All {number} public transformations of Optax {version} and `optax.contrib`, by "
        "what each did when it was run there.\n"
    }
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: by docs/composition_table.py -->\n", f"<!-- end of {name} -->"
        before, found_begin, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise ValueError(f"{PAGE.name} has no lines {begin.strip()} and {end}.")
        text = f"{before}{begin}{block}{end}{after}"
    return text


def stated_version(text: str) -> str:
    """Returns the version of Optax that a page was written with."""
    match = re.search(r"public transformations of Optax ([\d.]+) and", text)
    return match[1] if match else "0"


def main() -> None:
    """Runs everything, and rewrites the page."""
    found = walk(public_transformations(OPTAX))
    text = rewritten(PAGE.read_text(encoding="utf-8"), found, optax.__version__)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
