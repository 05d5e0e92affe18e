"""Where the visitors of a shop are, and offers to one of them, by Socket.IO."""

from hashlib import sha256

from realtime_chat.socketio import Application, Namespace, Refused

tabs = {}  # by socket: the visitor, and the page


def seen(visitor):
    """What the staff are told of a visitor. One without pages has left."""
    return "alertAdmin", {"visitor": visitor, "pages": sorted(page for who, page in tabs.values() if who == visitor)}


class Shop(Namespace):
    """One tab of a visitor."""

    def on_connect(self, auth):
        """Enter the room of the visitor, whose tabs share a secret. The staff know its hash alone."""
        self.visitor = sha256(str(auth.get("visitor", self.id)).encode()).hexdigest()[:16]
        self.enter(self.visitor)

    def on_pageChange(self, page):  # noqa: N802
        """Tell the staff where the visitor is."""
        tabs[self.id] = self.visitor, str(page)[:200]
        self.of("/adminchannel").emit(*seen(self.visitor))

    def on_disconnect(self, reason):
        """The tab was closed, or goes to the next page."""
        tabs.pop(self.id, None)
        self.of("/adminchannel").emit(*seen(self.visitor))


class Admins(Namespace):
    """One of the staff."""

    def on_connect(self, auth):
        """Refuse who has no token of the staff, and show who is there."""
        if self.user.id != "admin":
            raise Refused("admins only", {"retry": False})
        for visitor in {visitor for visitor, _ in tabs.values()}:
            self.emit(*seen(visitor))

    def on_adminMessage(self, offer):  # noqa: N802
        """Send an offer to all tabs of one visitor."""
        self.of("/").to(offer["visitor"]).emit("adminBroadcast", offer["text"])


app = Application({"/": Shop, "/adminchannel": Admins})
