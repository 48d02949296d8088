"""What the tasks of a table can share, by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.models.cross import DCN, DCNV2
from benchmarks.models.experts import PLE, MMoE, SharedBottom

BACKBONES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"shared_bottom": SharedBottom, "mmoe": MMoE, "ple": PLE, "dcn": DCN, "dcn_v2": DCNV2}
)
