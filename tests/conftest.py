"""Strict JAX for every test, and the options of the property tests."""

import hypothesis
import jax

# A method must not lean on implicit broadcasting: user code may forbid it.
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("default")
