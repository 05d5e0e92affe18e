"""A Sphinx extension that draws the package from its imports, and lists its modules by their docstrings.

``.. package-map::`` draws one box for each package. ``.. package-map:: core presence`` draws one box for each module of
these packages. ``.. module-table:: core`` lists a package's modules with the first sentence of each docstring.
``.. states:: Subscription`` shows the table of states from the module that defines the class.
An arrow points at what is imported. An arrow is left out if a longer way of arrows says the same.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path
from textwrap import dedent
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import imports

START = ("tap", "options", "option_combinations", "option_values", "config_file", "composition", "service")
"""The modules beside the packages that put everything together. All other ones are the base."""

LINE, LETTER, GAP, RISE = 17, 7.2, 26, 40
"""Height of a line, width of a letter, space between two boxes and between two rows, in pixels."""

Graph = Mapping[str, set[str]]


def modules() -> list[str]:
    """Every module but those of packages themselves."""
    return [name for name in imports.modules() if not (imports.PACKAGE / name.replace(".", "/")).is_dir()]


def home(module: str) -> str:
    """The box that a module stands in, where one box is one package."""
    first, _, rest = module.partition(".")
    return first if rest else "start" if first in START else "base"


def graph_of(box: Mapping[str, str]) -> dict[str, set[str]]:
    """Which box imports which.

    :param box: the box of each module that is drawn.
    """
    graph: dict[str, set[str]] = {name: set() for name in box.values()}
    for module, name in box.items():
        graph[name] |= {box[one] for one in imports.own_imports(module) if one in box and box[one] != name}
    return graph


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that a box imports, directly or by others."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def merged(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The boxes that import each other, for each box; such boxes stand side by side."""
    below = {name: reachable(graph, name) for name in graph}
    return {name: tuple(sorted({name} | {one for one in below[name] if name in below[one]})) for name in graph}


def ranks(graph: Graph) -> dict[str, int]:
    """The row of each box, from the bottom; each stands above everything that it imports."""
    together = merged(graph)
    joined = {
        group: {together[one] for name in group for one in graph[name]} - {group} for group in set(together.values())
    }
    rank: dict[tuple[str, ...], int] = {}
    for group in TopologicalSorter(joined).static_order():
        rank[group] = 1 + max((rank[below] for below in joined[group]), default=-1)
    return {name: rank[group] for name, group in together.items()}


def arrows(graph: Graph) -> Iterator[tuple[str, str]]:
    """The imports that are drawn: those that no longer way shows."""
    for name in sorted(graph):
        for imported in sorted(graph[name]):
            others = graph[name] - {imported}
            if not any(imported in reachable(graph, other) and name not in reachable(graph, other) for other in others):
                yield name, imported


def texts(box: Mapping[str, str], packages: bool) -> dict[str, list[str]]:
    """What stands in each box: its name, and below it the modules of a package."""
    lines: dict[str, list[str]] = {
        name: [name + "/" * (packages and name not in ("start", "base"))] for name in box.values()
    }
    if packages:
        inside = defaultdict(list)
        for module, name in box.items():
            inside[name].append(module if name in ("start", "base") else module.partition(".")[2])
        for name, names in inside.items():
            lines[name] += wrapped(names)
    return lines


def wrapped(words: Iterable[str], width: int = 44) -> list[str]:
    """Words in lines of at most ``width`` letters."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + word
    return lines


class Place:
    """A box: the left and upper edge, and the size, in pixels."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.width = max(map(len, lines)) * LETTER + 18
        self.height = len(lines) * LINE + 12
        self.x = self.y = 0.0

    def svg(self) -> str:
        """The rectangle and its text."""
        rows = "".join(
            f'<text x="{self.x + 9:.0f}" y="{self.y + 18 + LINE * row:.0f}"'
            f' font-weight="{"normal" if row else "bold"}">{escape(line)}</text>'
            for row, line in enumerate(self.lines)
        )
        return (
            f'<rect x="{self.x:.0f}" y="{self.y:.0f}" width="{self.width:.0f}" height="{self.height:.0f}" rx="5"'
            f' fill="#f4f6f8" stroke="#668"/>{rows}'
        )


