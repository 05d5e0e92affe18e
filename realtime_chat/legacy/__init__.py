"""The protocol of the two pages of the chat tutorial of 2013, which still stand on people's servers.

``docs/howto/legacy.rst`` says how to serve them.
"""
