"""The training loop of the page on speed and memory, with every way and every method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from tests.common import METHODS, ROOT, WAYS
from tests.docs.test_documents import run_blocks

T = 3


@functools.cache
def page():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    return run_blocks("docs/performance.md", text)


@functools.cache
def batches():
    """Two steps on rows that are orthonormal, for each split.

    Inner products of gradients of the trunk are those of the gradients at the features then, which
    are the trunk's products with the rows, and so all ways agree.
    """
    rng = np.random.default_rng(0)
    rows = [[np.linalg.qr(rng.normal(size=(8, 6)))[0].T for _ in range(2)] for _ in range(2)]
    draw = lambda x: {"x": jnp.asarray(x, jnp.float32), "y": jnp.sin(5 * x[:, :T])}
    return jax.tree.map(lambda x: draw(x), rows)


@pytest.mark.parametrize("name", METHODS)
def test_the_loop_runs_with_every_way(name):
    info = mtl.method_info(name)
    method = mtl.get(name, T)
    tx = mtl.on_shared(method, "trunk", heads=info.heads)
    tx = tx if info.is_optimizer else optax.chain(tx, optax.sgd(0.5))
    found = {}
    for way in WAYS:
        options = {} if way == "stacked" else {"stacked": False, "way": way}
        found[way] = page()["train"](tx, batches(), **options)
    params, losses = found.pop("stacked")
    for way, (others, of_others) in found.items():
        np.testing.assert_allclose(of_others, losses, rtol=1e-4, err_msg=way)
        for leaf, start in page()["start"].items():
            moved = np.abs(params[leaf] - start).max()
            assert moved > 1e-4, leaf
            error = np.abs(others[leaf] - params[leaf]).max()
            assert error < 1e-3 * moved + 1e-6, (way, leaf)
