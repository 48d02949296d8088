"""What `pytest --shapes` checks calls with; for it alone, since beartype need not be installed."""

import jax
from beartype import BeartypeConf, FrozenDict, beartype

# An int is a float, as it is for mypy, and a hyper-parameter may be an array, or traced.
NUMBERS = FrozenDict({float: float | int | jax.Array})

checked = beartype(conf=BeartypeConf(hint_overrides=NUMBERS))
