"""Who looks at which page of a shop, and an offer to one visitor.

Start it with ``twistd -n realtime --app monitoring:app``. In the shop's pages::

    const socket = io("/");
    socket.emit("pageChange", {page: location.pathname});
    socket.on("adminBroadcast", (offer) => alert(offer.text));

In the page of the staff::

    const admin = io("/adminchannel", {auth: {token: "secret"}});
    admin.on("alertAdmin", ({page, socketID}) => show(page, socketID));
    admin.emit("adminMessage", {socketID, text: "10 % off"}, (sent) => console.log(sent));
"""

from realtime_chat.socketio import Application, Namespace, Refused


class Shop(Namespace):
    """One visitor."""

    def on_pageChange(self, user):  # noqa: N802
        """Tell the staff where the visitor is."""
        self.of("/adminchannel").emit("alertAdmin", {**user, "socketID": self.id})


class Admins(Namespace):
    """One of the staff."""

    def on_connect(self, auth):
        """Let in who knows the password. A real shop has tokens; see docs/howto/access.rst."""
        if auth.get("token") != "secret":
            raise Refused("admins only", {"retry": False})

    def on_adminMessage(self, offer):  # noqa: N802
        """Send an offer to one visitor."""
        self.of("/").to(offer["socketID"]).emit("adminBroadcast", offer)


app = Application({"/": Shop, "/adminchannel": Admins})
