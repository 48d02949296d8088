"""Which leaves an argument chooses, by names, booleans or a predicate, of every kind of tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mtl_optax as mtl
from mtl_optax import _trees

T = 2


@jax.tree_util.register_pytree_with_keys_class
class Module:
    """A tree of attributes that can be called, as a module of Equinox is."""

    def __init__(self, trunk, heads):
        self.trunk, self.heads = trunk, heads

    def __call__(self, x):
        return [head(self.trunk(x)) for head in self.heads]

    def tree_flatten_with_keys(self):
        names = ("trunk", "heads")
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.trunk = nnx.Linear(2, 3, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(3, 1, rngs=rngs) for _ in range(T)])


LAYER = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
TREES = {
    "dict": {"trunk": LAYER, "heads": [jnp.ones(3)] * T},
    "attributes": Module(LAYER, [jnp.ones(3)] * T),
    "linen": {"params": {"trunk": LAYER, "heads": {"0": jnp.ones(3), "1": jnp.ones(3)}}},
    "haiku": {"trunk/~/linear_0": LAYER, "trunk_2": LAYER, "heads/0": LAYER, "heads/1": LAYER},
    "nnx": nnx.state(Model(nnx.Rngs(0)), nnx.Param),
}


def losses_of(params):
    total = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return jnp.stack([total, 2 * total])


def chosen(shared, params):
    """The leaves whose gradients are stacked over tasks, as text."""
    of = mtl.value_and_task_grads(losses_of, shared=shared)
    _, gradients = jax.eval_shape(of, params)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(params), strict=True
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, leaf), param in pairs
        if leaf.shape == (T, *param.shape)
    }


@pytest.mark.parametrize(
    ("kind", "names", "wanted"),
    [
        ("dict", "trunk", {"trunk/kernel", "trunk/bias"}),
        ("dict", "trunk/kernel", {"trunk/kernel"}),
        ("dict", ("trunk/bias", "heads/1"), {"trunk/bias", "heads/1"}),
        ("dict", ["trunk", "heads"], {"trunk/kernel", "trunk/bias", "heads/0", "heads/1"}),
        ("dict", {"heads/0"}, {"heads/0"}),
        ("attributes", "trunk", {"trunk/kernel", "trunk/bias"}),
        ("attributes", ["heads/0"], {"heads/0"}),
        ("linen", "trunk", {"params/trunk/kernel", "params/trunk/bias"}),
        ("linen", "params/trunk/bias", {"params/trunk/bias"}),
        ("linen", ("heads/1", "trunk/bias"), {"params/heads/1", "params/trunk/bias"}),
        ("haiku", "trunk", {"trunk/~/linear_0/kernel", "trunk/~/linear_0/bias"}),
        ("haiku", "trunk/~/linear_0/bias", {"trunk/~/linear_0/bias"}),
        ("haiku", "heads/0", {"heads/0/kernel", "heads/0/bias"}),
        ("nnx", "trunk/bias", {"trunk/bias/value"}),
        ("nnx", ("heads/0/bias", "heads/1/bias"), {"heads/0/bias/value", "heads/1/bias/value"}),
    ],
)
def test_names_choose_leaves_of_every_kind_of_tree(kind, names, wanted):
    assert chosen(names, TREES[kind]) == wanted


@pytest.mark.parametrize(
    ("kind", "names", "named", "meant"),
    [
        ("dict", "trun", "trun", "trunk"),
        ("dict", "kernel", "kernel", None),
        ("dict", ("trunk", "head"), "head", "heads"),
        ("dict", "trunk.kernel", "trunk.kernel", None),
        ("dict", "/trunk", "/trunk", "trunk"),
        ("dict", "", "", None),
        ("attributes", "heads/2", "heads/2", None),
        ("haiku", "trunk/linear_0", "trunk/linear_0", None),
        ("linen", "params/params/trunk", "params/params/trunk", "params/trunk"),
    ],
)
def test_a_name_that_names_no_leaf_is_an_error(kind, names, named, meant):
    message = f"value_and_task_grads: shared={named!r} names no leaf of params"
    with pytest.raises(ValueError, match=message) as caught:
        chosen(names, TREES[kind])
    if meant:
        assert f"Did you mean {meant!r}?" in str(caught.value)


PARAMS = {"trunk": {"kernel": jnp.ones((T, 3)), "bias": jnp.ones(T)}, "heads": jnp.ones((T, 3))}
KERNEL = {"trunk": {"kernel": True, "bias": False}, "heads": False}
ROWS = jax.tree.map(lambda p: jnp.stack([p, 3 * p]), PARAMS)
MIXED = {**PARAMS, "trunk": {**PARAMS["trunk"], "kernel": ROWS["trunk"]["kernel"]}}


def on_shared(shared):
    return mtl.on_shared(mtl.sum_tasks(T), shared)


def updated(tx, gradients):
    return tx.update(gradients, tx.init(PARAMS), PARAMS, task_losses=jnp.ones(T))


def graded(way, method, shared):
    step = way(losses_of, method, shared=shared, heads="unweighted")
    return step(PARAMS, method.init(PARAMS))


TAKE_NAMES = {
    "value_and_task_grads": lambda s: mtl.value_and_task_grads(losses_of, shared=s)(PARAMS),
    "per_task_value_and_grad": lambda s: mtl.per_task_value_and_grad(
        lambda p, x: x * losses_of(p)[0], shared=s
    )(PARAMS, jnp.ones(T)),
    "weighted_value_and_grad": lambda s: graded(mtl.weighted_value_and_grad, mtl.uw(T), s),
    "streamed_value_and_grad": lambda s: graded(mtl.streamed_value_and_grad, mtl.mgda(T), s),
    "on_shared": lambda s: updated(on_shared(s), MIXED),
    "accumulate_task_gradients": lambda s: updated(
        mtl.accumulate_task_gradients(T, 2, then=on_shared(s), shared=s), MIXED
    ),
    "gradnorm": lambda s: updated(mtl.gradnorm(T, norm_mask=s), ROWS),
}


@pytest.mark.parametrize("name", TAKE_NAMES)
def test_every_argument_that_chooses_leaves_takes_names(name):
    """The same program as for a tree of booleans, and another than for other leaves."""
    program = lambda shared: str(jax.make_jaxpr(lambda: TAKE_NAMES[name](shared))())
    assert program("trunk/kernel") == program(KERNEL)
    assert name in ("on_shared", "accumulate_task_gradients") or program("trunk") != program(KERNEL)
    argument = "norm_mask" if name == "gradnorm" else "shared"
    with pytest.raises(ValueError, match=f"{argument}='head' names no leaf .*mean 'heads'"):
        program("head")


def test_a_leaf_that_a_wrapper_hides_is_known_by_its_name():
    params = {"trunk": jnp.ones(2), "frozen": {"a": jnp.ones(3)}, "head": jnp.ones(2)}
    visible = {"trunk": True, "frozen": False, "head": True}
    tx = optax.masked(on_shared(("trunk", "frozen/a")), visible)
    updates, _ = tx.update({**params, "trunk": jnp.eye(2)}, tx.init(params), params)
    np.testing.assert_array_equal(updates["trunk"], [1, 1])
    with pytest.raises(ValueError, match="shared='froze' names no leaf"):
        optax.masked(on_shared(("trunk", "froze")), visible).init(params)


@pytest.mark.parametrize("true", [True, np.True_, jnp.array(True)], ids=["python", "numpy", "jax"])
def test_a_tree_of_booleans_that_can_be_called_is_a_tree(true):
    params = TREES["attributes"]
    assert callable(params)
    spec = Module({"kernel": true, "bias": False}, [False, False])
    assert chosen(spec, params) == {"trunk/kernel"}
    assert chosen(Module(true, False), params) == {"trunk/kernel", "trunk/bias"}
    with pytest.raises(ValueError, match="shared selects no leaf of params"):
        chosen(Module(False, False), params)
    with pytest.raises(ValueError, match="must be a tree of booleans with the structure of params"):
        chosen(Module({"kernel": true}, False), params)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Module(1, 0), r"shared\.trunk must be a boolean, .*got 1"),
        (TREES["attributes"], r"shared\.trunk\['bias'\] must be a boolean, .*got Array"),
        (Module("trunk", False), r"shared\.trunk must be a boolean, .*got 'trunk'"),
        (2, r"shared must be a boolean, .*got 2"),
        (["trunk", True], r"shared\[0\] must be a boolean, .*got 'trunk'"),
    ],
)
def test_what_is_no_boolean_is_named(wrong, named):
    with pytest.raises(TypeError, match=f"(?s)value_and_task_grads: {named}"):
        chosen(wrong, TREES["attributes"])


def test_a_boolean_is_known_while_tracing():
    spec = {"trunk": jnp.array(True), "heads": jnp.array(False)}
    with pytest.raises(
        TypeError, match=r"shared\['heads'\] must be a boolean, known while tracing"
    ):
        jax.eval_shape(lambda s: mtl.value_and_task_grads(losses_of, shared=s)(TREES["dict"]), spec)


def test_predicates_of_every_kind_are_called():
    """Of functions that are trees themselves, too: their leaves are no booleans."""

    def begins(word, path):
        return path[0].key.startswith(word.item(0))

    partial = jax.tree_util.Partial(begins, np.array("tru"))
    assert chosen(partial, TREES["dict"]) == {"trunk/kernel", "trunk/bias"}
    assert chosen(lambda path: len(path) == 2 and path[1].idx == 1, {"a": [jnp.ones(2)] * 2}) == {
        "a/1"
    }


def by_key(path):
    return path[0].key == "trunk"


def test_what_a_function_of_a_path_raises_names_it_and_the_path():
    wrapped = (
        r"shared, the function by_key, raised AttributeError \('GetAttrKey' .* at "
        r"params.trunk\['bias'\].*'trunk/bias' here"
    )
    with pytest.raises(ValueError, match=f"value_and_task_grads: {wrapped}"):
        chosen(by_key, TREES["attributes"])
    for layers_of in (
        lambda tree: mtl.layerwise_adatask(T, group=by_key).init(tree),
        lambda tree: mtl.dominance_by_layer(jax.tree.map(lambda p: p[None], tree), group=by_key),
    ):
        with pytest.raises(ValueError, match="group, the function by_key, raised AttributeError"):
            layers_of(TREES["attributes"])


def test_a_predicate_that_selects_nothing_is_told_of_names():
    with pytest.raises(ValueError, match=r'selects no leaf of params .*shared="trunk"'):
        chosen(by_key, TREES["haiku"])


def test_hidden_leaves_stay_hidden():
    tree = {"trunk": jnp.ones(2), "head": optax.MaskedNode()}
    assert _trees.shared_leaves("f", "trunk", tree) == {
        "trunk": True,
        "head": optax.MaskedNode(),
    }
