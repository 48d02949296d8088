"""Every public callable names itself, the argument, what it got and a hint, while tracing."""

import functools
import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import mtl_optax as mtl
from mtl_optax import adversarial, metrics
from tests.common import METHODS, inputs, make, step

T = 2
ONES = jnp.ones((T, 3))
INTEGERS = jnp.ones((T, 3), jnp.int32)
SGD = optax.sgd(0.1)
WITH_A_FUNCTION = {"kernel": ONES[0], "activation": jnp.tanh}
NO_ARRAY = (
    r"^{}: params\['activation'\] is no array but .*Differentiate the arrays alone: in Equinox"
)
STATE = mtl.mgda(T).init(ONES[0])
STATES = jax.tree.map(lambda x: jnp.stack([x, x]), STATE)
CASES: list[tuple[str, object, type[Exception], str]] = []


def row(name, call, error, message):
    """Adds a call of the public callable `name` that must raise `error` with `message`."""
    CASES.append((name, call, error, message))


def losses_of(params):
    return jnp.stack([jnp.sum(params), jnp.sum(params**2)])


def marked(params):
    return losses_of(mtl.mark_features(params))


def updated(tx, gradients=ONES, params=None, **extra):
    return tx.update(gradients, tx.init(jnp.zeros(3)), params, **extra)


# fmt: off
# One row, one line. Every method: what `tests/every_method/test_contract.py` holds for stacks, losses and masks is not repeated.
for _name in METHODS:
    _info = mtl.method_info(_name)

    def _made(num_tasks=T, _info=_info, **options):
        return _info.factory(num_tasks, **{**_info.arguments(T), **options})

    row(_name, lambda made=_made: made().init(WITH_A_FUNCTION), TypeError, NO_ARRAY.format(_name))
    row(_name, lambda made=_made: made("2"), TypeError, r"num_tasks must be a Python int, got '2'.*static_args")
    for _parameter in inspect.signature(_info.factory).parameters.values():
        _option, _default = _parameter.name, _parameter.default
        if isinstance(_default, float):
            for _bad, _error, _said in (
                ("1", TypeError, "must be a real number, got '1'"),
                (-1.0, ValueError, r"must lie in .*, got -1\.0"),
                (float("nan"), ValueError, r"must lie in .*, got nan"),
                (float("inf"), ValueError, r"must lie in .*, got inf"),
            ):
                row(_name, lambda made=_made, option=_option, bad=_bad: made(**{option: bad}), _error, rf"^{_name}: {_option} {_said}")
        elif isinstance(_default, str):
            row(_name, lambda made=_made, option=_option: made(**{option: "?"}), ValueError, rf"^{_name}: {_option} must be one of .*got '\?'")
        elif _option in ("optimizer", "transformation"):
            row(_name, lambda made=_made, option=_option: made(**{option: optax.adam}), TypeError, rf"^{_name}: {_option} must be an optax.GradientTransformation such as optax.adam\(1e-3\), got <fun")
        elif _option == "key":
            row(_name, lambda made=_made: made(key=True), TypeError, rf"^{_name}: key must be an int seed or a typed key.*got True")
            row(_name, lambda made=_made: made(key="seed"), TypeError, rf"^{_name}: key must be an int seed or a typed key from jax.random.key\(seed\), got 'seed'")
for _name, _count, _made in (
    ("dwa", "steps_per_epoch", lambda n: mtl.dwa(T, steps_per_epoch=n)),
    ("every", "k", lambda n: mtl.every(mtl.mgda(T), n)),
):
    row(_name, lambda of=_made: of(1.5), TypeError, f"^{_name}: {_count} must be an integer, got 1.5")
    row(_name, lambda of=_made: of(True), TypeError, f"^{_name}: {_count} must be an integer, got True")
    row(_name, lambda of=_made: of(0), ValueError, f"^{_name}: {_count} must be at least 1, got 0")
for _name, _around in (("every", lambda of: mtl.every(of, 2)), ("momentum", mtl.momentum), ("by_group", mtl.by_group)):
    row(_name, lambda around=_around: around(SGD), TypeError, rf"^{_name}: method must be a method made from a weighting, such as mtl_optax.cagrad\(num_tasks\).*got Grad")
