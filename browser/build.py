"""Builds ``realtime_chat/static/realtime.js`` from the files in ``src``: ``make js``.

It removes comments and white space, and gives variables and private properties short names. The same sources give the
same bytes; a test compares the built file with them. It only understands the JavaScript that ``src`` uses: ECMAScript 5
with all semicolons, without ``eval``, ``with``, ``case`` and labels.
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
    *("basics", "backoff", "page_storage", "emitter"),
    *("websocket", "http", "poll", "sse", "jsonp"),
    *("link", "outbox", "presence", "properties", "room", "connection", "token", "page_events", "realtime"),
)
"""The sources, in order; one function surrounds all of them."""

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
# The choice of letters changes the gzipped size by up to 150 bytes. These were found by a random search, which swaps
# letters and keeps what isn't longer. Any others give a script that does the same.
_LETTERS = "etnirclaxsMpmyqXhjSILogGKTYEOZdBzFkuvURfVbNwWCQPAHJD"
_SHARED_LETTERS = "dsmplaSxuBbhWiOMIyHoNUAGXCZEzDrgLvcjfVRFwTneQKJPkYqt"
_PROPERTY_LETTERS = "escrnGjBOzUmodTkyapihALtESIDqHvRxQMYJugPZKwVFCbXflNW"
_USUAL = dict(
    pair.split(":")
    for pair in """
    abort:c action:e after:n answer:t callback:e cause:t connection:n count:s data:t delay:s done:a entry:o event:e
    group:e i:n id:n item:t made:d names:e onPage:c options:t own:e position:e query:e script:t self:s sendQuery:t
    socket:a storage:e timer:b token:t wait:h
    """.split()  # noqa: SIM905
)
_LAST = frozenset(("break", "continue", "return", "throw"))
_NO_BODY = frozenset(("do", "for", "if", "try", "var", "while", "}"))
_TOO_SHORT = frozenset(("do", "if", "in", "as", "is", "of"))

# Private properties: neither pages nor browsers nor the server know them. A property that is missing here stays long.
_OURS = frozenset(
    """
    abortDiagnosis abortPost acceptJoin add addPageListeners address answerPings area arrived attemptFailed attempts
    base beacon bye candidate canGoOn changeState check checkCaughtUp clientStorage closeAll closeOpening
    confirmFromLog connectedAt connection covered decorate diagnose dropRoom eachLink eachPageListener eachRoom emit
    emitMessage end endQueries endRoom enqueue everConnected expiredToken extendTimeout failures failWhere finish
    finishJoin firstSent flush forget getToken groupCount groups handle handleError handlePoll handleReply
    handleResponse handles hasTokens heldEvents hold identityRefused idleTimeout inDoubt isAmbiguous isAsking isClosed
    isIdentityRefused isLeft isNewlyExpired isOpen isReading isSending isUp isUser joinAccepted joinFailures joinOn
    joinRefused joinReply json keepToken kind lastError lastId link linkLost listeners logChanged maxBatch
    maxBatchLength maxLineLength maxRooms memberState moveTo needsToken newHandle ondown onEvent onevent onGap onReply
    onup opening openLink openSource openTimeout openTimer originError outbox pageListeners pause pendingPings
    pendingRequests pollAgain post postSoon presenceVersion probe probeCount probeLater probeTimer promote propertyLog
    publication queries query queue read readsProperties readStarted readWaiting received refused refuseRoom
    removeRoom renewalDue renewFailed renewFailures renewLater renewTimer request resetTo restartWatchdog retryLater
    retryTimer roomNames roomsByName roomsChanged runQuery saveClient sayHello sendCommand sendToken sentBy setRights
    sets settings settle shortConnections socket sources startIndex startOver startPoll stop streamJoined streamOpened
    succeed takeBatch takeGroup timer tokenAnswered tokenFailed tokenWarned transferTime transportNames
    transportStorage tryNext unanswered unopened unpause unseen unusable urlFor useToken validate wait waitingRooms
    welcomed withToken
    """.split()  # noqa: SIM905
)


def source() -> str:
    """All sources as one script, with comments."""
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
    """Replace named numbers (``var MAX_PENDING = 100;``) by their values."""
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
    """Assign ``X.prototype`` to a variable for a sequence of methods."""
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
    """Join simple statements after ``if``, ``for``, ``while`` and ``else`` by commas, and remove their braces."""
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
    """The index of the bracket that closes the one at ``begin``."""
    depth, index = 1, begin
    while depth:
        index += 1
        depth += (tokens[index] in ("(", "[", "{")) - (tokens[index] in (")", "]", "}"))
    return index


def _simple_ends(tokens: list[str], begin: int, end: int) -> list[int]:
    """The ends of the statements between two braces; empty if one of them is not an expression."""
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


# Properties: a private one has the same short name everywhere.


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
    """Private names that must not be shortened: pages or the server know them, or a string has them.

    A string may be used to find a property. The server's names are those of all fields in the specification.
    """
    strings = {match[0][1:-1] for match in _TOKEN.finditer(source()) if match.lastgroup == "string"}
    types = re.sub(r"/\*.*?\*/", "", (STATIC / "realtime.d.ts").read_text("utf-8"), flags=re.DOTALL)
    fields = re.findall(r'"(\w+)":', (STATIC.parents[1] / "docs" / "protocol.rst").read_text("utf-8"))
    return set(_OURS & (strings | set(fields) | set(_WORD.findall(types))))


# Variables: each function gives its own ones letters that nothing else in it uses.


class _Scope:
    """A function: the names that it declares, and the places where it uses its own or outer names."""

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
    """The names that a ``var`` statement declares."""
    depth = 0
    while depth > 0 or tokens[index] not in (";", "in"):
        if depth == 0 and tokens[index] in ("var", ","):
            yield tokens[index + 1]
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(tokens[index], 0)
        index += 1


def _resolve(scope: _Scope, tokens: list[str]) -> None:
    """Pass the names that a function doesn't declare on to the outer one, innermost first."""
    for inner in scope.inner:
        _resolve(inner, tokens)
        scope.used += [index for index in inner.used if tokens[index] not in inner.declared]


def _name(scope: _Scope, tokens: list[str], outer: dict[str, str], renamed: dict[int, str], depth: int = 0) -> None:
    own = [name for name in dict.fromkeys(tokens[index] for index in sorted(scope.used)) if name in scope.declared]
    taken = {outer.get(tokens[index], tokens[index]) for index in scope.used if tokens[index] not in scope.declared}
    names: dict[str, str] = {}
    if depth == 0:
        names = {name: name for name in own}
    for name in own if depth > 1 else ():  # the usual letter, if it is free
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
