"""Connections to Redis, for the store and the broker. Only this package imports txredisapi."""