row("momentum", lambda: mtl.momentum(mtl.mgda(T), decay=1.5), ValueError, r"^momentum: decay must lie in \[0, 1\], got 1.5")
row("by_group", lambda: mtl.by_group(mtl.mgda(T), "layers"), ValueError, "^by_group: group must be one of 'leaf', 'layer', or a function.*got 'layers'")
row("by_group", lambda: mtl.by_group(mtl.gradnorm(T, norm_mask="a")), ValueError, "^gradnorm: group and norm_mask both choose the leaves")
row("nash_mtl", lambda: mtl.nash_mtl(T, max_norm=0.0), ValueError, r"^nash_mtl: max_norm must lie in \(0, inf\), got 0.0")
row("tchebycheff", lambda: mtl.tchebycheff(T, weights=[1.0]), ValueError, r"^tchebycheff: weights has shape \(1,\), wanted \(2,\): one number per task")
row("tchebycheff", lambda: mtl.tchebycheff(T, weights=[1.0, 0.0]), ValueError, r"^tchebycheff: weights must be positive, got \[1.0, 0.0\]")
row("tchebycheff", lambda: mtl.tchebycheff(T, weights=[1.0, -1.0]), ValueError, r"^tchebycheff: weights must be positive, got \[1.0, -1.0\]")
row("tchebycheff", lambda: mtl.tchebycheff(T, reference=[0.0, float("inf")]), ValueError, "^tchebycheff: reference must be finite, got")
row("tchebycheff", lambda: mtl.tchebycheff(T, reference="ab"), TypeError, "^tchebycheff: reference must hold 2 real numbers, got 'ab'")
row("tchebycheff", lambda: mtl.tchebycheff(T, smooth=0.0), ValueError, r"^tchebycheff: smooth must lie in \(0, inf\), got 0.0")
row("pareto_mtl", lambda: mtl.pareto_mtl(T, [[1.0, -1.0]], 0), ValueError, r"^pareto_mtl: preferences\[0\] must be finite, non-negative and not all zero, got \[1.0, -1.0\]")
row("pareto_mtl", lambda: mtl.pareto_mtl(T, [[1.0], [1.0, 2.0]], 0), TypeError, r"^pareto_mtl: preferences must be a \(K, 2\) table of numbers, got \[\[1.0\], ")
row("pareto_mtl", lambda: mtl.pareto_mtl(T, [1.0, 1.0], 0), ValueError, r"^pareto_mtl: preferences has shape \(2,\), wanted \(K, 2\): one row per")
row("pareto_mtl", lambda: mtl.pareto_mtl(T, [[1.0, 1.0]], "0"), TypeError, "^pareto_mtl: index must be an integer, got '0'")
row("pareto_mtl", lambda: mtl.pareto_mtl(T, [[1.0, 1.0]], 1), ValueError, "^pareto_mtl: index must name one of the 1 rows of preferences, 0 to 0, got 1")
row("emtl", lambda: mtl.emtl(T, base=SGD), TypeError, r"^emtl: base must be a method made from a weighting, such as mtl_optax.cagrad\(num_tasks\).*got Grad")
row("emtl", lambda: mtl.emtl(T, base=mtl.mgda(3)), ValueError, "^emtl: base mgda was made for 3 tasks, wanted 2")
row("gradnorm", lambda: updated(mtl.gradnorm(T, norm_mask=False), task_losses=jnp.ones(T)), ValueError, r"^gradnorm: norm_mask selects no leaf of params")
row("layerwise_adatask", lambda: mtl.layerwise_adatask(T, group="layers"), ValueError, "^layerwise_adatask: group must be one of 'leaf', 'layer', or a function.*got 'layers'")
row("meta_weighting", lambda: updated(mtl.meta_weighting(T)), ValueError, r"^meta_weighting: query_gradients is missing.*query_gradients=")
row("meta_weighting", lambda: updated(mtl.meta_weighting(T), query_gradients=ONES[0]), ValueError, r"^meta_weighting: query_gradients has shape \(3,\), wanted \(2, 3\).*stack")

# Task gradients from loss functions.
for _name in ("value_and_task_grads", "per_task_value_and_grad"):
    _of = getattr(mtl, _name)
    row(_name, lambda of=_of: of(3), TypeError, f"^{_name}: fun must be a function, got 3")
    row(_name, lambda of=_of: of(losses_of, argnums="params"), TypeError, f"^{_name}: argnums must be an int or several, got 'params'")
    row(_name, lambda of=_of: of(losses_of, argnums=3)(ONES), ValueError, f"^{_name}: argnums=3 asks for an argument beyond the 1 .*Pass it by position")
    row(_name, lambda of=_of: of(losses_of)(INTEGERS), TypeError, f"^{_name}: params has dtype int32; gradients need floating or complex")
    row(_name, lambda of=_of: of(losses_of)({"w": ONES, "act": [len]}), TypeError, rf"^{_name}: params\['act'\]\[0\] is no array but builtin_function.*eqx.partition")
    row(_name, lambda of=_of: of(losses_of)({}), ValueError, rf"^{_name}: params has no array leaves to differentiate, got {{}}")
    row(_name, lambda of=_of: of(losses_of, shared={"b": True})({"a": ONES}), ValueError, f"^{_name}: shared must be a tree of booleans with the structure of params")
