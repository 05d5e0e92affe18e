"""How a store and a broker reach Redis; the one place that imports txredisapi."""
