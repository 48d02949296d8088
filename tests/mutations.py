"""Breaks the code on purpose, one small fault at a time, and counts the faults that a test sees.

Not part of CI: it takes hours. From the root of the repository:

    python tests/mutations.py --list
    python tests/mutations.py -k cagrad,_gram --processes 2 --out mutations.json

Each mutation replaces a text, which must occur exactly once in its file, in a copy of the working
tree. Then pytest runs until the first test fails that passes without the mutation, in three looks:
at the tests named after the file, the examples of its docstrings, and for a method the common
suites where they name it, one case of each and nothing compiled, for some seconds; at all their
cases, compiled; and at all other tests, nearest first.

What the numbers mean, and what they do not:
- "killed" says that one test sees the fault, and nothing of how many do.
- "survived" says that all tests passed; "budget" that those passed which ran in `--budget` CPU
  seconds of the last look, while others never ran; "near" that there was no last look
  (`--near`). All are survivors, and so is a run that hangs or crashes.
- A look without compiling (`jax_disable_jit`) is several times quicker; what compiles does so with
  XLA's least effort. Faults that show in the rounding of optimised programs alone are not looked
  for. Tests that fail for these reasons without a mutation are left out, and the summary names
  them.
- The faults were chosen by hand. They touch each method, solver and shared function, and are no
  measure of the faults that nobody thought of.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import difflib
import functools
import json
import os
import pathlib
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Literal, NamedTuple, get_args

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMON = ("tests/every_method/test_contract.py", "tests/every_method/test_properties.py")
EAGER = 20  # CPU seconds of the look without compiling.
_EVERYWHERE = {"task", "tasks", "step", "that", "this", "with", "from", "test"}


class Mutation(NamedTuple):
    """`first` names test files to run before those that are found by rule."""

    file: str
    name: str
    old: str
    new: str
    first: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.file}: {self.name}"


# By file: what is wrong, the text, what stands there instead, and perhaps where to look first.
FAULTS: dict[str, list[tuple[Any, ...]]] = {
    "mtl_optax/_methods/_draws.py": [
        (
            "one order serves all tasks",
            "    one, other = jnp.expand_dims(drawn, 2)",
            "    drawn = jnp.broadcast_to(drawn[:1], drawn.shape)\n"
            "    one, other = jnp.expand_dims(drawn, 2)",
            ("tests/methods/test_pcgrad.py",),
        ),
        (
            "the next key is the key",
            "RandomState(jax.random.key_data(following))",
            "RandomState(words)",
        ),
        ("the kind of key is forgotten", "(words, impl=self._kind)", "(words)"),
        ("a cast key is no key", "jnp.asarray(state.key).astype(jnp.uint32)", "state.key"),
    ],
    "mtl_optax/_methods/adatask.py": [
        ("the mean counts absent tasks", "else uniform(mask)", "else uniform(jnp.ones_like(mask))"),
        ("rows of the mean are those of the sum", 'elif reduction == "mean":', "elif False:"),
    ],
    "mtl_optax/_methods/aligned_mtl.py": [
        (
            "the median of an even number is the upper",
            'jnp.maximum(number - 1, 0) // 2 if mode == "median"',
            'number // 2 if mode == "median"',
        ),
        (
            "a dependent task does not turn with the others",
            "slopes = jnp.where(left & right, -1 / (column + row), turns)",
            "slopes = jnp.where(left & right, -1 / (column + row), 0)",
        ),
        (
            "the length has no derivative",
            "return result, length * moved + longer * result + _inverse",
            "return result, length * moved + _inverse",
        ),
    ],
    "mtl_optax/_methods/bandit_mtl.py": [
        (
            "weighs with the scores of the next step",
            "weights = softmax_present(state.scores,",
            "weights = softmax_present(scores,",
        ),
        ("half a variance is a whole one", "return bound**2 / 2 if", "return bound**2 if"),
    ],
    "mtl_optax/_methods/cagrad.py": [
        (
            "the radius is c alone",
            "conic(products, gram, share * length,",
            "conic(products, gram, share,",
        ),
        (
            "the mean counts absent tasks",
            "uniform(evidence.mask, gram.dtype)",
            "uniform(jnp.ones_like(evidence.mask), gram.dtype)",
        ),
    ],
    "mtl_optax/_methods/_projected.py": [
        (
            "by default absent tasks count",
            "uniform(evidence.mask, dtype)",
            "uniform(jnp.ones_like(evidence.mask), dtype)",
        ),
        (
            "of several the first is reported",
            "jnp.max(solution.iterations)",
            "solution.iterations[0]",
        ),
    ],
    "mtl_optax/_methods/conic_grad.py": [
        ("the cone never binds", "binds = jnp.sum(shares[0]) < least", "binds = least < 0"),
        (
            "at the cone's edge d is too long",
            "most = root(1 - least**2)",
            "most = jnp.ones_like(least)",
        ),
        ("rounding decides at stationary points", "serves = worth > 8", "serves = worth > -8"),
        (
            "weights keep the unit of the scaled Gram",
            "jnp.where(serves, weights / unit, 0)",
            "jnp.where(serves, weights, 0)",
        ),
    ],
    "mtl_optax/_methods/dual_proj.py": [
        (
            "the mean of unit rows is projected",
            "jnp.matmul(cosines, lengths * u,",
            "jnp.matmul(cosines, u,",
        ),
    ],
    "mtl_optax/_methods/config.py": [
        (
            "rounding has a direction",
            "known = jnp.sum(reached**2) > noise**2 * jnp.sum(wanted**2)",
            "known = jnp.sum(reached**2) > 0",
        ),
        (
            "absent tasks count in the mean",
            "number = jnp.maximum(jnp.sum(active), 1)",
            "number = jnp.maximum(jnp.sum(active | True), 1)",
        ),
        (
            "what is missed has no derivative",
            " + solve(times(change, missed), 2)",
            "",
            ("tests/every_method/test_derivatives.py",),
        ),
    ],
    "mtl_optax/_methods/dibs.py": [
        (
            "the walk goes on outside the ball",
            "jnp.where(active & (square <= radius**2), distances, 0)",
            "jnp.where(active, distances, 0)",
        ),
        (
            "a zero gradient pulls",
            "jnp.where(active & (square <= radius**2), distances, 0)",
            "jnp.where(square <= radius**2, distances, 0)",
        ),
        ("the shares count absent tasks", "jnp.sum(evidence.mask)", "len(evidence.mask)"),
    ],
    "mtl_optax/_methods/dwa.py": [
        ("the epoch ends a step early", "now = state.step //", "now = (state.step + 1) //"),
        (
            "an absent task closes its epoch",
            "closes = mask & (state.epoch != now)",
            "closes = (state.epoch != now)",
        ),
        (
            "T counts absent tasks",
            "weights = jnp.sum(mask).astype(jnp.float32) *",
            "weights = jnp.asarray(num_tasks, jnp.float32) *",
        ),
    ],
    "mtl_optax/_methods/emtl.py": [
        (
            "emtl's losses are not read",
            '    reads=frozenset({"gram", "losses"}),',
            '    reads=frozenset({"gram"}),',
        ),
        (
            "lengths keep the unit of the scaled Gram",
            "root(jnp.diagonal(evidence.gram)) * evidence.scale",
            "root(jnp.diagonal(evidence.gram))",
        ),
        ("the base's state stands still", "EMTLState(after.inner,", "EMTLState(state.base,"),
        (
            "a task without gradient plays",
            "playing = evidence.mask & (lengths > 0)",
            "playing = evidence.mask",
        ),
    ],
    "mtl_optax/_methods/equal.py": [
        (
            "the sum is the mean",
            "lambda e: e.mask.astype(jnp.float32)",
            "lambda e: uniform(e.mask)",
        ),
        (
            "the mean counts absent tasks",
            "return uniform(evidence.mask)",
            "return uniform(jnp.ones_like(evidence.mask))",
        ),
    ],
    "mtl_optax/_methods/fairgrad.py": [
        (
            "weights are for the divided gradients",
            "fair(gram, shares, unit, jnp.asarray(alpha, gram.dtype), w, mask)",
            "fair(gram, shares, jnp.ones_like(unit), jnp.asarray(alpha, gram.dtype), w, mask)",
        ),
        (
            "alpha is its inverse",
            "jnp.asarray(alpha, gram.dtype), w",
            "1 / jnp.asarray(alpha, gram.dtype), w",
        ),
    ],
    "mtl_optax/_methods/epo.py": [
        ("the worst task may rise", "& ~worst, gains, 0)", ", gains, 0)"),
        ("what falls anyway has demands", "asked = mask & ~(rises & ~worst)", "asked = mask"),
        ("it leaves the ray", "keeps = ~(seeking | relax)", "keeps = seeking & relax"),
        ("the distance has no mean", "ranks * (excess - distance)", "ranks * excess"),
    ],
    "mtl_optax/_methods/ferero.py": [
        ("the first vertex is best", "best = jnp.argmin(values)", "best = jnp.argmax(values)"),
        (
            "an edge is a vertex",
            "jnp.clip(share, 0, 1), 0)",
            "jnp.round(jnp.clip(share, 0, 1)), 0)",
        ),
        (
            "the shortest has no unit",
            "power = exponent(size) - 1 - 2 * power",
            "power = -2 * power",
        ),
        ("H is as it is", "jnp.asarray(h_scale, dtype) * evidence", "evidence"),
    ],
    "mtl_optax/_methods/getmtl.py": [
        ("no factor T", "weights * (number / (", "weights * (1 / ("),
        (
            "the absolute radius is in units of the scaled Gram",
            "a = a * (length * unit)",
            "a = a * length",
        ),
        (
            "tasks without weight take part",
            "active = evidence.mask & (beta > _SMALLEST_BETA)",
            "active = evidence.mask",
        ),
    ],
    "mtl_optax/_methods/graddrop.py": [
        ("the key stands still", "state, now = draws.next(state)", "_, now = draws.next(state)"),
        (
            "absent tasks count",
            "task_gradients = zero_absent(mask, task_gradients)",
            "del mask",
        ),
        (
            "all leaves have the same draws",
            "(len(leaves), 2), jnp.uint32)",
            "(1, 2), jnp.uint32).repeat(len(leaves), 0)",
        ),
    ],
    "mtl_optax/_methods/gradnorm.py": [
        (
            "initial losses are those of the last step",
            "jnp.where(mask & ~state.seen, losses,",
            "jnp.where(mask, losses,",
        ),
        (
            "absent tasks have been seen",
            "initial, state.seen | mask)",
            "initial, state.seen | jnp.any(mask))",
        ),
        (
            "an absent task's weight moves",
            "learned._replace(values=jnp.where(mask, moved, values))",
            "learned._replace(values=moved)",
        ),
        (
            "weights sum to T with absent tasks",
            "number = jnp.sum(mask).astype(jnp.float32)",
            "number = jnp.asarray(num_tasks, jnp.float32)",
        ),
    ],
    "mtl_optax/_methods/imtl.py": [
        (
            "safe or not, it may ascend",
            "divisor = jnp.abs(total) if safe else total",
            "divisor = total",
        ),
        (
            "the scales' gradient lacks its one",
            "losses.astype(jnp.float32) - 1",
            "losses.astype(jnp.float32)",
        ),
        (
            "imtl_g of unscaled gradients",
            "return scales * _impartial(evidence, safe, scales), state",
            "return scales * _impartial(evidence, safe), state",
        ),
        (
            "no lower clip",
            "jnp.clip(state.values, -bound, bound)",
            "jnp.minimum(state.values, bound)",
        ),
        (
            "the range of the cosines is all of them",
            "jnp.where(singular, outside, solved(ones))",
            "solved(ones)",
        ),
    ],
    "mtl_optax/_methods/layerwise_adatask.py": [
        (
            "the schedule is a step ahead",
            "learning_rate(state.steps)",
            "learning_rate(steps_taken)",
        ),
        (
            "an absent task's layers fade",
            "jnp.where(along_tasks(mask, roots), average(state.layers, roots), state.layers)",
            "average(state.layers, roots)",
        ),
        (
            "bias is corrected for the step before",
            "** steps_taken.astype(v.dtype)",
            "** state.steps.astype(v.dtype)",
        ),
        (
            "the least share is not under the root",
            "jnp.maximum(shares, jnp.sqrt(least))",
            "jnp.maximum(shares, least)",
        ),
    ],
    "mtl_optax/_around/task_ema.py": [
        (
            "an absent task's average moves",
            "return select_tasks(mask, following, state)",
            "return following",
        ),
        ("an absent task's row is its average", "if task_mask is None else", "if True else"),
        (
            "the first gradient counts as any",
            "share = jnp.where(state.counts == 0, 1, share)",
            "share = jnp.where(state.counts == 1, 1, share)",
        ),
        (
            "the bias is that of the step before",
            "share / jnp.where(totals > 0, totals, 1)",
            "share / jnp.where(state.totals > 0, state.totals, 1)",
        ),
        (
            "one minus the decay in float32",
            "jnp.asarray(1 - kept, state.totals.dtype)",
            "1 - jnp.asarray(kept, state.totals.dtype)",
        ),
        (
            "sums in half precision",
            "stacked_zeros(num_tasks, params, accumulator)",
            "stacked_zeros(num_tasks, params, jnp.result_type)",
        ),
    ],
    "mtl_optax/_methods/_averaged.py": [
        (
            "averages are debiased",
            'mask, decay, "zero")',
            'mask, decay, "debiased")',
            ("tests/methods/test_db_mtl.py",),
        ),
        (
            "the object's losses are not asked for",
            "task_losses = task_gradients.losses",
            "pass",
            ("tests/methods/test_db_mtl.py",),
        ),
        (
            "averages in half precision",
            "g.astype(accumulator(g))",
            "g",
            ("tests/methods/test_db_mtl.py",),
        ),
        (
            "weighs the gradients",
            "method.update(ema.averages, before,",
            "method.update(rows, before,",
            ("tests/methods/test_moco.py",),
        ),
    ],
    "mtl_optax/_methods/db_mtl.py": [
        ("the shortest sets the length", "jnp.max(lengths) /", "jnp.min(lengths) /"),
        (
            "a loss without a bound is a gradient of zero",
            "jnp.isfinite(losses)",
            "~jnp.isnan(losses)",
        ),
        (
            "a negative loss turns its gradient",
            "jnp.maximum(losses, 0), jnp.nan",
            "losses, jnp.nan",
        ),
        (
            "the decay does not fall",
            "falling(decay, decay_power, count)",
            "falling(decay, 0.0, count)",
        ),
        ("weights overflow", "jnp.minimum(ratios, float(jnp.finfo(jnp.float32).max))", "ratios"),
        (
            "a zero average has a weight",
            "jnp.where(known, jnp.minimum",
            "jnp.where(True, jnp.minimum",
        ),
    ],
    "mtl_optax/_methods/moco.py": [
        ("uphill", "kept - step *", "kept + step *"),
        ("the squares overflow", "step * (unit * slopes) * unit", "step * slopes * unit**2"),
        ("no regularisation", "jnp.asarray(rho, gram.dtype)", "jnp.asarray(0.0, gram.dtype)"),
        ("steps count those without tasks", "jnp.any(mask).astype(jnp.int32)", "1"),
        ("shares count absent tasks", "number = jnp.sum(mask)", "number = jnp.asarray(num_tasks)"),
        (
            "the weights' rate is the averages'",
            "falling(gamma, gamma_power,",
            "falling(gamma, beta_power,",
        ),
        (
            "an absent task's value moves",
            "weights.astype(jnp.float32), state.values)",
            "weights.astype(jnp.float32), 0)",
        ),
    ],
    "mtl_optax/_methods/excess_mtl.py": [
        (
            "the first step moves the weights",
            "moves = jnp.where(seen, jnp",
            "moves = jnp.where(True, jnp",
        ),
        ("raw risks", "/ jnp.where(seen, state.initial, 1).astype(risks.dtype)", "* 1"),
        ("sums of squares", "long * jnp.sqrt(1 +", "long * (1 +"),
        ("the baseline is the last risk", "jnp.where(mask & ~seen, risks", "jnp.where(mask, risks"),
        (
            "an absent task's logit moves",
            "moved - (total - jnp.log(number)), state.logits)",
            "moved - (total - jnp.log(number)), 0)",
        ),
        ("logits grow for ever", "moved - (total - jnp.log(number))", "moved"),
        (
            "a root without a bound is large",
            "shares = jnp.where(jnp.isfinite(root), shares, jnp.nan)",
            "pass",
        ),
        ("what is not finite is weighed", "jnp.where(mask & ~sound, jnp.nan, weights)", "weights"),
    ],
    "mtl_optax/_methods/m_config.py": [
        (
            "momenta begin at their full length",
            'mask, decay, "debiased")',
            'mask, decay, "zero")',
        ),
        (
            "a step without tasks counts",
            "acts = jnp.any(mask) & (jnp.all(seen) | (not wait))",
            "acts = jnp.all(seen) | (not wait)",
        ),
        (
            "squares of what was computed",
            "implied = (begun * direction - (1 - share) * before) / share",
            "implied = direction",
        ),
        ("tasks never seen take part", "rows, seen, {})", "rows, seen | True, {})"),
        ("it does not wait", "(jnp.all(seen) | (not wait))", "True"),
    ],
    "mtl_optax/_methods/meta_weighting.py": [
        (
            "query and support are swapped",
            "cross_gram(query_gradients, state.support, mask)",
            "cross_gram(state.support, query_gradients, mask)",
        ),
        (
            "an absent task's value moves",
            "        values = jnp.where(mask, values, state.values)\n",
            "",
        ),
        ("no 1/T", "factor / number * descent", "factor * descent"),
        (
            "an absent task's support is forgotten",
            "            support = select_tasks(mask, support, state.support)\n",
            "",
        ),
        (
            "T counts absent tasks",
            "number = jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)",
            "number = jnp.asarray(num_tasks, jnp.float32)",
        ),
    ],
    "mtl_optax/_methods/mgda.py": [
        (
            "loss+ does not divide by the norm",
            'if normalization in ("l2", "loss+"):',
            'if normalization == "l2":',
        ),
        (
            "weights do not sum to one",
            "jnp.where(total > 0, raw / jnp.where(total > 0, total, 1), weights)",
            "jnp.where(total > 0, raw, weights)",
        ),
        ("the losses do not scale the rows", "scale * shares\n", "scale\n"),
    ],
    "mtl_optax/_methods/nash_mtl.py": [
        (
            "stretches what is short",
            "(limit / jnp.maximum(norm, limit))",
            "(limit / jnp.where(norm > 0, norm, limit))",
        ),
        (
            "an absent task's solution is lost",
            "jnp.where(mask, weights.astype(jnp.float32), state.solution)",
            "weights.astype(jnp.float32)",
        ),
    ],
    "mtl_optax/_methods/pareto_mtl.py": [
        (
            "the first stage may come back",
            "feasible = state.feasible | ~jnp.any(active)",
            "feasible = ~jnp.any(active)",
        ),
        ("no factor T", "weights * (present / jnp", "weights * (1 / jnp"),
        (
            "the index may be K",
            "<= int(index) < num_preferences",
            "<= int(index) <= num_preferences",
        ),
    ],
    "mtl_optax/_methods/pcd.py": [
        (
            "an absent task's average moves",
            "jnp.where(mask, usual.astype",
            "jnp.where(True, usual.astype",
        ),
        (
            "the average is not corrected for the first steps",
            "new = 1 / totals.astype(dtype)",
            "new = 1 - jnp.asarray(decay, dtype)",
        ),
        ("what cannot be served is served", "& solution.bounded[0] &", "&"),
        ("the primary is the first task", "jnp.asarray(main).astype(jnp.int32)", "0"),
        (
            "a share of the usual length",
            "jnp.asarray(shares, dtype) * lengths",
            "jnp.asarray(shares, dtype)",
        ),
        ("without the primary, nothing", "uniform(mask, dtype))", "jnp.zeros_like(point))"),
    ],
    "mtl_optax/_methods/pcgrad.py": [
        (
            "conflict is that of the original gradients",
            "jnp.dot(gram[other], row, precision=HIGHEST)",
            "gram[other, task]",
        ),
        ("the key stands still", "state, now = draws.next(state)", "_, now = draws.next(state)"),
    ],
    "mtl_optax/_methods/pmgda.py": [
        (
            "no demand on the distance",
            "jnp.where(active[-1], -sigma, 0)",
            "jnp.where(active[-1], 0, 0)",
        ),
        ("lengths do not count", "longest / lengths, 0)", "1.0, 0)"),
        ("it is MGDA far off", "near = length <", "near = length >"),
    ],
    "mtl_optax/_methods/rlw.py": [
        ("the key stands still", "state, now = draws.next(state)", "_, now = draws.next(state)"),
        ("dirichlet has the wrong sign", "= -jax.random.gumbel", "= jax.random.gumbel"),
    ],
    "mtl_optax/_methods/scale_invariant.py": [
        ("a negative loss counts as positive", "jnp.maximum(losses, 0)", "jnp.abs(losses)"),
        (
            "ε is inside the maximum",
            "(jnp.maximum(losses, 0) + jnp.asarray(eps, losses.dtype))",
            "jnp.maximum(losses, jnp.asarray(eps, losses.dtype))",
        ),
    ],
    "mtl_optax/_methods/tchebycheff.py": [
        (
            "smooth forgets the weights",
            "return w * _share_of_largest(w, losses, z, mask, smooth)",
            "return _share_of_largest(w, losses, z, mask, smooth)",
        ),
        (
            "no limit at a loss of zero",
            "counted = mask & ~((losses <= 0) & (w < smoothing))",
            "counted = mask & ~(losses <= 0)",
            ("tests/methods/test_scalarizations.py",),
        ),
        (
            "the first of ties takes all",
            "mask & (values == highest)",
            "mask & (jnp.arange(num_tasks) == jnp.argmax(values))",
        ),
        (
            "an absent task may be the worst",
            "highest = jnp.max(jnp.where(mask, values, -jnp.inf))",
            "highest = jnp.max(values)",
        ),
    ],
    "mtl_optax/_methods/upgrad.py": [
        ("the lengths of the projected rows are lost", "jnp.abs(u) * held, 1)", "jnp.abs(u), 1)"),
        ("a negative preference is a positive one", "jnp.sign(u)", "jnp.abs(jnp.sign(u))"),
    ],
    "mtl_optax/_methods/uw.py": [
        ("no half", "gradients = 0.5 - weights", "gradients = 1.0 - weights"),
        (
            "no clip",
            "state._replace(values=jnp.clip(state.values, -bound, bound))",
            "state",
        ),
    ],
    "mtl_optax/_solvers/bargaining.py": [
        (
            "rounding does not end it",
            "done = over | (settled & ((error <= tolerance) | stalled))",
            "done = over | (settled & (error <= tolerance))",
        ),
        (
            "weights that grow have settled",
            "settled = state.feasible & jnp.all(moved <= _SETTLED * terms)",
            "settled = state.feasible",
        ),
        (
            "tasks that cancel one another have a direction",
            "(largest == 0) | (left > 64 * eps * largest**2)",
            "left == left",
        ),
        (
            "no solution has a small residual",
            "jnp.where(exists, residual, 1), jnp.nan",
            "residual * exists, jnp.nan",
        ),
        (
            "NaN ends in zero",
            "finite = jnp.all(jnp.isfinite(jnp.where(jnp.outer(mask, mask), gram, 0)))",
            "finite = jnp.array(True)",
        ),
        ("one step beyond the cap", "iterations < max_iterations", "iterations <= max_iterations"),
        (
            "the mean of the targets is lost",
            "log_point - logs + mean / (1 + power)",
            "log_point - logs",
        ),
        (
            "alpha has no derivative",
            "jnp.exp(log_gains) * (turn - bend * log_point)",
            "jnp.exp(log_gains) * turn",
        ),
    ],
    "mtl_optax/_solvers/conic.py": [
        (
            "no refinement",
            "return solution + jax.scipy.linalg.cho_solve(factor, residual)",
            "return solution",
        ),
        (
            "no task leaves the support",
            "            (moved > 0) | entering,\n",
            "            support | entering,\n",
        ),
        (
            "multipliers lack their level",
            "jnp.where(free & bounded, shift + height * nearest, 0)",
            "jnp.where(free & bounded, shift, 0)",
        ),
        (
            "a zero row has a multiplier",
            "    multipliers = jnp.where(jnp.diagonal(quadratic) == 0, 0, multipliers)\n",
            "",
        ),
        (
            "the level lost to rounding stays lost",
            "            shift -= nearest * (along / norm)\n",
            "",
        ),
        (
            "slopes are taken for zero",
            "        if problem.slopes is not None:\n",
            "        if False:\n",
        ),
        (
            "a system is solved for slopes that are zero",
            "        if problem.slopes is not None:\n",
            "        if True:\n",
        ),
        (
            "an absent task may enter",
            "jnp.where(mask & (moved == 0), shortfall",
            "jnp.where(moved == 0, shortfall",
        ),
        (
            "the gap is in units of the shortest task",
            "problem.shortest * problem.value(point) - lowest",
            "problem.value(point) - lowest",
        ),
    ],
    "mtl_optax/_precision.py": [
        (
            "zero is as large as one",
            "return jnp.where(x == 0, jnp.finfo(x.dtype).minexp, powers)",
            "return powers",
        ),
        ("the power overflows", "half = n // 2", "half = n"),
        (
            "one float64 among others is float32",
            "wide = any(jnp.result_type(array)",
            "wide = all(jnp.result_type(array)",
        ),
    ],
    "mtl_optax/_solvers/kl_ball.py": [
        (
            "half of log T counts absent tasks",
            "return jnp.log(_number(mask, dtype)) / 2",
            "return jnp.log(jnp.asarray(mask.size, dtype)) / 2",
        ),
        ("rewards lose their unit", "exponent(jnp.max(jnp.abs(rewards))) - HELD", "-HELD"),
        (
            "scores fall for ever",
            "jnp.maximum(solution.log_weights + total, _LOWEST)",
            "solution.log_weights + total",
        ),
        (
            "players take the share of the absent",
            "jnp.maximum(solution.log_weights + total, _LOWEST)",
            "jnp.maximum(solution.log_weights, _LOWEST)",
        ),
        (
            "a radius of NaN is no radius",
            "jnp.all(jnp.isfinite(depths)) & ~jnp.isnan(radius)",
            "jnp.all(jnp.isfinite(depths))",
        ),
        (
            "absent tasks are in the uniform distribution",
            "return jnp.maximum(jnp.sum(mask), 1).astype(dtype)",
            "return jnp.asarray(mask.size, dtype)",
        ),
    ],
    "mtl_optax/_solvers/lp.py": [
        ("later goals come first", "level == jnp.min(level)", "level == level"),
        (
            "equations have slack",
            "~equal, jnp.zeros(num_rows, bool)",
            "equal | True, ~equal & equal",
        ),
        ("no factorisation agrees", "& (moved.iterations == state.iterations)", ""),
        (
            "the gap is of the dual alone",
            "jnp.max(rises) * jnp.sum(point) + violated",
            "0 * violated",
        ),
    ],
    "mtl_optax/_solvers/min_norm.py": [
        (
            "Frank-Wolfe goes to an absent task",
            "best = jnp.argmin(jnp.where(mask, slopes, jnp.inf))",
            "best = jnp.argmin(slopes)",
        ),
        (
            "projected gradient keeps absent tasks",
            "jnp.where(mask, ahead - slopes / lipschitz, absent)",
            "ahead - slopes / lipschitz",
        ),
        (
            "the gap is that of the norm, not its square",
            "/ total * problem.shortest**2",
            "/ total * problem.shortest",
        ),
        (
            "NaN ends in weights",
            "weights = jnp.where(jnp.isfinite(gap), weights_of(final), jnp.nan)",
            "weights = weights_of(final)",
        ),
        ("one step beyond the cap", "(loop[2] < max_iterations)", "(loop[2] <= max_iterations)"),
    ],
    "mtl_optax/_solvers/nnqp.py": [
        ("a step goes on past the first sign", "step = jnp.min(ratios)", "step = jnp.max(ratios)"),
        (
            "what would turn negative stays",
            "held = support & (free | (ratios > step))",
            "held = support",
        ),
        ("nothing enters", "entering = free & ~support & (", "entering = ~support & support & ("),
        ("no refinement", "_SOLVES = 3", "_SOLVES = 1"),
        (
            "a point is not brought back to its length",
            "points / rows, residuals",
            "points, residuals",
        ),
        ("always bounded", "* points, axis=1) >= 0", "* points, axis=1) >= -jnp.inf"),
        (
            "the matrix has no derivative",
            "jnp.matmul(points, turn.T, precision=HIGHEST) + change",
            "change",
        ),
    ],
    "mtl_optax/_solvers/simplex.py": [
        (
            "the projection sums to one",
            "project(jnp.maximum(depths, -total), total)",
            "project(jnp.maximum(depths, -total))",
        ),
        (
            "far values make a NaN",
            "jnp.maximum(depths, -total), total)",
            "depths, total)",
            ("tests/every_method/test_strict.py",),
        ),
        (
            "with nobody present nobody is",
            "mask | ~jnp.any(mask)",
            "mask",
        ),
        (
            "the mean counts absent tasks",
            "jnp.maximum(jnp.sum(mask), 1).astype(dtype)",
            "jnp.asarray(mask.size, dtype)",
        ),
        (
            "the lowest may be absent",
            "jnp.min(jnp.where(mask, values, jnp.inf))",
            "jnp.min(values)",
        ),
    ],
    "mtl_optax/_solvers/spectrum.py": [
        (
            "each of two equal rows calls itself the longer",
            "jnp.where(order < partner, tangent, -tangent[partner])",
            "tangent",
        ),
        ("one sweep is enough", "_MOST_SWEEPS = 20", "_MOST_SWEEPS = 1"),
        (
            "rows rotate as if they were equally long",
            "jnp.expand_dims(tangent * reach, 1) * other",
            "jnp.expand_dims(tangent, 1) * other",
        ),
    ],
    "mtl_optax/_gram.py": [
        (
            "the norm's part of the scale is lost",
            "ScaledGram(matrix, units * scale)",
            "ScaledGram(matrix, scale)",
        ),
        ("every scale is safe", "SAFE_SQUARE = (1e-24, 1e32)", "SAFE_SQUARE = (0.0, 1e39)"),
        (
            "combine adds in the dtype of the gradients",
            "(coefficients[t].astype(dtype) * leaf[t].astype(dtype) for t",
            "(coefficients[t].astype(leaf.dtype) * leaf[t] for t",
        ),
        (
            "rows of a stream are not halved",
            "ScaledGram((matrix + matrix.T) / 2, scale)",
            "ScaledGram(matrix + matrix.T, scale)",
        ),
        (
            "two stacks have one unit",
            "found *= jnp.expand_dims(columns / longest, 0)",
            "pass",
        ),
        (
            "a leaf without entries has no norm",
            "jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)), initial=0)",
            "jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)))",
        ),
        (
            "the first of many tasks counts twice",
            "jax.lax.fori_loop(1, len(leaf), rest,",
            "jax.lax.fori_loop(0, len(leaf), rest,",
        ),
    ],
    "mtl_optax/_contractions.py": [
        (
            "half precision accumulates in itself",
            "        preferred_element_type=dtype,\n",
            "        preferred_element_type=left.dtype,\n",
            ("tests/test_gram.py",),
        ),
    ],
    "mtl_optax/_gram_on_cpu.py": [
        (
            "the rest of a long leaf is taken from its start",
            "_product(left[:, -rest:], right[:, -rest:],",
            "_product(left[:, :rest], right[:, :rest],",
        ),
        (
            "the rest of the blocks is left out",
            "        total += product(index, left.shape[1] - rest, rest)\n",
            "",
        ),
    ],
    "mtl_optax/_trees.py": [
        (
            "absent rows are multiplied by zero",
            "jnp.where(along_tasks(mask, g), g, jnp.zeros_like(g))",
            "g * along_tasks(mask, g).astype(g.dtype)",
        ),
        (
            "every parameter is a layer",
            'depth = -1 if group == "layer" else None',
            "depth = None",
        ),
        (
            "nothing shared is no mistake",
            "if not any(jax.tree.leaves(mask)):",
            "if not jax.tree.leaves(mask):",
        ),
    ],
    "mtl_optax/_evidence.py": [
        (
            "ratios of scales upside down",
            "jnp.expand_dims(self.scale, 1) / jnp.expand_dims(self.scale, 0)",
            "jnp.expand_dims(self.scale, 0) / jnp.expand_dims(self.scale, 1)",
            ("tests/methods/test_upgrad.py", "tests/methods/test_pcgrad.py"),
        ),
        (
            "a loss of NaN is swallowed",
            '("losses",), ("losses",), _losses_of("task_losses")',
            '("losses",), (), _losses_of("task_losses")',
        ),
        (
            "next losses of absent tasks make all NaN",
            '("next_losses",), (), _losses_of("next_losses")',
            '("next_losses",), ("next_losses",), _losses_of("next_losses")',
            ("tests/methods/test_famo.py",),
        ),
        (
            "an absent task's loss is read",
            "return (jnp.where(given.mask, losses, 1.0),)",
            "return (losses,)",
        ),
        (
            "an absent task's norm is read",
            "return (jnp.where(given.mask, norms(leaves), 0.0),)",
            "return (norms(leaves),)",
        ),
        (
            "the third batch is not met",
            "    if second is None:\n        left, right = as_stack(rows), left",
            "    if True:\n        left, right = as_stack(rows), left",
            ("tests/methods/test_two_batches.py",),
        ),
        (
            "what may be given is not gathered",
            "return frozenset(needed | {a for kind in kinds for a in kind.optional if optional})",
            "return frozenset(needed)",
            ("tests/around/test_accumulation.py",),
        ),
    ],
    "mtl_optax/_around/by_group.py": [
        (
            "one group of all",
            "combine_tasks=recipe.combine_tasks, group=group)",
            "combine_tasks=recipe.combine_tasks)",
        ),
    ],
    "mtl_optax/_around/every.py": [
        ("looks a step late", "(state.age >= period)", "(state.age > period)"),
        (
            "an absent newcomer is looked at",
            "jnp.any(mask & ~state.known)",
            "jnp.any(~state.known)",
        ),
        ("a step of nobody counts", "before + jnp.any(mask).astype(jnp.int32)", "before + 1"),
    ],
    "mtl_optax/_around/momentum.py": [
        (
            "the new share is kept",
            "mixed = share * old + (1 - share) * found",
            "mixed = (1 - share) * old + share * found",
        ),
        ("it starts at zero", "jnp.where(pairs(state.known, state.known), mixed, found)", "mixed"),
        (
            "weights of the present fall short",
            "missing = jnp.any(state.known & ~mask)",
            "missing = False & jnp.any(mask)",
        ),
        ("an absent task's average moves", "jnp.where(here, average, old)", "average"),
    ],
    "mtl_optax/_methods/famo.py": [
        ("no softmax in the slopes", "z * (fell - jnp.sum(z * fell))", "fell - jnp.sum(z * fell)"),
        ("no weight decay", "jnp.asarray(weight_decay, after.dtype) * logits", "0 * logits"),
        ("never lagged", "evidence.losses if lagged else evidence.next_losses", "evidence.losses"),
        (
            "a task that was away is measured",
            "state.known | mask if lagged else mask",
            "state.known | mask",
        ),
    ],
    "mtl_optax/_methods/coba.py": [
        (
            "divergence is rewarded",
            "softmax_present(-slopes.shares()[:, -1], mask)",
            "softmax_present(slopes.shares()[:, -1], mask)",
        ),
        ("no floor", "jnp.where(low, 0.9 * weights + lowest, weights)", "weights"),
        (
            "no first loss",
            "losses = losses / jnp.where(first == 0, 1, first)",
            "losses = losses * 1",
        ),
        (
            "the window forgets nothing",
            "jnp.minimum(self.counts + 1, self.values.shape[1])",
            "self.counts + 1",
        ),
    ],
    "mtl_optax/_methods/meta_balance.py": [
        (
            "averages are not corrected",
            "norms / jnp.where(steps > 0, 1 - kept ** steps.astype(jnp.float32), 1)",
            "norms",
        ),
        (
            "a missing main task scales",
            "scaled = jnp.any(chief & mask) & ~chief",
            "scaled = ~chief",
        ),
    ],
    "mtl_optax/_methods/two_batches.py": [
        ("no regularisation in MoDo", "- rate * share * before, mask", ", mask"),
        ("no momentum", "speed = kept * speed + slopes", "speed = slopes"),
        (
            "not divided by the scale",
            "products / jnp.where(unit > 0, unit**2, jnp.inf)",
            "products / jnp.where(unit > 0, unit, jnp.inf)",
        ),
        (
            "the preference is not applied",
            "weights = (values + share * wished) / (1 + share)",
            "weights = values",
        ),
        ("returning tasks weigh twice", "values / jnp.where(total > 0, total, 1)", "values"),
    ],
    "mtl_optax/_methods/constant.py": [
        (
            "weights of ones",
            "return jnp.asarray(given)",
            "return jnp.ones_like(given)",
            ("tests/methods/test_robust_means.py",),
        ),
    ],
    "mtl_optax/_methods/krum.py": [
        (
            "one neighbour more",
            "jnp.asarray(num_byzantine, number.dtype) - 2, 1)",
            "jnp.asarray(num_byzantine, number.dtype) - 1, 1)",
            ("tests/methods/test_robust_means.py",),
        ),
        (
            "ties take two places",
            "shared = left / jnp.maximum(jnp.sum(ties), 1).astype(gram.dtype)",
            "shared = left",
            ("tests/methods/test_robust_means.py",),
        ),
    ],
    "mtl_optax/_methods/trimmed_mean.py": [
        (
            "what is not finite is trimmed",
            "kept | (mask[t] & ~jnp.isfinite(row))",
            "kept",
            ("tests/methods/test_robust_means.py",),
        ),
        (
            "one side is cut",
            "(rank >= cut) & (rank < number - cut)",
            "(rank < number - cut)",
            ("tests/methods/test_robust_means.py",),
        ),
        (
            "equal entries share a rank",
            "((rows[s] == row) & (s < t))",
            "((rows[s] == row) & (s < 0))",
            ("tests/methods/test_robust_means.py",),
        ),
    ],
    "mtl_optax/_methods/gradvac.py": [
        ("rounding has a direction", "noise = num_tasks * eps *", "noise = 0 *"),
        (
            "no limit",
            "targets = jnp.clip(state.targets, -bound, bound)",
            "targets = jnp.clip(state.targets, -1, 1)",
        ),
        ("targets move in a conflict alone", 'if update == "conflict":', "if True:"),
    ],
    "mtl_optax/_methods/gls.py": [
        (
            "no mean",
            "times_exp(1 / number, mean - logs, counted)",
            "times_exp(1, mean - logs, counted)",
            ("tests/methods/test_scalarizations.py",),
        ),
    ],
    "mtl_optax/_methods/cosmos.py": [
        (
            "the other side of the cosine",
            "return r - share *",
            "return r + share *",
            ("tests/methods/test_scalarizations.py",),
        ),
    ],
    "mtl_optax/_methods/pbi.py": [
        (
            "noise off the ray",
            "off = ~(distance <= noise)",
            "off = ~(distance <= 0)",
            ("tests/methods/test_scalarizations.py",),
        ),
    ],
    "mtl_optax/_methods/igb.py": [
        (
            "no warm-up",
            "shares = jnp.where(jnp.all(ready | ~counted), shares, 1)",
            "pass",
            ("tests/methods/test_loss_histories.py",),
        ),
    ],
    "mtl_optax/_methods/group_dro.py": [
        (
            "weights sum to one",
            "number * softmax_present(scores, mask)",
            "softmax_present(scores, mask)",
            ("tests/methods/test_loss_histories.py",),
        ),
    ],
    "mtl_optax/_methods/go4align.py": [
        (
            "the first grouping",
            "return best, jnp.argmin(totals, axis=0)",
            "return best, jnp.argmax(totals, axis=0)",
            ("tests/methods/test_loss_histories.py",),
        ),
    ],
    "mtl_optax/_methods/ldc.py": [
        (
            "rounding is a difference",
            "jumps = jnp.where(jumps > noise, jumps, 0)",
            "jumps = jumps * 1",
            ("tests/methods/test_loss_histories.py",),
        ),
        (
            "all are neighbours",
            "pairs = jnp.expand_dims(after, 1) + 1 == jnp.expand_dims(after, 0)",
            "pairs = jnp.expand_dims(after, 1) < jnp.expand_dims(after, 0)",
            ("tests/methods/test_loss_histories.py",),
        ),
    ],
    "mtl_optax/_frame.py": [
        (
            "gradients of the parameters' own shapes pass without params",
            "if any(g == p for g, p in zip(shapes, of, strict=True)):",
            "if all(g != p for g, p in zip(shapes, of, strict=True)):",
        ),
        (
            "a branch leaves behind what it gathered",
            "asked = task_gradients.apart() if apart else task_gradients",
            "asked = task_gradients",
            ("tests/around/test_every.py",),
        ),
        (
            "groups are laid by the order of the groups",
            "for leaf in sorted(laid)]",
            "for leaf in laid]",
            ("tests/around/test_by_group.py",),
        ),
        (
            "the weights recorded are those of the step before",
            "WeightingState(weights.astype(jnp.float32), inner)",
            "WeightingState(state.weights, inner)",
        ),
        (
            "rows weigh with absent tasks",
            "jnp.where(mask if result.ndim == 1 else jnp.outer(mask, mask), result, 0)",
            "jnp.where(mask if result.ndim == 1 else True, result, 0)",
        ),
        (
            "a softmax of nobody",
            "jnp.where(mask | ~jnp.any(mask), logits, -jnp.inf)",
            "jnp.where(mask, logits, -jnp.inf)",
            ("tests/every_method/test_strict.py",),
        ),
        (
            "a gap in the units of the gradients",
            "(gap / jnp.where(largest > 0, largest, 1)).astype(jnp.float32)",
            "gap.astype(jnp.float32)",
        ),
        (
            "reads are not checked",
            "unknown = set(weighting.reads) - set(KINDS)",
            "unknown = set[str]()",
            ("tests/test_messages.py",),
        ),
    ],
    "mtl_optax/_checks.py": [
        ("a seed of True", " and not isinstance(key, bool):", ":"),
        (
            "an update of another rank alone is of another shape",
            "        if found != wanted:\n",
            "        if len(found) < len(wanted):\n",
        ),
        (
            "an open end is closed",
            "number <= bottom if open_low or",
            "number < bottom if open_low or",
        ),
        ("NaN is a number", "if below or above or number != number:", "if below or above:"),
        ("zero is positive", "np.all(np.asarray(value) > 0)", "np.all(np.asarray(value) >= 0)"),
        (
            "a mask of numbers",
            'if not hasattr(task_mask, "dtype") or task_mask.dtype != bool:',
            'if not hasattr(task_mask, "dtype"):',
        ),
        (
            "an error without the argument's name",
            "{method}: {argument} has shape {losses.shape}",
            "{method}: losses have shape {losses.shape}",
        ),
        (
            "a count of True",
            "    if isinstance(value, bool) or not isinstance(value, numbers.Integral):\n"
            '        raise TypeError(f"{method}: {name} must be an integer',
            "    if not isinstance(value, numbers.Integral):\n"
            '        raise TypeError(f"{method}: {name} must be an integer',
            ("tests/test_messages.py",),
        ),
        (
            "losses keep half precision",
            "return jnp.asarray(losses, at_least_float32(losses))",
            "return jnp.asarray(losses)",
        ),
    ],
    "mtl_optax/_around/per_task.py": [
        (
            "an absent task's copy moves",
            "            inner = select_tasks(mask, inner, state.inner)\n",
            "",
        ),
        (
            "copies see no extra arguments",
            "lifted.update(g, s, params, **extra)",
            "lifted.update(g, s, params)",
        ),
    ],
    "mtl_optax/_around/on_shared.py": [
        (
            "heads have the weights of the step before",
            "_weigh_heads(_weights_of(shared_state),",
            "_weigh_heads(_weights_of(state.shared),",
        ),
        (
            "stacked heads pass",
            "            _check_heads(head, head_params)\n",
            "            pass\n",
        ),
        (
            "heads see no extra arguments",
            "on_heads.update(head, state.heads, head_params, **extra)",
            "on_heads.update(head, state.heads, head_params)",
        ),
        (
            "half precision heads become float32",
            "(leaf.astype(dtype) * weight.astype(dtype)).astype(leaf.dtype)",
            "leaf.astype(dtype) * weight.astype(dtype)",
        ),
        (
            "an absent task's heads move",
            "            updates = updates.masked(mask)\n",
            "            pass\n",
        ),
        (
            "heads of an object are never weighted",
            'weights = _weights_of(shared_state) if heads == "weighted" else None',
            "weights = None",
        ),
        (
            "gradients beside steps pass",
            "            told.append(_check_directions(method, heads, *like, extra))\n",
            "            pass\n",
        ),
    ],
    "mtl_optax/_task_gradients/taps.py": [
        (
            "a view that stops gradients has them",
            'if name == "stop_gradient":',
            'if name == "none of these":',
        ),
        (
            "sites of several layouts count as one",
            "one_layout = len({site.layout for site in sites}) == 1",
            "one_layout = True",
        ),
        (
            "what a loop carries keeps its site",
            "                self.direct.add(view.leaf)\n                view = None\n",
            "                pass\n",
        ),
        (
            "lookups out of range take the last row",
            "found = jnp.where((found < 0) | (found >= size), size, found)",
            "found = jnp.clip(found, 0, size - 1)",
        ),
    ],
    "mtl_optax/_task_gradients/tapped.py": [
        (
            "the quick contraction is always safe",
            "    safe &= root(squares) >= (_ROOM * eps) ** 0.5 * bounds\n",
            "",
        ),
        (
            "only the first block of columns counts",
            "jax.lax.fori_loop(0, count, add",
            "jax.lax.fori_loop(0, 1, add",
        ),
        (
            "each lookup is a row of its own",
            "same = (jnp.expand_dims(self.rows, 0) == jnp.expand_dims(self.rows, 1)).astype(dtype)",
            "same = jnp.eye(len(self.rows), dtype=dtype)",
        ),
        (
            "nothing is worth tapping",
            "if num_tasks == 1:",
            "if num_tasks >= 1:",
        ),
        (
            "absent tasks count in what is combined",
            "            cotangents = zero_absent(mask, cotangents)\n",
            "            pass\n",
        ),
    ],
    "mtl_optax/_around/check_updates.py": [
        (
            "updates are not checked",
            '        _checks.check_like_params("check_updates", updates, params)\n',
            "",
        ),
    ],
    "mtl_optax/_around/guard.py": [
        (
            "steps in a row are steps in all",
            "optax.safe_increment(state.consecutive), 0)",
            "optax.safe_increment(state.consecutive), state.consecutive)",
        ),
        (
            "lets through a step late",
            "let_through = state.consecutive >= jnp",
            "let_through = state.consecutive > jnp",
        ),
        ("absent tasks are looked at", "bad = mask & ~finite", "bad = ~finite"),
        (
            "query gradients are not cleaned",
            "stacks[key] = jax.tree.map(clean, stacked, other)",
            "pass",
        ),
        (
            "an update that is not finite passes",
            "broken | nothing_left)",
            "nothing_left)",
        ),
        (
            "heads are not looked at",
            "jnp.any(bad) | ~_all_finite(heads) | broken",
            "jnp.any(bad) | broken",
        ),
    ],
    "mtl_optax/_around/accumulation.py": [
        (
            "a task is averaged over all micro-steps",
            "number = jnp.maximum(present, 1)",
            "number = jnp.full_like(present, micro_step)",
        ),
        (
            "losses are not set back",
            "emptied._replace(inner=inner)",
            "emptied._replace(inner=inner, loss_sums=loss_sums)",
        ),
        (
            "sums in half precision",
            "stacked_zeros(num_tasks, trunk, accumulator)",
            "stacked_zeros(num_tasks, trunk, jnp.result_type)",
        ),
        (
            "who is present in the last micro-batch alone",
            "params, task_mask=present > 0, **extra",
            "params, task_mask=mask, **extra",
        ),
    ],
    "mtl_optax/_task_gradients/stacked.py": [
        (
            "heads have the gradient of the mean loss",
            "pullback(jnp.ones_like(losses))[1]",
            "pullback(jnp.ones_like(losses) / len(losses))[1]",
        ),
    ],
    "mtl_optax/_task_gradients/calls.py": [
        (
            "an argument beyond the last",
            "-len(args) <= number < len(args)",
            "-len(args) <= number <= len(args)",
        ),
        ("no losses are losses", "if len(shape) != 1 or shape[0] == 0:", "if len(shape) != 1:"),
        (
            "keyword arguments are lost",
            "return fun(*full, **kwargs)",
            "return fun(*full)",
        ),
    ],
    "mtl_optax/_task_gradients/sam.py": [
        ("downhill", "leaf.astype(wide) + factor", "leaf.astype(wide) - factor"),
        ("a complex gradient leads sideways", "jnp.conj(gradient) if", "gradient if"),
        ("heads stay where they are", "_moved(heads, up[1], rho)", "heads"),
        (
            "heads go by the length of the trunk",
            "moved = _moved(trunk, up[0], rho), _moved(heads, up[1], rho)",
            "both = _moved([*trunk, *heads], [*up[0], *up[1]], rho); "
            "moved = both[: len(trunk)], both[len(trunk) :]",
        ),
        ("the flat part is all of it", "jax.tree.map(jnp.subtract, found, gradient)", "found"),
        (
            "all tasks have the first one's sign",
            "where(row > 0, signs, 0)",
            "where(row > 0, signs[0], 0)",
        ),
        (
            "the draw's sign is left to chance",
            "jnp.sign(jax.lax.psum(slopes, summed) if summed else slopes)",
            "jnp.ones_like(slopes)",
        ),
        (
            "the draw keeps its own length",
            "share * sign.astype(length.dtype) * length / jnp",
            "share * sign.astype(length.dtype) / jnp",
        ),
    ],
    "mtl_optax/_task_gradients/per_task.py": [
        (
            "unequal batches are not named",
            "        _check_task_axis(name, args, axes, kwargs)\n",
            "",
        ),
    ],
    "mtl_optax/_tracing.py": [
        (
            "a program's loops are not searched",
            "        or any(has_operation(inner, name)",
            "        or False and any(has_operation(inner, name)",
        ),
        (
            "steps without jit compile branches",
            "    if not is_traced(predicate):\n",
            "    if False:\n",
        ),
    ],
    "mtl_optax/_task_gradients/ways.py": [
        (
            "weights overflow in half precision",
            "unit = 2 * power_of_two(jnp.sum(jnp.abs(weights)))",
            "unit = jnp.ones((), weights.dtype)",
        ),
    ],
    "mtl_optax/_task_gradients/rows.py": [
        (
            "products overflow in half precision",
            "share = jnp.clip(unit / room, 1, room)",
            "share = jnp.ones_like(unit)",
        ),
        (
            "products of complex gradients are no inner products",
            "return jnp.conj(by_parts(divided, leaf))",
            "return by_parts(divided, leaf)",
        ),
        (
            "parameters in pieces have norms",
            "            _check_pieces(gradient, self.losses)\n            return _length",
            "            return _length",
        ),
    ],
    "mtl_optax/_task_gradients/features.py": [
        (
            "each device weighs by its own part of the features",
            "tuple(sorted(varying_axes(features) - varying_axes(self.losses)))",
            "()",
        ),
    ],
    "mtl_optax/_unstacked.py": [
        (
            "features take a norm_mask",
            "        if leaves is not None and self._way.at_features:\n",
            "        if False:\n",
        ),
        (
            "norms are of all leaves",
            'slots = self._chosen("norms", leaves, "leaves")[0]',
            'self._chosen("norms", leaves, "leaves")',
        ),
    ],
    "mtl_optax/_methods/_learned.py": [
        (
            "an absent task moves",
            "LearnedScalars(*select_tasks(mask, tuple(stepped), tuple(self)))",
            "LearnedScalars(*stepped)",
        ),
        (
            "an absent task's optimiser moves",
            "LearnedScalars(*select_tasks(mask, tuple(stepped), tuple(self)))",
            "LearnedScalars(select_tasks(mask, stepped.values, self.values), state)",
        ),
        (
            "gradients have no bound",
            "        gradients = jnp.clip(gradients, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)\n",
            "",
        ),
        (
            "the optimiser does not see the scalars",
            "(gradients, self.optimizer, self.values)",
            "(gradients, self.optimizer)",
        ),
    ],
    "mtl_optax/_diagnostics/conflict.py": [
        (
            "absent tasks are in pairs",
            "count = jnp.sum(mask).astype(gram.dtype)",
            "count = jnp.asarray(mask.size, gram.dtype)",
        ),
        (
            "tracked norms keep the scale",
            "norms=lengths * unit.astype(jnp.float32)",
            "norms=lengths",
        ),
        (
            "a fraction of NaN is swallowed",
            "    fraction = jnp.where(jnp.all(jnp.isfinite(gram)), fraction, jnp.nan)\n",
            "",
        ),
    ],
    "mtl_optax/_diagnostics/dominance.py": [
        (
            "an absent task's squares fade",
            "DominanceState(select_tasks(mask, squares, state.squares))",
            "DominanceState(squares)",
        ),
        ("a share of NaN is even", "even + 0 * total)", "even)"),
        (
            "the last bucket is open",
            "jnp.clip(scaled.astype(jnp.int32), 0, buckets - 1)",
            "scaled.astype(jnp.int32)",
        ),
    ],
    "mtl_optax/_around/split_step.py": [
        (
            "a step where the moments cancel is lost",
            "jnp.where(known, absent, wide)",
            "absent",
        ),
    ],
    "mtl_optax/_diagnostics/scalars.py": [
        ("no residual", '    "residual": 0,\n', ""),
        ("names of parameters count", "of_weighting or _is_ours(node)", "True"),
        ("two of a name are one", "if n > 1}", "if n > 2}"),
        ("parameters called weights count", "_is_ours(node) and ", ""),
        (
            "weights inside a weighting count",
            "    else:\n        for _, child in _children(node):\n            yield from _weights",
            "    for _, child in _children(node):\n        yield from _weights",
        ),
        (
            "too many names pass",
            "len(tasks) != len(value):",
            "len(tasks) < len(value):",
        ),
    ],
    "mtl_optax/metrics.py": [
        ("a negative baseline turns the sign", "/ jnp.abs(base))", "/ base)"),
        (
            "delta_p is over metrics, not tasks",
            "1 / (len(names) * owners.count(owner))",
            "1 / len(owners)",
        ),
        (
            "the variance of a sample",
            "jnp.var(losses, axis=-1)",
            "jnp.var(losses, axis=-1, ddof=1)",
        ),
        ("pixels without a label count", "is_class(wanted) & (wanted != ignored)", "True"),
        ("an absent class counts as missed", "present = united > 0", "present = united >= 0"),
        ("one running sum", "while len(total) > _AT_A_TIME:", "while False:"),
        (
            "the depth of pixels without one",
            "valid = wanted != undefined",
            "valid = wanted == wanted",
        ),
        ("the lower of two middles", "for k in (0, 1)]", "for k in (0, 0)]"),
        ("ties count for nothing", "negatives[low] + negatives[high] -", "2 * negatives[low] -"),
        ("users are one", "order = jnp.lexsort((scores, users))", "order = jnp.argsort(scores)"),
        ("pairs overflow", "for shift in (0, 8, 16, 24)", "for shift in (0, 8)"),
    ],
    "mtl_optax/adversarial.py": [
        ("the gate is open at its threshold", "is_open = loss > limit", "is_open = loss >= limit"),
        (
            "a loss of NaN closes the gate",
            "jnp.where(jnp.isnan(loss), loss, jnp.where(is_open, strength, 0))",
            "jnp.where(is_open, strength, 0)",
        ),
        (
            "centred over the features",
            "jnp.mean(features, axis=-2, keepdims=True)",
            "jnp.mean(features, axis=-1, keepdims=True)",
        ),
        (
            "the mean counts what does not count",
            "/ jnp.maximum(count, 1)",
            "/ jnp.asarray(losses.size, losses.dtype)",
        ),
        (
            "the mean is over tasks too",
            "jnp.mean(squares, axis=(-2, -1))",
            "jnp.mean(squares)",
        ),
    ],
    "mtl_optax/_registry.py": [
        (
            "defaults win over what is given",
            "return info.factory(*given.args, **given.kwargs, **needed)",
            "return info.factory(num_tasks, **{**given.kwargs, **info.arguments(num_tasks)})",
        ),
        (
            "an unknown hyper-parameter is not named",
            "if key not in accepted:",
            "if not accepted:",
        ),
        (
            "query gradients are free",
            '"2T backward" if self.reads & {"query gradients", "cross"} else "T backward"',
            '"T backward"',
        ),
    ],
    "benchmarks/train/training.py": [
        (
            "running statistics are those of the start",
            "_Best(score, np.int32(epoch + 1), params, statistics)",
            "_Best(score, np.int32(epoch + 1), params, bests[number].statistics)",
            ("tests/benchmarks/test_dense.py",),
        ),
        (
            "the last of equal epochs",
            "if score > bests[number].score",
            "if score >= bests[number].score",
        ),
        (
            "query rows are training rows",
            "_shuffled(query_key, support, total, *sizes)",
            "_shuffled(query_key, [0] * len(total), support, *sizes)",
        ),
        (
            "every epoch has the same order",
            "carries[number] = _Carry(params, state, key)",
            "carries[number] = _Carry(params, state, carries[number].key)",
        ),
        (
            "epochs are chosen by the test split",
            "data, held_out = problem.train, problem.validation",
            "data, held_out = problem.train, problem.test",
            ("tests/benchmarks/test_experiment.py",),
        ),
        ("epochs count from zero", "np.int32(epoch + 1)", "np.int32(epoch)"),
        ("all seeds begin alike", "jax.random.key(seed)", "jax.random.key(0)"),
        (
            "a task's cosine with itself",
            "problem.num_tasks, k=1)",
            "problem.num_tasks, k=0)",
            ("tests/benchmarks/test_recipes.py",),
        ),
    ],
    "benchmarks/train/problem.py": [
        (
            "an evaluation goes by the statistics of its batch",
            "statistics, training=False)[0]",
            "statistics, training=True)[0]",
            ("tests/benchmarks/test_dense.py",),
        ),
        (
            "the mean is over padding too",
            "/ jnp.maximum(jnp.sum(batch.present), 1)",
            "/ batch.present.size",
            ("tests/benchmarks/test_training.py", "tests/benchmarks/test_suites.py"),
        ),
    ],
    "benchmarks/writing.py": [
        (
            "a save is not atomic",
            "        unfinished.write_bytes(",
            "        path.write_text(str(content))\n        unfinished.write_bytes(",
        ),
    ],
    "benchmarks/train/experiment.py": [
        (
            "the validation split is reported",
            "evaluate(problem, params, problem.test, statistics)",
            "evaluate(problem, params, problem.validation, statistics)",
        ),
        (
            "another query fraction is the same cell",
            '            "query_fraction": problem.query_fraction,\n',
            "",
        ),
        ("every seed reports the first", "p[number : number + 1]", "p[:1]"),
        (
            "unfinished trainings stay",
            "        self.store.discard_unfinished(self.row.label)\n",
            "        pass\n",
        ),
        (
            "a search is at the first rate of the grid",
            "rates = (found[EQUAL_WEIGHTING][0].learning_rate,)",
            "rates = rates[:1]",
        ),
        (
            "other seeds train with the first that was searched",
            "trial.learning_rate), trials), made",
            "trial.learning_rate), trials), tried[0][0]",
        ),
        (
            "what was chosen is searched again",
            "row.searched if first is None else (first.chosen,)",
            "row.searched[:1]",
        ),
        (
            "another search is the same cell",
            '{"searched": row.searched} if row.searched else {}',
            "{}",
        ),
    ],
    "benchmarks/results/cells.py": [
        (
            "any configuration will do",
            "return cell if cell.config == config else None",
            "return cell",
        ),
        ("numbers lose digits", "digits: int = 6", "digits: int = 2"),
        (
            "a cell may be another's",
            "if (cell.method, cell.seed) != (method, seed):",
            "if cell.method != method:",
        ),
    ],
    "benchmarks/results/summary.py": [
        ("Bonferroni for Holm", "level / (len(chances) - place)", "level / len(chances)"),
        (
            "the deviation of a population",
            "differences.std(ddof=1) / np.sqrt(seeds)",
            "differences.std() / np.sqrt(seeds)",
        ),
        (
            "a one-sided interval",
            "float(stats.t.ppf(0.975, seeds - 1) * error)",
            "float(stats.t.ppf(0.95, seeds - 1) * error)",
        ),
        (
            "baselines are in Holm's family",
            "for m, (_, _, chance, _) in found.items() if m not in BASELINES}",
            "for m, (_, _, chance, _) in found.items()}",
        ),
        (
            "the smallest difference is that of one test alone",
            "LEVEL / (2 * len(compared))",
            "LEVEL / 2",
        ),
        (
            "the slower of two paces",
            "return min(ours) / min(theirs)",
            "return max(ours) / max(theirs)",
        ),
        ("what diverged ranks first", "signs * values, np.inf)", "signs * values, -np.inf)"),
    ],
    "benchmarks/train/recipes.py": [
        (
            "query gradients are those of the batch",
            "problem.value_and_task_grads(params, query, ",
            "problem.value_and_task_grads(params, batch, ",
        ),
        (
            "DWA's epoch is a step",
            '{"steps_per_epoch": problem.steps_per_epoch, **given}',
            '{"steps_per_epoch": 1, **given}',
        ),
        (
            "heads are never weighted, stacked",
            "problem.shared, info.heads, head_tasks=whose",
            'problem.shared, "unweighted"',
        ),
        (
            "all heads are the first task's",
            "0 if problem.shared(path) else owner(path)",
            "0",
            ("tests/benchmarks/test_dense.py",),
        ),
        (
            "hyper-parameters of optimisers are lost",
            "{**step, **(hyperparameters or {})}",
            "step",
        ),
        (
            "AdaTask takes the gradients as they were",
            "rows = mtl.get(modified, tasks, combine=False, **given)",
            "rows = optax.identity()",
        ),
        (
            "what is added counts as a sum under weights",
            "made.objective(params, batch)[1].mean()",
            "made.objective(params, batch)[1].sum()",
        ),
        (
            "AdvMTL adds nothing",
            "return losses.sum() + added.sum(), (losses, statistics)",
            "return losses.sum(), (losses, statistics)",
        ),
    ],
    "benchmarks/problems/shared_private.py": [
        (
            "features in common cost nothing",
            "LAMBDA * told + GAMMA * alike",
            "LAMBDA * told",
            ("tests/benchmarks/test_text_models.py",),
        ),
        (
            "the discriminator is weighted with the encoder",
            "encoder=in_trunk",
            "encoder=shared",
            ("tests/benchmarks/test_text_models.py",),
        ),
    ],
    "benchmarks/problems/dominance.py": [
        (
            "the first task's share",
            "[histogram[-1] for histogram in",
            "[histogram[0] for histogram in",
            ("tests/benchmarks/test_suites.py",),
        ),
        (
            "step sizes by the sum of squares",
            "summed = jax.tree.map(lambda g: g.sum(axis=0), updates)",
            "summed = jax.tree.map(lambda g: jnp.sqrt((g**2).sum(axis=0)), updates)",
            ("tests/benchmarks/test_suites.py",),
        ),
        (
            "noise in what B dominates least",
            "order = np.argsort(-np.concatenate(",
            "order = np.argsort(np.concatenate(",
            ("tests/benchmarks/test_suites.py",),
        ),
    ],
    "benchmarks/data/synthetic.py": [
        (
            "the cubes are not shared",
            "x**3 @ cube for w1, w2 in (first, second)]",
            "x**3 @ w2 for w1, w2 in (first, second)]",
            ("tests/benchmarks/test_data.py",),
        ),
        (
            "a variance is a deviation",
            'ten = 10.0 if spread == "deviation" else np.sqrt(10.0)',
            "ten = 10.0",
            ("tests/benchmarks/test_data.py",),
        ),
    ],
    "benchmarks/data/digits.py": [
        ("test scans are validation scans", "pairs(held_out, test))", "pairs(check, test))"),
    ],
    "benchmarks/data/tables.py": [
        (
            "standardised by all rows",
            "StandardScaler().fit(raw.numeric[train])",
            "StandardScaler().fit(raw.numeric)",
            ("tests/benchmarks/test_data.py",),
        ),
    ],
    "benchmarks/data/texts.py": [
        (
            "what is held out is all there is",
            "return [rows[i] for i in first], [",
            "return list(rows), [",
            ("tests/benchmarks/test_data.py",),
        ),
    ],
}
MUTATIONS = [Mutation(file, *fault) for file, faults in FAULTS.items() for fault in faults]


def problem(mutation: Mutation) -> str | None:
    """Says why a mutation cannot be applied, with the nearest lines, or returns None."""
    path = ROOT / mutation.file
    if not path.is_file():
        return "no such file"
    text = path.read_text()
    if (count := text.count(mutation.old)) != 1:
        first = mutation.old.strip().splitlines()[0].strip()
        lines = {line.strip(): i for i, line in enumerate(text.splitlines(), 1)}
        near = difflib.get_close_matches(first, lines, n=2, cutoff=0.4)
        found = "".join(f"\n    line {lines[line]}: {line}" for line in near)
        return f"its text occurs {count} times{found}"
    try:
        compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    except SyntaxError as error:
        return f"makes no Python: {error}"
    return None


def subject(mutation: Mutation) -> list[str]:
    """Returns what tests may call it: its file, its methods, the function that holds the text."""
    text = (ROOT / mutation.file).read_text()
    line = text[: text.index(mutation.old)].count("\n") + 1
    names = [pathlib.PurePath(mutation.file).stem]
    names += [method for method in _methods() if f"def {method}(" in text]
    for node in ast.parse(text).body:
        if node.lineno <= line <= (node.end_lineno or 0):
            names.append(getattr(node, "name", ""))
    return [*dict.fromkeys(filter(None, (name.lstrip("_") for name in names)))]


@functools.cache
def _sources() -> dict[str, str]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def related(mutation: Mutation) -> list[str]:
    """Returns the test files to run first: named after the file, or else those that speak of it."""
    stem, side = pathlib.PurePath(mutation.file).stem.lstrip("_"), _side(mutation)
    wanted = re.compile(rf"{side}(.*/)?test_{stem}(_\w+)?\.py")
    found = [path for path in _sources() if wanted.fullmatch(path)]
    if not found and not mutation.first:
        speaks = re.compile(rf"\b_?({'|'.join(subject(mutation))})\b")
        counts = {p: len(speaks.findall(t)) for p, t in _sources().items() if p.startswith(side)}
        found = sorted(filter(counts.get, counts), key=lambda path: -counts[path])[:3]
    return [*dict.fromkeys([*mutation.first, *found])]


def _side(mutation: Mutation) -> str:
    return "tests/benchmarks/" if mutation.file.startswith("benchmarks/") else "tests/"


def _methods() -> list[str]:
    files = sorted((ROOT / "mtl_optax/_methods").glob("*.py"))
    found = (re.findall(r"(?s)^@register\(.*?^def (\w+)", f.read_text(), re.M) for f in files)
    return [name for names in found for name in names]


class Order(NamedTuple):
    """Which tests of those collected run, in what order, and until when."""

    limit: float
    """In CPU seconds."""
    first_cases: bool = False
    """Whether the first case of each test function is enough."""
    skip: tuple[str, ...] = ()
    """Tests, test functions and files to leave out."""
    side: str = ""
    """Where the tests of this part of the repository lie."""
    subject: tuple[str, ...] = ()
    """What tests may call what is broken."""
    others: tuple[str, ...] = ()
    """Methods that have nothing to do with it."""
    words: tuple[str, ...] = ()
    """The beginnings of the words that say what is wrong."""
    speaking: tuple[str, ...] = ()
    """Files of tests that name the subject."""
    slow: tuple[str, ...] = ()
    """Files of tests that start processes."""

    def arranged(self, items: list[Any]) -> list[Any]:
        """Nearest first; then the first cases of all functions; then those named like the fault."""
        seen: set[str] = set()
        keyed = []
        for item in items:
            function, _, case = item.nodeid.partition("[")
            path = function.partition("::")[0]
            words = set(re.findall(r"\w+", case))
            mine = words & set(self.subject)
            foreign = path in COMMON and not mine and words & set(self.others)
            if {item.nodeid, function, path} & set(self.skip) or foreign:
                continue
            if mine:
                rank = 0
            else:
                rank = 1 if path in self.speaking else 2 if path.startswith(self.side) else 4
                rank += 2 * (path in self.slow)
            likeness = len({w[:5] for w in re.findall("[a-z]{4,}", function)} & set(self.words))
            again = function in seen
            seen.add(function)
            if not (again and self.first_cases):
                keyed.append(((rank, again, -likeness), item))
        return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]


class Watch:
    """A plug-in of pytest that orders the tests, keeps count, and ends the run in time."""

    def __init__(self, order: Order, cache: str) -> None:
        self.order, self.cache = order, cache
        self.failed: list[str] = []
        self.passed, self.left = 0, 0
        self.message = ""
        self.broken = ""

    def pytest_sessionstart(self, session: Any) -> None:
        import jax

        self.session, plain = session, jax.config.update

        def update(name: str, value: Any) -> None:
            # The tests' own folder is a new one in each run.
            plain(name, self.cache if name == "jax_compilation_cache_dir" and value else value)

        jax.config.update = update  # type: ignore[method-assign]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = self.order.arranged(items)
        self.left = len(items)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
            crash = getattr(report.longrepr, "reprcrash", None)
            self.message = str(crash.message if crash else report.longrepr)[-300:]
        elif report.when == "call":
            self.passed += 1
        if report.when == "teardown":
            self.left -= 1

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.broken = f"{report.nodeid}: {str(report.longrepr)[-600:]}"

    def pytest_runtest_logfinish(self) -> None:
        if sum(os.times()[:4]) > self.order.limit:
            self.session.shouldstop = "its CPU seconds are used up"


def serve() -> None:
    """Runs pytest again and again, each time in a fork of a process with all imports done."""
    import importlib

    import pytest

    for name in ("cvxpy", "flax.nnx", "hypothesis", "jax.numpy", "optax", "scipy.optimize"):
        importlib.import_module(name)
    sys.path.insert(0, "")
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if not child:
            watch = Watch(Order(**wanted["order"]), wanted["cache"])
            with open(os.devnull) as nothing, open("output.txt", "w") as output:
                os.dup2(nothing.fileno(), 0)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            if wanted["eager"]:
                importlib.import_module("jax").config.update("jax_disable_jit", True)
                # Loops run in Python: some tests would take hours.
                resource.setrlimit(resource.RLIMIT_CPU, (2 * EAGER, 2 * EAGER))
            pytest.main(wanted["arguments"], plugins=[watch])
            found = {
                k: getattr(watch, k) for k in ("failed", "passed", "left", "message", "broken")
            }
            pathlib.Path("found.json").write_text(json.dumps(found))
            os._exit(0)
        signal.signal(signal.SIGALRM, lambda *_, child=child: os.kill(child, signal.SIGKILL))
        signal.alarm(wanted["timeout"])
        _, status, usage = os.wait4(child, 0)
        signal.alarm(0)
        found = json.loads(pathlib.Path("found.json").read_text()) if not status else {}
        if status:
            found = {"message": pathlib.Path("output.txt").read_text()[-1000:]}
        answer = {**found, "status": status, "cpu": usage.ru_utime + usage.ru_stime}
        print(json.dumps(answer), flush=True)


Look = Literal["eager", "near", "far"]
UNDECIDED = {"eager": ("survived", "budget", "hung"), "near": ("survived", "budget"), "far": ()}


class Outcome(NamedTuple):
    """What became of a mutation.

    Attributes:
        status: "killed", "survived", "budget" (some tests never ran), "hung" (or crashed),
            "broken" where the tests could not be collected, "open" or "near" between looks.
    """

    file: str
    name: str
    status: str
    killed_by: str = ""
    message: str = ""
    passed: int = 0
    left: int = 0
    cpu_seconds: float = 0.0


class Copy:
    """A copy of the working tree, in which one mutation after the other is tried."""

    def __init__(self, cache: pathlib.Path, given: argparse.Namespace) -> None:
        self.given, self.cache = given, cache.absolute()
        self.cache.mkdir(parents=True, exist_ok=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mutations-"))
        listing = ["git", "ls-files", "-coz", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        self.server = subprocess.Popen(
            [sys.executable, ROOT / "tests/mutations.py", "--serve"],
            cwd=self.folder,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "MPLBACKEND": "Agg",
                "PYTHONPATH": str(self.folder),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.nice(given.nice),
        )
        self.cpu = 0.0
        self.clock = int(time.time()) - 10**6
        self.sound: set[str] = set()
        self.unsound: dict[bool, set[str]] = {True: set(), False: set()}
        """Tests that pass or fail without a mutation, eagerly or compiled."""

    def close(self) -> None:
        self.server.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pytest(self, arguments: list[str], order: Order, *, eager: bool) -> dict[str, Any]:
        """Runs pytest until the first failure, and returns what `Watch` saw."""
        quiet = "ignore::pytest.PytestAssertRewriteWarning"  # Of what `serve` imports.
        options = ["-n0", "-x", "-q", "--tb=short", "-pno:cacheprovider", "-W", quiet, *arguments]
        request = {
            "arguments": options,
            "cache": str(self.cache),
            "eager": eager,
            "order": order._asdict(),
            "timeout": self.given.timeout,
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        found = json.loads(self.server.stdout.readline())
        self.cpu += found["cpu"]
        return found

    def write(self, path: str, text: str) -> None:
        """Writes a file, with a time of its own: Python's byte code is kept by size and second."""
        (self.folder / path).write_text(text)
        self.clock += 2
        os.utime(self.folder / path, (self.clock, self.clock))

    def attempt(self, mutation: Mutation, look: Look) -> Outcome:
        """Applies a mutation, runs the tests, and takes it back."""
        text = (self.folder / mutation.file).read_text()
        before = self.cpu
        try:
            changed = text.replace(mutation.old, mutation.new)
            outcome = self._look(mutation, text, changed, look)
        finally:
            self.write(mutation.file, text)
        return outcome._replace(cpu_seconds=round(self.cpu - before, 1))

    def _tests(self, mutation: Mutation, look: Look) -> tuple[list[str], Order]:
        """Returns what pytest is to collect, and in what order to run it."""
        names, own = subject(mutation), [mutation.file] * mutation.file.startswith("mtl_optax/")
        method = "/_methods/" in mutation.file
        near, eager = [*own, *related(mutation)], look == "eager"
        speaks = re.compile(rf"\b_?({'|'.join(names)})\b")
        slow = re.compile("subprocess|run_on_devices")
        order = Order(
            EAGER if eager else self.given.budget,
            first_cases=eager,
            skip=(*sorted(self.unsound[eager]), *near * (look == "far")),
            side=_side(mutation),
            subject=tuple(names),
            others=tuple(name for name in _methods() if method and name not in names),
            words=tuple({w[:5] for w in re.findall("[a-z]{4,}", mutation.name)} - _EVERYWHERE),
            speaking=tuple(p for p, text in _sources().items() if speaks.search(text)),
            slow=tuple(p for p, text in _sources().items() if slow.search(text)),
        )
        return ["tests", "mtl_optax"] if look == "far" else [*near, *COMMON * method], order

    def _look(self, mutation: Mutation, text: str, changed: str, look: Look) -> Outcome:
        outcome = Outcome(mutation.file, mutation.name, "survived")
        spent, eager = 0.0, look == "eager"
        while True:
            self.write(mutation.file, changed)
            arguments, order = self._tests(mutation, look)
            order = order._replace(limit=max(1.0, order.limit - spent))
            found = self.pytest(arguments, order, eager=eager)
            spent += found["cpu"]
            if found["status"]:
                return outcome._replace(status="hung", message=found["message"])
            outcome = outcome._replace(passed=found["passed"], left=found["left"])
            if found["broken"]:
                return outcome._replace(status="broken", message=found["broken"])
            if not found["failed"]:
                return outcome._replace(status="budget") if found["left"] else outcome
            by = found["failed"][0]
            if self._is_sound(by, mutation.file, text, eager):
                return outcome._replace(status="killed", killed_by=by, message=found["message"])

    def _is_sound(self, test: str, file: str, text: str, eager: bool) -> bool:
        """Whether a test passes without the mutation."""
        key = f"{test} {eager}"
        if key not in self.sound:
            self.write(file, text)
            found = self.pytest([test], Order(1e9), eager=eager)
            if found["status"] or found["failed"] or not found["passed"]:
                # Without compiling, all cases of such a test are beside the point.
                self.unsound[eager].add(test.partition("[")[0] if eager else test)
                return False
            self.sound.add(key)
        return True


