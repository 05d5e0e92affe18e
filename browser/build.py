"""Makes ``realtime_chat/static/realtime.js`` of the files in ``src``: ``make js``.

Comments and white space go, variables get short names, and so do the properties that nobody else knows. The same
sources give the same bytes, and a test holds the built file to them. It understands what stands in ``src``: ECMAScript
5 with all its semicolons, without ``eval`` and ``with``, and with every case and label left out.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

STATIC = Path(__file__).parents[1] / "realtime_chat" / "static"
BUILT = STATIC / "realtime.js"

FILES = (
    *("basics", "backoff", "memory", "emitter"),
    *("websocket", "http", "poll", "sse", "jsonp"),
    *("link", "outbox", "presence", "room", "connection", "wakeful", "realtime"),
)
"""In the order in which they follow each other: one function is around all of them."""

_HEAD = "(function (window) {\n"
_TAIL = "}(typeof window === 'object' ? window : {}));\n"
_NOTICE = "/* realtime_chat, MIT licence */\n"

_TOKEN = re.compile(
    r"(?P<blank>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<string>'(?:[^'\\\n]|\\.)*')"
    r"|(?P<regex>(?<=\()/(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*)"
    r"|(?P<word>[A-Za-z_$][\w$]*|\d[\w.]*)"
    r"|(?P<sign>[-+*/=!<>&|%]+|.)",
    re.DOTALL,
)
_PROTOTYPE = "$"
_WORD = re.compile(r"[A-Za-z_$][\w$]*")
_IN_WORD = re.compile(r"[\w$]")
_KEYWORDS = frozenset(
    """
    break case catch continue delete do else false finally for function if in instanceof new null return switch this
    throw true try typeof var void while
    """.split()  # noqa: SIM905
)
_SHORTER = {"true": ("!", "0"), "false": ("!", "1")}
# Which letter stands for what makes up to 150 bytes when it is gzipped. These are found by trying: by changing one
# after the other at random, and keeping what isn't longer. Any others give a script that does the same.
_LETTERS = "etnircoaxsdbOpyhEfgjlkuzRvAImSwqNTUCLDMPHFGVBWYXKQJZ"
_SHARED_LETTERS = "dbzplajxqEVhkiPNMCDoSUAgXOBuyHrGLvcmfWRswIneQKJZFYTt"
_PROPERTY_LETTERS = "enrxfcudpgvaEAohkRTszNbyjltwOSIimqUCLDMPHFGVBWYXKQJZ"
_USUAL = dict(
    pair.split(":")
    for pair in """
    action:e after:n answer:t callback:e connection:e count:s data:t delay:s done:a entry:o event:e giveUp:c i:n
    id:n item:t kept:t made:d names:e options:t own:e part:e position:e query:e read:t script:t self:s socket:a
    take:c timer:b token:t wait:h why:t
    """.split()  # noqa: SIM905
)
_LAST = frozenset(("break", "continue", "return", "throw"))
_NO_BODY = frozenset(("do", "for", "if", "try", "var", "while", "}"))
_TOO_SHORT = frozenset(("do", "if", "in", "as", "is", "of"))

# Properties that nobody but us knows: neither pages nor browsers nor the server. One that is missing here stays long.
_OURS = frozenset(
    """
    abortSending add address admit adopt again alive answered arrived ask askPart askWhy asked attemptFailed
    attempts attend awaited barred base begin begun bid bye check checkCaughtUp connection
    covered deadline doubtful down dress drop dropOpening eachLink eachRoom emit end enter entered
    entering exclude expected extend failures first flush flushLater forget giveUp gone greet handle hasChanged hear
    heard held hold identified isOpen isOver isReading isSending isUp kept kind kinds lastId letter line link listen
    listeners longest longestLine missed most mostRooms names next objection ondown onevent onup opened opening
    outbox ownState parts patience pause pings places polled probe probeLater probeTimer probes proceed put query
    queue read readAgain readMore reads received refusals refuse refused remember replied request retryLater
    retryTimer rooms say secrets sendLater settle shaky share show silence skip slack socket sources stop stopAsking
    stored survives takeBatch takePart tell text timer trouble trying turns unfit upSince users vague vanished
    version wait waiting wanted wasUp watch wishes
    """.split()  # noqa: SIM905
)


def source() -> str:
    """All sources as one script, comments included."""
    directory = Path(__file__).parent / "src"
    return _HEAD + "".join((directory / f"{name}.js").read_text("utf-8") for name in FILES) + _TAIL


def build() -> bytes:
    """The script as it is served."""
    words = [match for match in _TOKEN.finditer(source()) if match.lastgroup != "blank"]
    tokens = _name_prototypes(_put_numbers([token for match in words for token in _SHORTER.get(match[0], (match[0],))]))
    tokens = _without_braces(tokens)
    renamed = _shorten_properties(tokens)
    for index, name in _shorten_variables(tokens).items():
        renamed[index] = name
    return (_NOTICE + _join([renamed.get(index, token) for index, token in enumerate(tokens)]) + "\n").encode()


def _join(tokens: list[str]) -> str:
    parts: list[str] = []
    for token in tokens:
        if token == "}" and parts and parts[-1] == ";":
            parts.pop()
        if parts and _IN_WORD.match(token) and _IN_WORD.match(parts[-1][-1]):
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def _put_numbers(tokens: list[str]) -> list[str]:
    """Put numbers where their names stand (``var QUEUE = 100;``)."""
    numbers: dict[str, str] = {}
    rest: list[str] = []
    index = 0
    while index < len(tokens):
        var, name, sign, number, end = (*tokens[index : index + 5], *[""] * 4)[:5]
        if (var, sign, end) == ("var", "=", ";") and name.isupper() and number[0].isdigit():
            numbers[name] = number
            index += 5
        else:
            rest.append(var)
            index += 1
    return [numbers.get(token, token) for token in rest]


def _name_prototypes(tokens: list[str]) -> list[str]:
    """Say ``X.prototype`` once for the methods that follow each other."""
    shorter, named, index = ["var", _PROTOTYPE, ";"], None, 0
    shorter = tokens[:6] + shorter  # behind "(function (window) {"
    index = 6
    while index < len(tokens):
        owner, *rest = tokens[index : index + 6]
        if rest[:3] == [".", "prototype", "."] and rest[4:] == ["="] and tokens[index - 1] in (";", "}"):
            if owner != named:
                shorter += [_PROTOTYPE, "=", owner, ".", "prototype", ";"]
                named = owner
            shorter += [_PROTOTYPE, "."]
            index += 4
        else:
            shorter.append(tokens[index])
            index += 1
    return shorter


def _without_braces(tokens: list[str]) -> list[str]:
    """Leave out the braces around simple statements after ``if``, ``for``, ``while`` and ``else``: commas join them."""
    shorter: dict[int, str] = {}
    for index, token in enumerate(tokens):
        begin = index + 1
        if token in ("if", "for", "while") and tokens[begin] == "(":
            begin = _end_of(tokens, begin) + 1
        elif token != "else":
            continue
        if tokens[begin] == "{":
            end = _end_of(tokens, begin)
            ends = _simple_ends(tokens, begin + 1, end)
            if ends and ends[-1] == end - 1:
                shorter |= {begin: "", end: ""} | dict.fromkeys(ends[:-1], ",")
    return [short for index, token in enumerate(tokens) if (short := shorter.get(index, token))]


def _end_of(tokens: list[str], begin: int) -> int:
    """Where the bracket is closed that is opened at ``begin``."""
    depth, index = 1, begin
    while depth:
        index += 1
        depth += (tokens[index] in ("(", "[", "{")) - (tokens[index] in (")", "]", "}"))
    return index


def _simple_ends(tokens: list[str], begin: int, end: int) -> list[int]:
    """Where the statements between two braces end; none, if one is more than an expression."""
    ends: list[int] = []
    while begin < end and tokens[begin] not in _NO_BODY:
        index = begin
        while index < end and tokens[index] != ";":
            index = _end_of(tokens, index) + 1 if tokens[index] in ("(", "[", "{") else index + 1
        if tokens[begin] in _LAST and (ends or index + 1 < end):
            return []
        ends.append(index)
        begin = index + 1
    return ends if begin == end else []


# Properties: one of ours has the same short name everywhere.


def _is_property(tokens: list[str], index: int) -> bool:
    before, after = tokens[index - 1], tokens[index + 1]
    return before == "." or (after == ":" and before in "{,")


def _shorten_properties(tokens: list[str]) -> dict[int, str]:
    places = [index for index, token in enumerate(tokens) if _WORD.fullmatch(token) and _is_property(tokens, index)]
    names = Counter(tokens[index] for index in places)
    fresh = _short_names(frozenset(names) - _OURS, _PROPERTY_LETTERS)
    short = {name: next(fresh) for name in _by_use(names) if name in _OURS}
    return {index: short[tokens[index]] for index in places if tokens[index] in _OURS}


def misnamed() -> set[str]:
    """Names that can't be short ones: pages know them, or they stand in a string, perhaps to find a property by."""
    strings = {match[0][1:-1] for match in _TOKEN.finditer(source()) if match.lastgroup == "string"}
    types = re.sub(r"/\*.*?\*/", "", (STATIC / "realtime.d.ts").read_text("utf-8"), flags=re.DOTALL)
    return set(_OURS & (strings | set(_WORD.findall(types))))


