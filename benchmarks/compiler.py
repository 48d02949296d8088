"""Options of XLA's compiler, for programs that take longer to compile than to run on a CPU."""

from typing import Any

# Initialisers run once, for milliseconds.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 1}
# The emitters of fused loops take some 10 ms for each loop: programs of many small operations
# compile faster without them (updates of hundreds of leaves more slowly), and run a tenth longer at
# most. One module, not one for each core that can work on it, takes less in all.
WITHOUT_EMITTERS: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
