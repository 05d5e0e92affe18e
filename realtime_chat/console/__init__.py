"""``realtime-chat``: rooms from the command line (``docs/howto/console.rst``)."""
