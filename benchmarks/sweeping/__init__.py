"""A suite over one number: ``python -m benchmarks sweep``."""
