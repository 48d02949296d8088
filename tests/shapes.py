"""What `pytest --shapes` checks calls with; for it alone, since beartype need not be installed."""

from beartype import BeartypeConf, beartype

# An int is a float, as it is for mypy.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