# Variables: a function's own are named anew in it, by letters that nothing in it means already.


class _Scope:
    """A function: what it declares, and where names stand that mean something of its own or of what is around it."""

    def __init__(self, parent: _Scope | None) -> None:
        self.parent = parent
        self.inner: list[_Scope] = []
        self.declared: set[str] = set()
        self.used: list[int] = []
        if parent is not None:
            parent.inner.append(self)


def _shorten_variables(tokens: list[str]) -> dict[int, str]:
    renamed: dict[int, str] = {}
    top = _read_scopes(tokens)
    _resolve(top, tokens)
    _name(top, tokens, {}, renamed)
    return renamed


def _read_scopes(tokens: list[str]) -> _Scope:
    scope = top = _Scope(None)
    depths: list[int] = []  # of braces, where the functions that are open began
    depth, index = 0, 0
    while index < len(tokens):
        token = tokens[index]
        if token == "function":
            if tokens[index + 1] != "(":
                scope.declared.add(tokens[index + 1])
                scope.used.append(index + 1)
                index += 1
            scope = _Scope(scope)
            depths.append(depth)
            while tokens[index] != "{":
                index += 1
                if _is_variable(tokens, index):
                    scope.declared.add(tokens[index])
                    scope.used.append(index)
            depth += 1
        elif token in "{}":
            depth += 1 if token == "{" else -1
            if depths and depth == depths[-1]:
                depths.pop()
                assert scope.parent is not None
                scope = scope.parent
        elif token == "var":
            scope.declared.update(_declared(tokens, index))
        elif _is_variable(tokens, index):
            scope.used.append(index)
            if tokens[index - 2 : index] == ["catch", "("]:
                scope.declared.add(token)
        index += 1
    return top


