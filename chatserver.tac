"""The daemon for ``twistd -ny chatserver.tac``; options stand in REALTIME_OPTIONS, as on a command line."""

import os
import shlex

from twisted.application.service import Application

from realtime_chat.tap import Options, makeService

options = Options()
options.parseOptions(shlex.split(os.environ.get("REALTIME_OPTIONS", "")))
application = Application("realtime_chat")
makeService(options).setServiceParent(application)
