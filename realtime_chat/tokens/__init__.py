"""Tokens: the keys that verify them, and what they may say (``docs/howto/access.rst``)."""
