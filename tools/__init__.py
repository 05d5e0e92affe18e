"""Programs for those who work on this package; none of them is installed."""
