"""What a method costs, in time and memory: ``python -m benchmarks speed``."""
