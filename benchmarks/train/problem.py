"""What a suite hands over to be trained: data, model, losses and scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

import mtl_optax as mtl


class Metric(NamedTuple):
    """One number of a result."""

    name: str
    task: int
    """Which task it judges."""
    higher_is_better: bool = True
    counts: bool = True
    """Whether it enters the choice of learning rate and epoch, means, ranks and Δm."""


class Baseline(NamedTuple):
    """What a network has to beat: a simple model for each task alone."""

    name: str
    answers: Callable[[], tuple[Any, Any]]
    """Fits the models; what they say of the validation and of the test split, for `scores`."""


class Adversarial(NamedTuple):
    """The same tasks for a network with private features, which hides the task in shared ones."""

    problem: "Problem"
    objective: Callable[[PyTree, PyTree], tuple[Array, Array]]
    """Parameters and batch to the losses ``(t,)``, and to what training adds to each."""
    encoder: Callable[[Any], bool]
    """Whether the leaf at a key path makes the features that all tasks share."""
    config: Mapping[str, Any]
    """What it has besides, for the record."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Data, model, losses and scores of ``t`` tasks.

    Either all tasks read the same input (joint: leaves of the data are ``(n, ...)``), or each has
    data of its own (separate: leaves are ``(t, n, ...)``, padded to one size, and ``present``
    marks what is no padding). Leaves of the parameters that are not shared have a leading task
    axis, or `task_of` says whose they are. For separate data, `forward` and `losses` see one task's
    slice of all that.

    Compared by identity, so that a problem can be a static argument of ``jax.jit``.
    """

    tasks: tuple[str, ...]
    """Names of the tasks, in the order of every task axis."""
    metrics: tuple[Metric, ...]
    """What `scores` returns."""
    init: Callable[[PRNGKeyArray], PyTree]
    """Key to parameters."""
    shared: Callable[[Any], bool]
    """Whether the leaf at a key path belongs to every task."""
    forward: Callable[..., PyTree]
    """Parameters and batch to outputs ``(n, t, ...)``, or ``(n, ...)`` of each task in a mapping by
    the tasks' names; separate: ``(n, ...)``. See also `statistics`."""
    losses: Callable[[PyTree, PyTree], Array]
    """Outputs and batch to the mean losses ``(t,)``; separate: ``()``."""
    scores: Callable[[Any, PyTree], Float[np.ndarray, " m"]]
    """Finite outputs (separate: ``(t, n, ...)``), or `answers`, and data to metrics."""
    train: PyTree
    """In random order: the last rows serve MetaWeighting as query split."""
    validation: PyTree
    test: PyTree
    batch_size: int
    """Rows in a batch; of each task where data is separate."""
    config: Mapping[str, Any]
    """Everything that made this problem, for the record."""
    statistics: PyTree = None
    """Of a model with batch normalisation, the running statistics to start from. `forward` then
    takes two more arguments, the statistics and whether this is a step of a training, which reads
    those of its batch instead; and it returns the outputs and the next statistics."""
    task_of: Callable[[Any], int] | None = None
    """The number of the task that owns the leaf at a key path, which is not shared."""
    on_host: bool = False
    """Whether the loops over steps and chunks run on the host: on a CPU, XLA's convolutions are ten
    times slower in a loop that is compiled. The data stay on the host as well, arrays of NumPy that
    need not fit on the device; a thread hands over one batch after the other. The losses of a split
    are then means over its rows."""
    answers: Callable[[PyTree, PyTree], PyTree] = lambda outputs, batch: outputs
    """Where loops run on the host, outputs and batch to what `scores` reads instead, leaves
    ``(n, ...)``: where the outputs on a whole split are too many to keep."""
    chunk: int = 1000
    """Rows to evaluate at once, of all tasks; half as many show the cosine of the gradients."""
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam
    """Learning rate to optimiser."""
    schedule: Callable[[Array], Array] = jnp.ones_like
    """How much of the training is done, from 0 to 1, to a factor of the learning rate."""
    weight_decay: float = 0.0
    """Each step also takes the learning rate times this off every parameter, as AdamW does,
    whatever the method makes of the gradients."""
    noise: Callable[[PRNGKeyArray, PyTree], PyTree] = lambda key, batch: batch
    """A key and a batch to train on to that batch disturbed, or with keys for the model's dropout;
    batches that are scored, or of the query split, stay as they are."""
    sizes: tuple[int, ...] | None = None
    """Training rows of each task, where data is separate."""
    epoch_rows: int | None = None
    """Rows in an epoch, by default all (those of the mean task)."""
    query_fraction: float = 0.1
    """Part of the training rows that methods with query gradients keep for those."""
    at_once: int = 3
    """How many trainings to run at once: several for small networks, which alone do not keep a
    processor busy."""
    compiler_options: dict[str, Any] | None = None
    """Of XLA, for the program of an epoch."""
    baseline: Baseline | None = None
    """Simple models on the same split, if there are any."""
    adversarial: Callable[[], Adversarial] | None = None
    """Makes what `methods.ADVERSARIAL` train, where the suite has that."""

    def __post_init__(self) -> None:
        if self.separate and (self.on_host or self.statistics is not None):
            raise ValueError("Problem: on_host and statistics are for tasks with the same input")

    @property
    def num_tasks(self) -> int:
        """The length of every task axis."""
        return len(self.tasks)

    @property
    def separate(self) -> bool:
        """Whether each task has data of its own."""
        return self.sizes is not None

    @property
    def rows(self) -> tuple[int, ...]:
        """Training rows of each task, or one number for all."""
        return self.sizes or (len(jax.tree.leaves(self.train)[0]),)

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch."""
        rows = self.epoch_rows or int(np.mean(self.rows))
        return max(1, rows // self.batch_size)

    def rows_of_each(self, total: int) -> int:
        """How many rows to read together, of each task where data is separate, for a total."""
        return max(1, total // self.num_tasks) if self.separate else total

    def batch(self, data: PyTree, rows: Array) -> PyTree:
        """The rows of the data: ``(b,)``, or ``(t, b)`` where it is separate."""
        take = jax.vmap(lambda x, r: x[r]) if self.separate else lambda x, r: x[r]
        return jax.tree.map(lambda x: take(x, rows), data)

    def run(
        self, params: PyTree, data: PyTree, statistics: PyTree, *, training: bool
    ) -> tuple[PyTree, PyTree]:
        """Outputs of all tasks, of separate data ``(t, n, ...)``, and the next statistics."""
        if self.separate:
            return jax.vmap(self.forward, (self._task_axes(params), 0))(params, data), None
        if self.statistics is None:
            return self.forward(params, data), None
        return self.forward(params, data, statistics, training)

    def outputs(self, params: PyTree, data: PyTree, statistics: PyTree = None) -> PyTree:
        """Outputs of all tasks once trained: ``(n, t, ...)``, or ``(t, n, ...)`` separate."""
        return self.run(params, data, statistics, training=False)[0]

    def losses_and_statistics(
        self, params: PyTree, batch: PyTree, statistics: PyTree
    ) -> tuple[Float[Array, " t"], PyTree]:
        """The mean loss of each task in a step of the training, and the next statistics."""
        outputs, statistics = self.run(params, batch, statistics, training=True)
        losses = jax.vmap(self.losses) if self.separate else self.losses
        return losses(outputs, batch), statistics

    def task_losses(self, params: PyTree, batch: PyTree) -> Float[Array, " t"]:
        """The mean loss of each task in a step of the training."""
        return self.losses_and_statistics(params, batch, self.statistics)[0]

    def value_and_task_grads(
        self, params: PyTree, batch: PyTree, statistics: PyTree = None
    ) -> tuple[tuple[Float[Array, " t"], PyTree], PyTree]:
        """Losses and the next statistics, and gradients whose shared leaves are stacked."""
        if self.separate:

            def loss(params: PyTree, batch: PyTree) -> Array:
                return self.losses(self.forward(params, batch), batch)

            losses, grads = mtl.per_task_value_and_grad(loss, shared=self.shared)(params, batch)
            return (losses, None), grads
        gather = mtl.value_and_task_grads(
            self.losses_and_statistics, has_aux=True, shared=self.shared
        )
        return gather(params, batch, statistics)

    def _task_axes(self, params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: None if self.shared(path) else 0, params
        )


def single_task(problem: Problem) -> Problem:
    """The same problem with a network of its own for every task, stacked along a new axis."""

    def copies(leaf: Array) -> Array:
        return jnp.stack([leaf] * problem.num_tasks)

    def init_separate(key: PRNGKeyArray) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: copies(leaf) if problem.shared(path) else leaf, problem.init(key)
        )

    def init_joint(key: PRNGKeyArray) -> PyTree:
        return jax.tree.map(copies, problem.init(key))

    def own(params: PyTree, batch: PyTree, statistics: PyTree, training: bool) -> Any:
        def network(params: PyTree, statistics: PyTree) -> Any:
            return problem.run(params, batch, statistics, training=training)

        each = [jax.tree.map(lambda leaf, i=i: leaf[i], (params, statistics)) for i in tasks]
        if isinstance(jax.eval_shape(network, *each[0])[0], Mapping):
            # One by one, so that each leaves out what other tasks alone need.
            outputs, kept = zip(*(network(*one) for one in each), strict=True)
            own_outputs = {name: outputs[i][name] for i, name in enumerate(problem.tasks)}
            return own_outputs, jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
        outputs, statistics = jax.vmap(network)(params, statistics)
        return jnp.moveaxis(jnp.diagonal(outputs, axis1=0, axis2=2), -1, 1), statistics

    def own_outputs(params: PyTree, batch: PyTree) -> PyTree:
        return own(params, batch, None, training=True)[0]

    tasks = range(problem.num_tasks)
    joint = own_outputs if problem.statistics is None else own
    return replace(
        problem,
        init=init_separate if problem.separate else init_joint,
        shared=lambda path: False,
        task_of=None,
        statistics=jax.tree.map(copies, problem.statistics),
        forward=problem.forward if problem.separate else joint,
    )


def mean_present(values: Float[Array, " n"], batch: Any) -> Float[Array, ""]:
    """The mean over the rows of one task's data that are no padding."""
    return jnp.sum(values * batch.present) / jnp.maximum(jnp.sum(batch.present), 1)
