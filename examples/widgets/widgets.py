"""Widgets: parts of a page whose model lives here. ``update`` redraws one in every browser."""

from jinja2 import Environment
from markupsafe import Markup

ROOM = "widgets"
_templates = Environment(autoescape=True)


class Widget:
    """A part of a page. A subclass declares its template, and the parameters that it begins with.

    A template has HTML, and names in double braces. So Jinja2 here and Mustache in the browser make the same of it. If
    ``each`` names a parameter, that is a list, and the template is drawn for each of its items.
    """

    template = ""
    each = None
    parameters = {}

    def __init__(self, name):
        self.name = name
        self.chat = None

    def attach(self, chat, values):
        """Use a connection to the daemon, and go on with the model that the room has, if it has one."""
        self.chat = chat
        self.parameters = values.get(self.name, self.parameters)

    def update(self, **parameters):
        """Change parameters. Returns a Deferred, which fires when all browsers are told."""
        self.parameters = {**self.parameters, **parameters}
        return self.chat.set(ROOM, self.name, self.parameters)

    def render(self):
        """The HTML of the widget as it is now, for a page that is loaded."""
        template = _templates.from_string(self.template)
        items = [self.parameters] if self.each is None else self.parameters[self.each]
        return Markup("").join(Markup(template.render(item)) for item in items)


class Talk(Widget):
    """The last messages."""

    template = "<li><b>{{ author }}</b>: {{ text }}</li>"
    each = "messages"
    parameters = {"messages": []}


class Count(Widget):
    """How many messages there were."""

    template = "{{ count }} messages so far, the last one by {{ author }}."
    parameters = {"count": 0, "author": "nobody"}
