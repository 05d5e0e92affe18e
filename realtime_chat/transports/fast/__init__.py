"""Everything that goes past Twisted and Autobahn on the side of the transports, because it is faster.

:mod:`~realtime_chat.transports.fast.choice` says what the rest of the package uses, and puts the parts together, once
for each kind. :mod:`~realtime_chat.transports.fast.plain` has all of it without a trick, and is slower.

Each module with a trick begins with what the trick gives. Its ``LEANS_ON`` names what it uses beyond the documented
interfaces, as ``module:attribute``. A test checks that all of these still exist.
"""