row("nnx_value_and_task_grads", lambda: mtl.nnx_value_and_task_grads(losses_of)({"w": ONES}), ValueError, r"^nnx_value_and_task_grads: model must be an nnx.Module .*Param.*, got dict\. For a plain tree .* use value_and_task_grads")
row("nnx_value_and_task_grads", lambda: mtl.nnx_value_and_task_grads(3), TypeError, "^nnx_value_and_task_grads: fun must be a function, got 3")
row("value_and_task_grads", lambda: mtl.value_and_task_grads(jnp.sum)(ONES), ValueError, r"^value_and_task_grads: the function must return one loss per task, .*got shape \(\).*jnp.stack")
row("value_and_task_grads", lambda: mtl.value_and_task_grads(lambda p: p[:0, 0])(ONES), ValueError, r"^value_and_task_grads: the function must return one loss per task, .*got shape \(0,\)")
row("value_and_task_grads", lambda: mtl.value_and_task_grads(lambda p: [p, p])(1.0), TypeError, "^value_and_task_grads: the function must return an array .*got list.*jnp.stack")
row("value_and_task_grads", lambda: mtl.value_and_task_grads(losses_of, has_aux=True)(ONES), TypeError, r"^value_and_task_grads: with has_aux=True the function must return the pair \(losses, aux\)")
row("per_task_value_and_grad", lambda: mtl.per_task_value_and_grad(lambda w, b: w * b)(ONES[0], ONES), ValueError, r"^per_task_value_and_grad: the function must return one real scalar.*shape \(3,\).*jnp.mean")
row("per_task_value_and_grad", lambda: mtl.per_task_value_and_grad(lambda w, b: jnp.sum(w * b), has_aux=True)(ONES[0], ONES), TypeError, r"^per_task_value_and_grad: with has_aux=True the function must return the pair")
row("per_task_value_and_grad", lambda: mtl.per_task_value_and_grad(lambda w, b: jnp.sum(w * b))(ONES[0], 1.0), ValueError, "^per_task_value_and_grad: argument 1 is a scalar; every task batch must be stacked")

row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(3, 0.1), TypeError, "^sam_value_and_task_grads: fun must be a function, got 3")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, -0.1), ValueError, r"^sam_value_and_task_grads: rho must lie in \[0, inf\), got -0.1")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, beta=1.5, key=0), ValueError, r"^sam_value_and_task_grads: beta must lie in \[0, 1\], got 1.5")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, beta=0.5), ValueError, "^sam_value_and_task_grads: key is missing, and beta draws directions.*fold_in")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, key=0), ValueError, "^sam_value_and_task_grads: key only means something with beta")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, beta=0.5, key="seed"), TypeError, "^sam_value_and_task_grads: key must be an int seed or a typed key.*got 'seed'")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, argnums="params"), TypeError, "^sam_value_and_task_grads: argnums must be an int or several, got 'params'")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1)(INTEGERS), TypeError, "^sam_value_and_task_grads: params has dtype int32; gradients need floating or complex")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(jnp.sum, 0.1)(ONES), ValueError, r"^sam_value_and_task_grads: the function must return one loss per task, .*got shape \(\).*jnp.stack")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, has_aux=True)(ONES), TypeError, r"^sam_value_and_task_grads: with has_aux=True the function must return the pair \(losses, aux\)")
row("sam_value_and_task_grads", lambda: mtl.sam_value_and_task_grads(losses_of, 0.1, shared={"b": True})({"a": ONES}), ValueError, "^sam_value_and_task_grads: shared must be a tree of booleans with the structure of params")

# Task gradients that are not stacked.
for _name in ("value_and_task_grads", "per_task_value_and_grad", "nnx_value_and_task_grads"):
    _of = getattr(mtl, _name)
    row(_name, lambda of=_of: of(losses_of, stacked=0), TypeError, f"^{_name}: stacked must be True or False, got 0")
    row(_name, lambda of=_of: of(losses_of, stacked=False, way="tap"), ValueError, f"^{_name}: way must be one of 'taps', 'rows'.*got 'tap'. Did you mean 'taps'")
    row(_name, lambda of=_of: of(losses_of, way="rows"), ValueError, f"^{_name}: way='rows' needs stacked=False")
row("per_task_value_and_grad", lambda: mtl.per_task_value_and_grad(losses_of, stacked=False, way="features"), ValueError, "^per_task_value_and_grad: way must be one of 'taps', 'rows', got 'features'")
for _way in ("taps", "rows", "features"):
    def _gather(fun, way=_way, **options):
        return mtl.value_and_task_grads(fun, stacked=False, way=way, **options)

    row("value_and_task_grads", lambda of=_gather: of(3), TypeError, "^value_and_task_grads: fun must be a function, got 3")
    row("value_and_task_grads", lambda of=_gather: of(losses_of)(INTEGERS), TypeError, "^value_and_task_grads: params has dtype int32")
    row("value_and_task_grads", lambda of=_gather: of(jnp.sum)(ONES), ValueError, r"^value_and_task_grads: the function must return one loss per task, .*got shape \(\)")
    row("sum_tasks", lambda of=_gather: updated(mtl.sum_tasks(3), of(marked)(ONES[0])[1]), ValueError, "^sum_tasks: task_gradients are of 2 tasks, wanted num_tasks=3")
    row("mgda", lambda of=_gather: updated(mtl.mgda(T), of(marked)(ONES[0])[1], jnp.ones(4)), ValueError, r"^mgda: .*shape \(3,\).*\(4,\)")
    row("mgda", lambda of=_gather: updated(mtl.mgda(T), of(lambda p: marked(p["a"]) * p["b"], shared="a")({"a": ONES[0], "b": 1.0})[1]), ValueError, "^mgda: task_gradients hold gradients of heads.*mtl_optax.on_shared")
    row("TaskGradients", lambda of=_gather: optax.adam(0.1).update(of(marked)(ONES[0])[1], optax.adam(0.1).init(ONES[0])), TypeError, r"^TaskGradients.*is no array.*takes gradients.stack\(\)")
    row("TaskGradients", lambda of=_gather: of(marked)(ONES[0])[1].combine(jnp.ones(3)), ValueError, r"^TaskGradients.combine: weights has shape \(3,\), wanted \(2,\)")
    row("TaskGradients", lambda of=_gather: of(marked)(ONES[0])[1].gram(jnp.ones(T)), TypeError, "^TaskGradients: mask must be a boolean array")
