"""The options that suites on tables share."""

from typing import Literal

Backbone = Literal["shared_bottom", "mmoe", "ple"]
"""What the tasks share."""
