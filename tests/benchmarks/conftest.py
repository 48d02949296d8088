"""The benchmarks are programs of their own, in JAX's default precision."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def _default_precision():
    with jax.enable_x64(False):
        yield