row("mark_features", lambda: mtl.mark_features({"z": jnp.arange(3)}), TypeError, r"^mark_features: features\['z'\] .*int32")
row("mark_features", lambda: mtl.value_and_task_grads(losses_of, stacked=False, way="features")(ONES), ValueError, r'^value_and_task_grads: way="features" found no mark. Pass the features through mtl_optax.mark_features')
row("mark_features", lambda: mtl.value_and_task_grads(lambda p: jax.lax.cond(p[0] > 0, marked, losses_of, p), stacked=False, way="features")(ONES[0]), ValueError, "^value_and_task_grads: mtl_optax.mark_features stands inside 'cond', which runs whole")
row("mark_features", lambda: updated(mtl.gradnorm(T, norm_mask=True), mtl.value_and_task_grads(marked, stacked=False, way="features")(ONES[0])[1]), ValueError, "norms are taken at the features.*Leave it out")

# Around a method.
row("per_task", lambda: mtl.per_task(T, optax.adam), TypeError, r"^per_task: transformation must be an optax.GradientTransformation such as optax.adam\(1e-3\), got <fun")
row("per_task", lambda: updated(mtl.per_task(3, SGD)), ValueError, r"^per_task: task_gradients has shape \(2, 3\), wanted a leading axis of num_tasks=3")
row("skip_nonfinite", lambda: mtl.skip_nonfinite("mgda"), TypeError, "^skip_nonfinite: method must be an optax.GradientTransformation.*got 'mgda'")
row("skip_nonfinite", lambda: mtl.skip_nonfinite(mtl.mgda(T), policy="drop_tasks"), ValueError, "^skip_nonfinite: policy must be one of .*Did you mean 'drop_task'")
row("skip_nonfinite", lambda: mtl.skip_nonfinite(mtl.mgda(T), max_consecutive=0), ValueError, "^skip_nonfinite: max_consecutive must be at least 1, got 0")
row("skip_nonfinite", lambda: mtl.skip_nonfinite(optax.adam(0.1)).init(ONES), TypeError, "^skip_nonfinite: method must be .*optax.apply_if_finite")
row("accumulate_task_gradients", lambda: mtl.accumulate_task_gradients(T, 2, then=mtl.mgda(T)).init(WITH_A_FUNCTION), TypeError, NO_ARRAY.format("accumulate_task_gradients"))
row("imtl", lambda: mtl.imtl("2", clip=-1.0), TypeError, "^imtl: num_tasks must be a Python int")
row("tchebycheff", lambda: mtl.tchebycheff("2", weights=[1.0, 2.0]), TypeError, "^tchebycheff: num_tasks must be a Python int")
row("accumulate_task_gradients", lambda: mtl.accumulate_task_gradients(2.0, 2, then=SGD), TypeError, "^accumulate_task_gradients: num_tasks must be a Python int, got 2.0")
row("accumulate_task_gradients", lambda: mtl.accumulate_task_gradients(T, 0, then=SGD), ValueError, "^accumulate_task_gradients: every_k must be at least 1, got 0")
row("accumulate_task_gradients", lambda: mtl.accumulate_task_gradients(T, 2), TypeError, "^accumulate_task_gradients: then is missing.*then=optax.chain")
row("accumulate_task_gradients", lambda: mtl.accumulate_task_gradients(T, 2, then=0.1), TypeError, "^accumulate_task_gradients: then must be an optax.GradientTransformation.*got 0.1")
row("on_shared", lambda: mtl.on_shared("mgda", True), TypeError, "^on_shared: method must be an optax.GradientTransformation.*got 'mgda'")
row("on_shared", lambda: mtl.on_shared(mtl.mgda(T), True, heads="weigthed"), ValueError, "^on_shared: heads must be one of .*got 'weigthed'. Did you mean 'weighted'")
row("on_shared", lambda: mtl.on_shared(mtl.mgda(T), {"a": False}).init({"a": ONES}), ValueError, r"^on_shared: shared selects no leaf of params \(params\['a'\]\).*jax.tree_util.keystr")
row("on_shared", lambda: mtl.on_shared(mtl.graddrop(T), {"a": True, "b": False}, heads="weighted").init({"a": ONES, "b": ONES}), ValueError, '^on_shared: heads="weighted" needs a method that weights tasks.*Use heads="unweighted"')

