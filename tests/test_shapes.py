"""What `pytest --shapes` sees, and whom it asks of."""

import jax.numpy as jnp
import jaxtyping
import pytest
from jaxtyping import Array, Float

from tests import shapes


@jaxtyping.jaxtyped(typechecker=shapes.checked)
def first(rows: Float[Array, "T N"]) -> Float[Array, " N"]:
    if rows.ndim == 1:
        raise ValueError("in its own words")
    return rows[0] if len(rows) > 1 else rows[0, :1]


def test_a_call_against_the_signature_is_refused_by_the_function_or_else_by_the_check():
    assert first(jnp.ones((2, 3))).shape == (3,)
    assert f"{__name__}.first" in shapes.called
    for bad in (jnp.ones((1, 3)), jnp.ones((2, 3, 4)), jnp.ones((2, 3), jnp.int32)):
        with pytest.raises(jaxtyping.TypeCheckError):
            first(bad)
    with pytest.raises(ValueError, match="in its own words"):
        first(jnp.ones(3))


def test_functions_with_arrays_in_their_signatures_are_known_by_their_names():
    names = shapes.with_arrays()
    assert {"mtl_optax._gram.gram", "mtl_optax._evidence.Evidence.relative"} <= names
    assert "mtl_optax._frame.from_weighting.<locals>.update_fn" in names
    assert "mtl_optax._registry.get" not in names