def run(mutations: list[Mutation], given: argparse.Namespace) -> dict[str, Any]:
    """Tries all mutations, first without compiling, and writes the summary as it grows."""
    copies: queue.Queue[Copy] = queue.Queue()
    outcomes: dict[Mutation, Outcome] = {}
    if given.resume:
        known = [Outcome(**row) for row in json.loads(given.resume.read_text())["outcomes"]]
        kept = {(o.file, o.name): o for o in known if o.status in ("killed", "near")}
        outcomes = {m: kept[m[:2]] for m in mutations if m[:2] in kept}
    with contextlib.ExitStack() as stack:
        cache = given.cache or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = [Copy(cache / str(number), given) for number in range(given.processes)]
        for copy in made:
            stack.callback(copy.close)
            copies.put(copy)

        def attempt(mutation: Mutation, look: Look) -> tuple[Mutation, Outcome]:
            copy = copies.get()
            try:
                return mutation, copy.attempt(mutation, look)
            finally:
                copies.put(copy)

        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(given.processes))
        for look in get_args(Look)[: 2 if given.near else 3]:
            undecided = "near" if look == "far" else "open"
            left = [m for m in mutations if m not in outcomes or outcomes[m].status == undecided]
            if look == "eager":  # Solvers and trainings are loops.
                left = [m for m in left if not re.search("_solvers/|benchmarks/", m.file)]
            tries = [pool.submit(attempt, mutation, look) for mutation in left]
            for future in concurrent.futures.as_completed(tries):
                mutation, outcome = future.result()
                if outcome.status in UNDECIDED[look]:
                    outcome = outcome._replace(status="near" if look == "near" else "open")
                spent = outcomes[mutation].cpu_seconds if mutation in outcomes else 0.0
                outcomes[mutation] = outcome._replace(cpu_seconds=spent + outcome.cpu_seconds)
                show(outcomes[mutation])
                if given.out:
                    text = json.dumps(summary(outcomes, made, given), indent=1)
                    given.out.write_text(text + "\n")
        return summary(outcomes, made, given)