row("task_ema", lambda: mtl.task_ema("2", 0.9), TypeError, "^task_ema: num_tasks must be a Python int, got '2'")
row("task_ema", lambda: mtl.task_ema(T, 1.0), ValueError, r"^task_ema: decay must lie in \[0, 1\), got 1.0")
row("task_ema", lambda: mtl.task_ema(T, "0.9"), TypeError, "^task_ema: decay must be a real number, got '0.9'")
row("task_ema", lambda: mtl.task_ema(T, 0.9, start="debias"), ValueError, "^task_ema: start must be one of 'zero', 'first', 'debiased', got 'debias'. Did you mean 'debiased'")
row("task_ema", lambda: mtl.task_ema(T, 0.9).init(WITH_A_FUNCTION), TypeError, NO_ARRAY.format("task_ema"))
row("task_ema", lambda: updated(mtl.task_ema(3, 0.9)), ValueError, r"^task_ema: task_gradients has shape \(2, 3\), wanted a leading axis of num_tasks=3")
row("check_updates", lambda: mtl.check_updates(optax.adam), TypeError, r"^check_updates: transformation must be an optax.GradientTransformation such as optax.adam\(1e-3\), got <fun")
row("check_updates", lambda: updated(mtl.check_updates(mtl.mgda(T))), ValueError, r"^check_updates: params is missing, .*Call tx.update\(task_gradients, state, params\)")
row("check_updates", lambda: updated(mtl.check_updates(SGD), params=ONES[0]), ValueError, r"^check_updates: updates has shape \(2, 3\), wanted that of its parameter, \(3,\)\. .*grow.*optax.chain\(optax.freeze\(mask\), method, optimizer\)")
row("check_updates", lambda: updated(mtl.check_updates(SGD), {"a": ONES[0]}, {"a": ONES[0], "b": ONES[0]}), ValueError, r"^check_updates: updates and params must have the same tree structure, .*Only one of them has params\['b'\]\.")
row("check_updates", lambda: updated(mtl.check_updates(SGD), ONES[:, :1], ONES), ValueError, r"^check_updates: updates has shape \(2, 1\), wanted that of its parameter, \(2, 3\)\.(?! Added)")

# Diagnostics.
row("conflict", lambda: mtl.conflict([[1.0, 0.0]]), TypeError, "^conflict: gram must be an array, got list .*jnp.asarray")
row("conflict", lambda: mtl.conflict(ONES), ValueError, r"^conflict: gram has shape \(2, 3\), wanted \(T, T\). Get it from mtl_optax.gram")
row("conflict", lambda: mtl.conflict(jnp.eye(2), jnp.ones(3, bool)), ValueError, r"^conflict: mask has shape \(3,\), wanted \(2,\)")
row("conflict", lambda: mtl.conflict(jnp.eye(2), jnp.ones(2)), TypeError, r"^conflict: mask must be a boolean array of shape \(2,\), True for a task that is present, got")
row("mgda", lambda: mtl.mgda(T).update({"a": ONES, "b": ONES[0]}, STATE, {"a": ONES[0], "b": ONES[0]}), ValueError, r"^mgda: task_gradients\['b'\] has shape \(3,\), wanted \(2, 3\): one.*mtl_optax.on_shared\(method, shared\)")
row("scalars", lambda: jax.jit(lambda s: mtl.scalars(s))(STATE), TypeError, "^scalars: state is being traced. Return the state from the compiled step")
row("scalars", lambda: mtl.scalars(STATES), ValueError, r"^scalars: state has weights of shape \(2, 2\), wanted 1 axes. Of several runs")
row("scalars", lambda: mtl.scalars(STATE, tasks=["depth"]), ValueError, r"^scalars: tasks has 1 names, but state has weights of 2 tasks. Give one name for each")
row("task_weights", lambda: mtl.task_weights(()), ValueError, r"^task_weights: state holds no task weights, got \(\)")
row("scalars", lambda: mtl.scalars(STATE, tasks=["a", "b", "c"]), ValueError, r"^scalars: tasks has 3 names, but state has weights of 2 tasks")
row("task_weights", lambda: mtl.task_weights(optax.adam(0.1).init(ONES)), ValueError, r"^task_weights: state holds no task weights, got \['ScaleByAdamState'.*has_task_weights")
row("task_weights", lambda: mtl.task_weights(STATE, "mgda"), TypeError, "^task_weights: which must be an int, .*got 'mgda'")
row("task_weights", lambda: mtl.task_weights(STATE, which=1), ValueError, "^task_weights: which=1 asks for a method beyond the 1 in state")
row("track_conflict", lambda: updated(mtl.track_conflict(3)), ValueError, r"^track_conflict: task_gradients has shape \(2, 3\), wanted a leading axis of num_tasks=3.*stack")
row("track_dominance", lambda: mtl.track_dominance(T, decay=1.0), ValueError, r"^track_dominance: decay must lie in \[0, 1\), got 1.0")
row("split_step", lambda: mtl.split_step(T, optax.adam), TypeError, "^split_step: optimizer must be an optax.GradientTransformation")
row("split_step", lambda: mtl.split_step(T, SGD, momentum=2.0), ValueError, r"^split_step: momentum must lie in \[0, 1\), got 2.0")
for _name in ("dominance_ratio", "dominance_histogram", "dominance_by_layer"):
    _of = getattr(mtl, _name)
    row(_name, lambda of=_of: of({}), ValueError, rf"^{_name}: squares must have leaves of shape \(T, \*p.shape\), got {{}}")
    row(_name, lambda of=_of: of([[1.0, 2.0]]), ValueError, rf"^{_name}: squares must have leaves of shape \(T, ")
    row(_name, lambda of=_of: of(INTEGERS), TypeError, f"^{_name}: squares must have a floating dtype, got int32. Convert")
    row(_name, lambda of=_of: of({"a": ONES, "b": ONES[:1]}), ValueError, rf"^{_name}: squares\['b'\] has shape \(1, 3\), wanted a leading axis of num_tasks=2")