def _is_variable(tokens: list[str], index: int) -> bool:
    token = tokens[index]
    return bool(_WORD.fullmatch(token)) and token not in _KEYWORDS and not _is_property(tokens, index)


def _declared(tokens: list[str], index: int) -> Iterator[str]:
    """The names between a ``var`` and its end, with what they are set to left out."""
    depth = 0
    while depth > 0 or tokens[index] not in (";", "in"):
        if depth == 0 and tokens[index] in ("var", ","):
            yield tokens[index + 1]
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(tokens[index], 0)
        index += 1


def _resolve(scope: _Scope, tokens: list[str]) -> None:
    """Hand what a function doesn't declare on to the one around it, innermost first."""
    for inner in scope.inner:
        _resolve(inner, tokens)
        scope.used += [index for index in inner.used if tokens[index] not in inner.declared]


def _name(scope: _Scope, tokens: list[str], outer: dict[str, str], renamed: dict[int, str], depth: int = 0) -> None:
    own = [name for name in dict.fromkeys(tokens[index] for index in sorted(scope.used)) if name in scope.declared]
    taken = {outer.get(tokens[index], tokens[index]) for index in scope.used if tokens[index] not in scope.declared}
    names: dict[str, str] = {}
    if depth == 0:
        names = {name: name for name in own}
    for name in own if depth > 1 else ():  # the usual letter, where it is free
        letter = _USUAL.get(name)
        if letter is not None and letter not in taken:
            names[name] = letter
            taken.add(letter)
    fresh = _short_names(frozenset(taken), _LETTERS if depth > 1 else _SHARED_LETTERS)
    names |= {name: next(fresh) for name in own if name not in names}
    renamed.update({index: names[tokens[index]] for index in scope.used if tokens[index] in scope.declared})
    for inner in scope.inner:
        _name(inner, tokens, outer | names, renamed, depth + 1)


def _by_use(names: Counter[str]) -> list[str]:
    return sorted(names, key=lambda name: (-names[name], name))


def _short_names(taken: frozenset[str], letters: str) -> Iterator[str]:
    for length in itertools.count(1):
        for parts in itertools.product(letters, repeat=length):
            name = "".join(parts)
            if name not in taken and name not in _TOO_SHORT:
                yield name


if __name__ == "__main__":
    BUILT.write_bytes(build())