def summary(
    outcomes: dict[Mutation, Outcome], copies: list[Copy], given: argparse.Namespace
) -> dict[str, Any]:
    """Returns what is known so far, for JSON."""
    survivors = [m.label for m, outcome in outcomes.items() if outcome.status != "killed"]
    return {
        "killed": len(outcomes) - len(survivors),
        "total": len(outcomes),
        "survivors": sorted(survivors),
        "cpu_seconds": round(sum(outcome.cpu_seconds for outcome in outcomes.values())),
        "budget": given.budget,
        "fail_without_a_mutation": {
            way: sorted(set().union(*(copy.unsound[eager] for copy in copies)))
            for way, eager in (("eager", True), ("compiled", False))
        },
        "outcomes": [outcome._asdict() for outcome in sorted(outcomes.values())],
    }


def show(outcome: Outcome) -> None:
    """Prints a row of the table."""
    by = outcome.killed_by or f"{outcome.passed} tests passed, {outcome.left} did not run"
    if outcome.status in ("broken", "hung"):
        by = outcome.message
    name = f"{outcome.file}: {outcome.name}"
    print(f"{outcome.status:8} {outcome.cpu_seconds:5.0f} s  {name}\n{'':18}{by}", flush=True)


def main() -> int:
    """Runs the chosen mutations; one if any survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-k", default="", help="parts of 'file: name', by commas; all by default")
    parser.add_argument("--list", action="store_true", help="list them, and those out of date")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--budget", type=float, default=600, help="CPU seconds for a mutation")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for a run of pytest")
    parser.add_argument("--nice", type=int, default=10)
    parser.add_argument("--cache", type=pathlib.Path, help="folder for compiled programs to keep")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the summary")
    parser.add_argument("--near", action="store_true", help="leave out the last look")
    parser.add_argument("--resume", type=pathlib.Path, help="summary of a run to go on with")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return 0

    parts = [part.strip() for part in given.k.split(",") if part.strip()]
    chosen = [m for m in MUTATIONS if not parts or any(part in m.label for part in parts)]
    bad = {mutation.label: why for mutation in chosen if (why := problem(mutation))}
    if given.list:
        print(*(mutation.label for mutation in chosen), sep="\n")
    for label, why in bad.items():
        print(f"out of date: {label}: {why}")
    if given.list or bad or not chosen:
        print(f"{len(chosen)} mutations, {len(bad)} out of date")
        return int(bool(bad) or not chosen)
    found = run(chosen, given)
    print(f"killed {found['killed']} of {found['total']}")
    print(*(f"survivor: {name}" for name in found["survivors"]), sep="\n")
    return int(bool(found["survivors"]))


if __name__ == "__main__":
    sys.exit(main())
