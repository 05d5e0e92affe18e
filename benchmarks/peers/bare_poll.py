"""The floor of long polls under Twisted: a NOT_DONE_YET resource over a list. bare_poll.py PORT"""

import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

messages = []
waiting = []


def answer(request, since):
    request.setHeader(b"Position", b"%d" % len(messages))
    request.write(b"[" + b",".join(messages[since:]) + b"]")
    request.finish()


class PollResource(Resource):
    isLeaf = True

    def render_GET(self, request):
        since = int(request.args[b"since"][0])
        if since < len(messages):
            answer(request, since)
        else:
            waiting.append((request, since))
        return NOT_DONE_YET


class PublishResource(Resource):
    isLeaf = True

    def render_POST(self, request):
        messages.append(b'"' + request.content.read() + b'"')
        answered, waiting[:] = waiting[:], []
        for waiter in answered:
            answer(*waiter)
        return b"ok"


root = Resource()
root.putChild(b"poll", PollResource())
root.putChild(b"publish", PublishResource())
reactor.listenTCP(int(sys.argv[1]), Site(root), backlog=1024, interface="127.0.0.1")
reactor.run()
