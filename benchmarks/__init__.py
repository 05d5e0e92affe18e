"""What the daemon costs, measured side by side with others: ``python -m benchmarks``; see ``docs/performance.rst``."""
