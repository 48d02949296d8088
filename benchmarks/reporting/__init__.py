"""``python -m benchmarks report``: all results on one page, and as Markdown tables."""
