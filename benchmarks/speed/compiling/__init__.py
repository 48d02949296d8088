"""What it costs to compile each method: ``python -m benchmarks compile``."""