for _name in ("dominance_histogram", "dominance_by_layer"):
    row(_name, lambda n=_name: getattr(mtl, n)(ONES, buckets=2.5), ValueError, f"^{_name}: buckets must be an int of at least 1, got 2.5")
row("dominance_by_layer", lambda: mtl.dominance_by_layer(ONES, group="a"), ValueError, "^dominance_by_layer: group must be one of 'leaf', 'layer', or a function.*got 'a'")

# Figures.
for _name in ("delta_m", "delta_p"):
    _of = getattr(metrics, _name)
    row(f"metrics.{_name}", lambda of=_of: of(["high"], [1.0], [True]), TypeError, rf"^{_name}: metrics must hold real numbers, got \['high'\]")
    row(f"metrics.{_name}", lambda of=_of: of([1.0], None, [True]), TypeError, f"^{_name}: baseline must hold real numbers, got None")
    row(f"metrics.{_name}", lambda of=_of: of(1.0, 1.0, True), ValueError, rf"^{_name}: metrics has shape \(\), wanted at least one number")
    row(f"metrics.{_name}", lambda of=_of: of([1.0, 2.0], [1.0], [True, False]), ValueError, rf"^{_name}: metrics \(2,\), baseline \(1,\) and higher_is_better \(2,\) must agree")
    row(f"metrics.{_name}", lambda of=_of: of(jnp.ones((2, 1)), jnp.ones((4, 1)), [True]), ValueError, rf"^{_name}: metrics \(2, 1\) and baseline \(4, 1\) must agree in the leading")
    row(f"metrics.{_name}", lambda of=_of: of([1.0], [1.0], [1]), TypeError, rf"^{_name}: higher_is_better must hold booleans, one for each metric, got \[1\]")
row("metrics.delta_p", lambda: metrics.delta_p([1.0, 2.0], [1.0, 2.0], [True, True], ["a", "b"]), ValueError, r"^delta_p: tasks must hold an int for each of the 2 metrics.*got \['a', 'b'\]")
row("metrics.delta_p", lambda: metrics.delta_p([1.0, 2.0], [1.0, 2.0], [True, True], [0]), ValueError, r"^delta_p: tasks must hold an int for each of the 2 metrics.*got \[0\]")
row("metrics.task_variance", lambda: metrics.task_variance([]), ValueError, r"^task_variance: losses has shape \(0,\), wanted at least one number")
row("metrics.task_variance", lambda: metrics.task_variance("ab"), TypeError, "^task_variance: losses must hold real numbers, got 'ab'")
row("metrics.confusion_matrix", lambda: metrics.confusion_matrix([1], [1], 2.5), ValueError, "^confusion_matrix: num_classes must be an int of at least 1, got 2.5")
row("metrics.confusion_matrix", lambda: metrics.confusion_matrix([1.0], [1], 2), TypeError, "^confusion_matrix: predicted must hold integers, got float32")
row("metrics.confusion_matrix", lambda: metrics.confusion_matrix([1], [1, 0], 2), ValueError, r"^confusion_matrix: predicted has shape \(1,\) and labels \(2,\), wanted the same")
for _name in ("mean_iou", "pixel_accuracy"):
    row(f"metrics.{_name}", lambda n=_name: getattr(metrics, n)(jnp.ones((2, 3))), ValueError, rf"^{_name}: confusion has shape \(2, 3\), wanted \(C, C\)")
