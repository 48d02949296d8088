"""Strict JAX and quick compilation for every test, and the options of the property tests."""

import importlib
import os
import tempfile
import typing

# Nearly all that the tests take is XLA's compiling, of programs that run for milliseconds. These
# make it an eighth, in this process and those that it starts; an XLA_FLAGS of yours stays as it is.
# What must hold as users compile it goes through `tests.common.optimised`.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)

import hypothesis
import jax
import jaxtyping
import optax
import pytest

# They have no doctests, and need torch.
collect_ignore = ["peers/record.py", "peers/others.py"]

# A method must not lean on implicit broadcasting: user code may forbid it.
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz", type=int, metavar="N", help="draw N new examples in each fuzz test, not 50 fixed"
    )
    parser.addoption(
        "--shapes", action="store_true", help="check each call against the shapes of its signature"
    )
    parser.addoption(
        "--all-shapes", action="store_true", help="--shapes, and fail if a function is not called"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "nans: makes a NaN on purpose, with JAX_DEBUG_NANS=1 too")
    config.option.shapes |= config.option.all_shapes
    if config.option.shapes:
        # Else Optax's protocols cannot be asked whether a function is one of them.
        for protocol in (optax.TransformInitFn, optax.TransformUpdateExtraArgsFn):
            typing.runtime_checkable(protocol)
        jaxtyping.install_import_hook("mtl_optax", "tests.shapes.checked")
        config.pluginmanager.register(_Shapes(importlib.import_module("tests.shapes")))
    if config.getoption("fuzz"):
        hypothesis.settings.register_profile(
            "fuzz",
            hypothesis.settings.get_profile("default"),
            derandomize=False,
            max_examples=config.getoption("fuzz"),
        )
        hypothesis.settings.load_profile("fuzz")


class _Shapes:
    """Says at the end which functions with arrays in their signatures no test has called."""

    def __init__(self, shapes):
        self.shapes = shapes

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.shapes.called.update(node.workeroutput["called"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["called"] = sorted(self.shapes.called)
        elif session.config.option.all_shapes and self.not_called():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for name in self.not_called():
            terminalreporter.line(f"not called: {name}")

    def not_called(self):
        return sorted(self.shapes.with_arrays() - self.shapes.called)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once():
    """Tests make the same programs again and again, out of functions of their own."""
    # One folder for each worker: JAX writes there without a lock.
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        yield


# XLA maps several pieces of memory per program, and Linux allows a process 65,530 of them: a
# worker that keeps every program of the suite ends in a segmentation fault.
_MOST_PROGRAMS = 1000
_programs = 0


def _count(event, _duration, **_):
    global _programs
    _programs += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture(autouse=True)
def _forget_programs():
    global _programs
    yield
    if _programs > _MOST_PROGRAMS:
        jax.clear_caches()
        _programs = 0


@pytest.fixture(autouse=True)
def _nans_on_purpose(request):
    with jax.debug_nans(jax.config.jax_debug_nans and "nans" not in request.keywords):
        yield
