"""The benchmarks are programs of their own, in JAX's default precision."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def _default_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="package", autouse=True)
def _no_data_set_at_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCIKIT_LEARN_DATA", str(tmp_path_factory.mktemp("sets")))
        yield


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, to be spoiled."""
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path