row("metrics.mean_iou", lambda: metrics.mean_iou(jnp.ones((2, 2)), absent="zero"), ValueError, "^mean_iou: absent must be 'skip' or 'nan', got 'zero'")
row("metrics.depth_errors", lambda: metrics.depth_errors([1.0], [1.0, 2.0]), ValueError, r"^depth_errors: predicted has shape \(1,\) and depth \(2,\), wanted the same")
row("metrics.depth_errors", lambda: metrics.depth_errors("far", [1.0]), TypeError, "^depth_errors: predicted must hold real numbers, got 'far'")
row("metrics.normal_errors", lambda: metrics.normal_errors(jnp.ones((3, 4, 5)), jnp.ones((3, 4, 5))), ValueError, r"^normal_errors: normals has shape \(3, 4, 5\), wanted \(..., 3\).*moveaxis")
row("metrics.normal_errors", lambda: metrics.normal_errors(jnp.ones(3), jnp.ones(3), undefined="nan"), ValueError, "^normal_errors: undefined must be 'zero' or 'zero_sum', got 'nan'")
for _name, _more in (("auc", ()), ("user_auc", ([1, 1],))):
    _of = functools.partial(lambda name, more, *given: getattr(metrics, name)(*given, *more), _name, _more)
    row(f"metrics.{_name}", lambda of=_of: of(jnp.ones((2, 1)), [1, 0]), ValueError, rf"^{_name}: scores has shape \(2, 1\), wanted \(n,\)")
    row(f"metrics.{_name}", lambda of=_of: of([0.1, 0.2], [1]), ValueError, rf"^{_name}: scores has shape \(2,\) and labels \(1,\), wanted the same")
row("metrics.user_auc", lambda: metrics.user_auc([0.1, 0.2], [1, 0], [1]), ValueError, r"^user_auc: scores has shape \(2,\) and users \(1,\), wanted the same")
row("metrics.user_auc", lambda: metrics.user_auc([0.1], [1], [0.5]), TypeError, "^user_auc: users must hold integers, got float32")
row("metrics.weighted_auc", lambda: metrics.weighted_auc({"like": 0.5}, "tiktok"), ValueError, r"^weighted_auc: areas has the tasks \['like'\], but weights has \['finish', 'like'\]")
row("metrics.weighted_auc", lambda: metrics.weighted_auc({"like": 0.5}, "tik"), ValueError, "^weighted_auc: weights must be one of 'tiktok', .*got 'tik'")

# Adversarial parts.
row("adversarial.gradient_reversal", lambda: adversarial.gradient_reversal(1.0, "1"), TypeError, "^gradient_reversal: strength must be a real number, got '1'")
row("adversarial.gradient_reversal", lambda: adversarial.gradient_reversal(1.0, jnp.ones(2)), ValueError, r"^gradient_reversal: strength must be a scalar, got shape \(2,\).*jax.vmap")
row("adversarial.gated_reversal", lambda: adversarial.gated_reversal(1.0, jnp.ones(2), 1.0), ValueError, r"^gated_reversal: loss must be a scalar, got shape \(2,\).*jax.vmap")
row("adversarial.gated_reversal", lambda: adversarial.gated_reversal(1.0, jnp.ones(()), None), TypeError, "^gated_reversal: threshold must be a real number, got None")
row("adversarial.gated_reversal", lambda: adversarial.gated_reversal(1.0, 1.0, 1.0, gate="abov"), ValueError, "^gated_reversal: gate must be one of .*got 'abov'. Did you mean 'above'")
row("adversarial.orthogonality_penalty", lambda: adversarial.orthogonality_penalty([[1.0]], ONES), TypeError, "^orthogonality_penalty: shared must be an array, got list")
row("adversarial.orthogonality_penalty", lambda: adversarial.orthogonality_penalty(ONES, INTEGERS), TypeError, "^orthogonality_penalty: private must have a floating dtype, got int32")
row("adversarial.orthogonality_penalty", lambda: adversarial.orthogonality_penalty(ONES, ONES[:1]), ValueError, r"^orthogonality_penalty: shared and private must be .*got shapes \(2, 3\) and \(1, 3\)")
row("adversarial.orthogonality_penalty", lambda: adversarial.orthogonality_penalty(ONES, ONES, reduction="men"), ValueError, "^orthogonality_penalty: reduction must be one of .*got 'men'. Did you mean 'mean'")
row("adversarial.task_discriminator_loss", lambda: adversarial.task_discriminator_loss([[1.0]], jnp.zeros(1, int)), TypeError, "^task_discriminator_loss: logits must be an array, got list")
row("adversarial.task_discriminator_loss", lambda: adversarial.task_discriminator_loss(ONES, [0, 1]), TypeError, r"^task_discriminator_loss: tasks must be an array of integers, got \[0, 1\]")
row("adversarial.task_discriminator_loss", lambda: adversarial.task_discriminator_loss(ONES, jnp.zeros(3, int)), ValueError, r"^task_discriminator_loss: tasks has shape \(3,\), wanted \(2,\)")
row("adversarial.task_discriminator_loss", lambda: adversarial.task_discriminator_loss(ONES, jnp.ones(2, jnp.float32)), TypeError, "^task_discriminator_loss: tasks must be integers, got float32.*jnp.argmax")
row("adversarial.task_discriminator_loss", lambda: adversarial.task_discriminator_loss(ONES, jnp.zeros(2, int), where=jnp.ones(2)), ValueError, r"^task_discriminator_loss: where must be a boolean array of shape \(2,\), .*got")