def lay_out(graph: Graph, lines: Mapping[str, list[str]]) -> tuple[dict[str, Place], float, float]:
    """The boxes in their rows, the highest row first; and the size of the whole."""
    places = {name: Place(lines[name]) for name in graph}
    rows: dict[int, list[str]] = defaultdict(list)
    for name, rank in sorted(ranks(graph).items()):
        rows[rank].append(name)
    widths = [sum(places[name].width + GAP for name in names) for names in rows.values()]
    width, y = max(widths) + GAP, 10.0
    for rank in sorted(rows, reverse=True):
        x = (width - sum(places[name].width + GAP for name in rows[rank]) + GAP) / 2
        for name in rows[rank]:
            places[name].x, places[name].y = x, y
            x += places[name].width + GAP
        y += max(places[name].height for name in rows[rank]) + RISE
    return places, width, y - RISE + 10


def arrow(upper: Place, lower: Place) -> str:
    """One arrow, from the lower edge of what imports to the upper edge of what is imported."""
    x1, x2 = upper.x + upper.width / 2, lower.x + lower.width / 2
    y1, y2 = upper.y + upper.height, lower.y - 2
    if upper.y == lower.y:
        x1, x2 = (upper.x + upper.width, lower.x - 2) if upper.x < lower.x else (upper.x, lower.x + lower.width + 2)
        y1 = y2 = upper.y + (14 if upper.x < lower.x else 24)
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"'
        ' fill="none" stroke="#446" marker-end="url(#tip)"/>'
    )


def draw(names: list[str]) -> str:
    """An SVG of all packages, or of the modules of some."""
    if names:
        box = {module: module for module in modules() if module.partition(".")[0] in names}
    else:
        box = {module: home(module) for module in modules()}
    graph = graph_of(box)
    places, width, height = lay_out(graph, texts(box, not names))
    lines = "".join(arrow(places[one], places[other]) for one, other in arrows(graph))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img"'
        ' style="max-width: 100%; height: auto" font-family="monospace" font-size="12">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#446"/></marker></defs>'
        f"{lines}{''.join(place.svg() for place in places.values())}</svg>"
    )


def summary(module: str) -> str:
    """The first sentence of a module's docstring."""
    first = (ast.get_docstring(imports.modules()[module]) or "").partition("\n\n")[0]
    return re.split(r"(?<=[.!?]) (?=[A-Z`])", " ".join(first.split()))[0]


class PackageMap(Directive):
    """``package-map``: a picture of what imports what."""

    optional_arguments = 10

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", draw(self.arguments), format="html")]


class ModuleTable(Directive):
    """``module-table``: the modules of a package, each with the first sentence of its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        items = nodes.bullet_list()
        for module in modules():
            if home(module) == name:
                path = f"{module.replace('.', '/')}.py"
                text = nodes.paragraph("", "", nodes.literal(text=path))
                parsed, _ = self.state.inline_text(f": {summary(module)}", self.lineno)
                text += parsed
                items += nodes.list_item("", text)
        return [items]


def states(name: str) -> str:
    """The table of states in the docstring of the module that defines a class."""
    (doc,) = [
        ast.get_docstring(tree) or ""
        for tree in imports.modules().values()
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)
    ]
    (table,) = re.findall(r"^ +state +event .*?(?=\n\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    return dedent(table).rstrip()


class States(Directive):
    """``states``: a table of states, as it stands in the code."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = states(self.arguments[0])
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Any) -> dict[str, Any]:
    """Add the directives to Sphinx."""
    app.add_directive("package-map", PackageMap)
    app.add_directive("module-table", ModuleTable)
    app.add_directive("states", States)
    return {"parallel_read_safe": True}