# The registry, and methods of one's own.
row("get", lambda: mtl.get("mdga", T), ValueError, "no method 'mdga'. Did you mean 'mgda'")
row("get", lambda: mtl.get("cagrad", T, C=0.1), ValueError, "^cagrad has no hyper-parameter 'C'.*It takes: c, rescale, combine")
row("get", lambda: mtl.get("adatask", T, SGD, SGD), TypeError, r"^adatask: too many positional arguments. It is adatask\(num_tasks")
row("method_info", lambda: mtl.method_info(["mgda"]), ValueError, r"no method \['mgda'\].*Methods: sum_tasks")
row("gram", lambda: mtl.gram({}), ValueError, r"^gram: task_gradients must have leaves of shape \(T, .*got {}.*stack")
row("gram", lambda: mtl.gram(INTEGERS), TypeError, "^gram: task_gradients must have a floating dtype, got int32")
row("conflict", lambda: mtl.conflict(ONES[:, :2] + 0j), TypeError, "^conflict: gram must have a real floating dtype, got complex64. Take jnp.real of it")
row("gram", lambda: mtl.gram({"a": ONES, "b": ONES[:1]}), ValueError, r"^gram: task_gradients\['b'\] has shape \(1, 3\), wanted a leading axis of num_tasks=2")
row("combine", lambda: mtl.combine(jnp.ones(3), ONES), ValueError, r"^combine: weights has shape \(3,\), wanted \(2,\): one for each row of task_gradients")
row("combine", lambda: mtl.combine([1.0, 2.0], ONES), TypeError, "^combine: weights must be an array, got list .*jnp.asarray")
row("combine", lambda: mtl.combine(jnp.ones(()), ONES), ValueError, r"^combine: weights has shape \(\), wanted \(2,\)")
row("from_weighting", lambda: mtl.from_weighting(3), TypeError, "^from_weighting: weighting must be a Weighting, such as mtl_optax.stateless makes.*got 3")
row("from_weighting", lambda: mtl.from_weighting(mtl.stateless("mine", T, frozenset({"gramm"}), len)), ValueError, r"^mine: reads must be a subset of \['cross', 'gram', 'losses', 'next_losses', 'norms'\], got \['gramm'\]")
row("from_weighting", lambda: updated(mtl.from_weighting(mtl.stateless("mine", T, frozenset(), lambda e: jnp.ones(3)))), ValueError, r"^mine: the weighting returned shape \(3,\), wanted weights \(2,\)")
for _bad in (lambda e, s: jnp.ones(T), lambda e, s: [jnp.ones(T), s]):
    row("from_weighting", lambda of=_bad: updated(mtl.from_weighting(mtl.Weighting("mine", T, frozenset(), optax.EmptyState, of))), TypeError, r"^mine: the update of a weighting must return the pair \(weights, state\), got .*stateless")
for _bad in (lambda e: (jnp.ones(T), 3), lambda e: None):
    row("from_weighting", lambda of=_bad: updated(mtl.from_weighting(mtl.stateless("mine", T, frozenset(), of))), TypeError, "^mine: what the weighting returned must be an array, got")
for _entry, _read in (("gram", "gram"), ("scale", "gram"), ("losses", "losses"), ("norms", "norms")):
    row("stateless", lambda e=_entry: updated(mtl.from_weighting(mtl.stateless("mine", T, frozenset(), lambda seen: getattr(seen, e)))), ValueError, rf"^mine: evidence.{_entry} is not gathered, .*reads=frozenset\({{'{_read}'}}\)")
row("stateless", lambda: mtl.stateless("mine", 0, frozenset(), len), ValueError, "^mine: num_tasks must be at least 1, got 0")
row("stateless", lambda: mtl.stateless("mine", T, frozenset(), 3), TypeError, "^mine: weigh must be a function, got 3")
# fmt: on


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [case[1:] for case in CASES],
    ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)],
)
def test_the_message_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        jax.eval_shape(call)


def test_every_public_callable_has_a_row():
    spoken_for = {name for name, *_ in CASES}
    plain_tuples = {"Conflict", "Evidence", "MethodInfo", "Weighting"}  # They take what they get.
    plain_tuples |= {"metrics.DepthErrors", "metrics.NormalErrors"}
    no_arguments = {"list_methods"}
    public = {
        name
        for module, prefix, home in (
            (mtl, "", "mtl_optax"),
            (metrics, "metrics.", metrics.__name__),
            (adversarial, "adversarial.", adversarial.__name__),
        )
        for name in (
            prefix + key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and value.__module__.startswith(home)
        )
    }
    assert public - spoken_for == plain_tuples | no_arguments
    assert spoken_for <= public


@pytest.mark.parametrize("name", METHODS)
def test_a_mistake_inside_a_compiled_step_is_named_while_tracing(name):
    tx, given = make(name, T), inputs(T)
    wrong = given._replace(losses=given.losses[:, None], gradients=given.params)
    with pytest.raises(
        ValueError, match=rf"^{name}: task_gradients\['dense'\]\['bias'\] has shape"
    ):
        jax.jit(lambda given: step(tx, tx.init(given.params), given)).lower(wrong)
