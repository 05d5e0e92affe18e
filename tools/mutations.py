"""Small changes to Python, Lua and JavaScript, such as ``<`` for ``<=``, for :mod:`tools.mutants`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import PurePath
from typing import NamedTuple

__all__ = ["Mutation", "mutations"]


class Mutation(NamedTuple):
    """A change to one place of a file.

    :ivar start: the index of the first character that is replaced.
    :ivar end: the index behind the last one.
    :ivar new: what replaces them.
    :ivar operator: the kind of change.
    :ivar function: the qualified name of the function of Python that it is in; empty outside of functions.
    :ivar names: outside of functions, what the changed statement defines.
    """

    start: int
    end: int
    new: str
    operator: str
    function: str = ""
    names: frozenset[str] = frozenset()

    def apply(self, text: str) -> str:
        """The changed text of the file."""
        return text[: self.start] + self.new + text[self.end :]

    def line(self, text: str) -> int:
        """The number of the line where it begins."""
        return text.count("\n", 0, self.start) + 1

    def lines(self, text: str) -> tuple[str, str]:
        """The changed lines before and after, with single spaces."""
        first = text.rfind("\n", 0, self.start) + 1
        last = text.find("\n", self.end)
        last = len(text) if last < 0 else last
        after = text[first : self.start] + self.new + text[self.end : last]
        return " ".join(text[first:last].split()), " ".join(after.split())


@cache
def mutations(path: str, text: str) -> Sequence[Mutation]:
    """All changes that can be made to a file, in its order; the kind of the path says which language it is in."""
    return sorted(set(_LANGUAGES[PurePath(path).suffix](text)))


_LARGE = 100


def _numbers(number: float) -> Iterator[str]:
    """Neighbours of a small whole number; others are doubled, as nothing may hang on one more byte or second."""
    if isinstance(number, int) and abs(number) <= _LARGE:
        yield str(number + 1)
        if number > 0:
            yield str(number - 1)
    else:
        yield repr(number * 2 or 1.0)


# Python: a tree of nodes says where they are. Operators have no place of their own: they are between their operands.

_COMPARED: Mapping[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: (r"is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: (r"in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
_SUMS_OF: Mapping[type[ast.operator], tuple[str, str]] = {ast.Add: ("+", "-"), ast.Sub: ("-", "+")}
_NOT_CODE = frozenset(("Interface", "Protocol", "TypedDict"))
_LOGS = frozenset(("critical", "debug", "error", "failure", "info", "warn", "warning"))
_ABOUT_TYPES = frozenset(("Logger", "NewType", "ParamSpec", "TypeVar", "implementer", "overload"))
_TEXTS = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple)


def _python(text: str) -> Iterator[Mutation]:
    finder = _Finder(text)
    finder.visit(ast.parse(text))
    return iter(finder.found)


class _Finder(ast.NodeVisitor):
    """Finds the changes; whatever has no visit method here is searched through."""

    def __init__(self, text: str) -> None:
        self.found: list[Mutation] = []
        self._text = text
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._scope: tuple[str, ...] = ()
        self._function = ""
        self._names: frozenset[str] = frozenset()

    def _index(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._index(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._index(node.end_lineno, node.end_col_offset)

    def _add(self, start: int, end: int, new: str, operator: str) -> None:
        names = frozenset() if self._function else self._names
        self.found.append(Mutation(start, end, new, operator, self._function, names))

    def _replace(self, node: ast.expr | ast.stmt, new: str, operator: str) -> None:
        self._add(self._start(node), self._end(node), new, operator)

    def _between(self, left: ast.expr, right: ast.expr, pattern: str, *new: str) -> None:
        """Replace the operator between two operands. Comments and brackets may be there too."""
        begin, end = self._end(left), self._start(right)
        blank = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0]), self._text[begin:end])
        bounded = rf"\b{pattern}\b" if pattern[0].isalpha() else re.escape(pattern)
        operator = re.search(bounded, blank)
        assert operator is not None, ast.unparse(left)
        for one in new:
            self._add(begin + operator.start(), begin + operator.end(), one, f"{operator[0]} to {one}")

    @contextmanager
    def _inside(self, name: str, is_function: bool) -> Iterator[None]:
        before = self._scope, self._function, self._names
        local = ("<locals>",) if self._function and self._scope[-1] != "<class>" else ()
        scope = tuple(part for part in self._scope if part != "<class>")
        self._scope = (*scope, *local, name)
        if is_function:
            self._function = ".".join(self._scope)
        else:
            self._names |= {name}
            self._scope = (*self._scope, "<class>")
        yield
        self._scope, self._function, self._names = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
        if not bases & _NOT_CODE:
            with self._inside(node.name, is_function=False):
                self._visit_all(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
        if node.name == "__repr__" or decorators & _ABOUT_TYPES:
            return
        with self._inside(node.name, is_function=True):
            self._visit_all([*_defaults_read(node), *node.body])

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        with self._inside("<lambda>", is_function=True):
            self._visit_all([*node.args.defaults, node.body])

    def _visit_all(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _assign(self, targets: list[ast.expr], value: ast.expr | None) -> None:
        names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        if value is None or names & {"__all__", "__slots__"}:
            return
        before = self._names
        self._names |= names
        self._visit_all([*targets, value])
        self._names = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assign(node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._assign([node.target], node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if not _is_text(node.value) and type(node.op) in _SUMS_OF:
            old, new = _SUMS_OF[type(node.op)]
            self._between(node.target, node.value, f"{old}=", f"{new}=")
        self.visit(node.value)

    def visit_If(self, node: ast.If | ast.IfExp | ast.While) -> None:
        test = node.test
        if "TYPE_CHECKING" in ast.unparse(test):
            return
        if isinstance(test, ast.Constant):
            self._visit_all(node.body if isinstance(node.body, list) else [node.body])
            return
        if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript):  # it isn't changed otherwise
            start, end = self._start(test), self._end(test)
            self._add(start, end, f"not {self._text[start:end]}", "negated")
        self.generic_visit(node)

    visit_IfExp = visit_While = visit_If

    def _skip(self, node: ast.AST) -> None:
        """Nothing in it is changed. Of an f-string, Python 3.11 says wrongly where the parts are."""

    visit_Import = visit_ImportFrom = visit_Assert = visit_JoinedStr = _skip

    def visit_match_case(self, node: ast.match_case) -> None:
        self._visit_all([*([] if node.guard is None else [node.guard]), *node.body])

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Call):
            if _is_log(value):
                return
            self._replace(node, "pass", "call removed")
        if not isinstance(value, ast.Constant):
            self.visit(value)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in _ABOUT_TYPES or _is_log(node):
            return
        self.visit(node.func)
        self._visit_all(node.args[1:] if name == "cast" else node.args)
        self._visit_all([keyword.value for keyword in node.keywords])

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            pattern, new = _COMPARED[type(operator)]
            self._between(left, right, pattern, *new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            start = self._start(node)
            self._add(start, start + len("not "), "", "not removed")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not (_is_text(node.left) or _is_text(node.right)) and type(node.op) in _SUMS_OF:
            self._between(node.left, node.right, *_SUMS_OF[type(node.op)])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, str(not value), f"{value} to {not value}")
        elif isinstance(value, int | float):
            for new in _numbers(value):
                self._replace(node, new, "number")

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is not None:
            if not (isinstance(value, ast.Constant) and value.value is None):
                self._replace(node, "return None", "returns None")
            self.visit(value)

    def visit_Break(self, node: ast.Break | ast.Continue) -> None:
        old, new = ("break", "continue") if isinstance(node, ast.Break) else ("continue", "break")
        self._replace(node, new, f"{old} to {new}")

    visit_Continue = visit_Break


def _defaults_read(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """The defaults of parameters that a function reads: that of another, which only a base class has, is nothing."""
    names, defaults = function.args.posonlyargs + function.args.args, function.args.defaults
    by_name = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    pairs = [*zip(names[len(names) - len(defaults) :], defaults, strict=True), *by_name]
    read = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
    return [default for parameter, default in pairs if default is not None and parameter.arg in read]


def _is_text(node: ast.expr) -> bool:
    """Whether it is something that minus fails on, which any test of that line would notice."""
    return isinstance(node, _TEXTS) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _is_log(call: ast.Call) -> bool:
    owner, _, method = ast.unparse(call.func).rpartition(".")
    return method in _LOGS and "log" in owner.rpartition(".")[2].lower()


# Lua and JavaScript: tokens are enough. Comments are no tokens, and what is in strings isn't looked at.


class _Token(NamedTuple):
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_JAVASCRIPT_TOKEN = re.compile(
    r"(?P<blank>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<string>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|`(?:[^`\\]|\\.)*`)"
    r"|(?P<number>\d[\w.]*)"
    r"|(?P<word>[A-Za-z_$][\w$]*)"
    r"|(?P<sign>===|!==|>>>|[-+*/%&|<>=!]=|&&|\|\||\+\+|--|<<|>>|=>|\?\?|.)",
    re.DOTALL,
)
_REGEX = re.compile(r"/(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_LUA_TOKEN = re.compile(
    r"(?P<blank>\s+|--\[\[.*?\]\]|--[^\n]*)"
    r"|(?P<string>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|\[\[.*?\]\])"
    r"|(?P<number>\d[\w.]*)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign>[=~<>]=|\.\.\.?|.)",
    re.DOTALL,
)
_BEFORE_OPERAND = frozenset(
    "and case delete do else elseif if in instanceof not or return then throw typeof until void while".split()  # noqa: SIM905
)
_STATEMENTS = _BEFORE_OPERAND | frozenset(
    "break catch continue end false finally for function goto local new nil null repeat switch true try var".split()  # noqa: SIM905
)
_SWAPPED = {
    "===": ("!==",),
    "!==": ("===",),
    "==": ("!=", "~="),
    "!=": ("==",),
    "~=": ("==",),
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "&&": ("||",),
    "||": ("&&",),
    "and": ("or",),
    "or": ("and",),
    "true": ("false",),
    "false": ("true",),
    "+=": ("-=",),
    "-=": ("+=",),
    "++": ("--",),
    "--": ("++",),
}
_SUMS = {"+": "-", "-": "+"}


def _tokens(text: str, pattern: re.Pattern[str], has_regex: bool) -> list[_Token]:
    found: list[_Token] = []
    index = 0
    while index < len(text):
        match = None
        if has_regex and text[index] == "/" and not _ends_operand(found[-1:]):
            match = _REGEX.match(text, index)
        kind = "string"
        if match is None or text[index + 1] in "/*":
            match = pattern.match(text, index)
            assert match is not None
            kind = str(match.lastgroup)
        if kind != "blank":
            found.append(_Token(kind, match[0], index))
        index = match.end()
    return found


def _ends_operand(tokens: list[_Token]) -> bool:
    """Whether an operator that follows has this to its left."""
    if not tokens:
        return False
    (token,) = tokens
    return token.text in (")", "]") or (token.kind != "sign" and token.text not in _BEFORE_OPERAND)


def _close(tokens: list[_Token], index: int) -> int:
    """The index of the bracket that closes the one at ``index``."""
    depth = 0
    while True:
        depth += (tokens[index].text in _OPENING) - (tokens[index].text in _CLOSING)
        if depth == 0:
            return index
        index += 1


def _chain_end(tokens: list[_Token], index: int) -> int:
    """The index behind names, dots and calls, such as ``this.a.b(c)[d]``."""
    while index < len(tokens) and tokens[index].kind == "word" and tokens[index].text not in _STATEMENTS:
        index += 1
        while index < len(tokens) and tokens[index].text in ("(", "["):
            index = _close(tokens, index) + 1
        if index >= len(tokens) or tokens[index].text not in (".", ":"):
            break
        index += 1
    return index


def _javascript(text: str) -> Iterator[Mutation]:
    tokens = _tokens(text, _JAVASCRIPT_TOKEN, has_regex=True)
    yield from _token_swaps(tokens, "!=")
    for index, token in enumerate(tokens):
        last = tokens[index - 1].text if index else ";"
        if token.text == "!":
            yield Mutation(token.start, token.end, "", "! removed")
        elif token.text in ("break", "continue"):
            other = "continue" if token.text == "break" else "break"
            yield Mutation(token.start, token.end, other, f"{token.text} to {other}")
        elif token.text == "return" and tokens[index + 1].text != ";":
            end = index
            while tokens[end].text != ";":
                end = _close(tokens, end) + 1
            yield Mutation(token.end, tokens[end].start, "", "returns undefined")
        elif token.text in ("if", "while") and tokens[index + 1].text == "(":
            close = _close(tokens, index + 1)
            if _chain_end(tokens, index + 2) == close:
                yield Mutation(tokens[index + 2].start, tokens[index + 2].start, "!", "negated")
        elif last in ("{", "}", ";") and token.text != "console":
            end = _chain_end(tokens, index)
            if end > index and tokens[end - 1].text == ")" and tokens[end].text == ";":
                yield Mutation(token.start, tokens[end].start, "", "call removed")


def _lua(text: str) -> Iterator[Mutation]:
    tokens = _tokens(text, _LUA_TOKEN, has_regex=False)
    yield from _token_swaps(tokens, "~=")
    tokens.append(_Token("sign", "end", len(text)))
    for index, token in enumerate(tokens[:-1]):
        if token.text == "not":
            yield Mutation(token.start, token.end + 1, "", "not removed")
        elif token.text == "break":
            yield Mutation(token.start, token.end, "", "break removed")
        elif token.text == "return":
            end = index + 1
            while tokens[end].text not in ("end", "else", "elseif", "until", "function"):
                end = _close(tokens, end) + 1
            if end > index + 1 and tokens[end].text != "function" and tokens[index + 1].text != "nil":
                yield Mutation(token.start, tokens[end - 1].end, "return nil", "returns nil")
        elif token.text in ("if", "elseif", "while"):
            end = _chain_end(tokens, index + 1)
            if end > index + 1 and tokens[end].text in ("then", "do"):
                yield Mutation(token.end, token.end, " not", "negated")
        elif text[text.rfind("\n", 0, token.start) + 1 : token.start].isspace() or text[token.start - 1] == "\n":
            end = _chain_end(tokens, index)
            line_ends = end > index and "\n" in text[tokens[end - 1].end : tokens[end].start]
            if line_ends and tokens[end - 1].text == ")" and not _goes_on(tokens[index - 1]):
                yield Mutation(token.start, tokens[end - 1].end, "", "call removed")


def _goes_on(token: _Token) -> bool:
    """Whether a statement of Lua can't end there."""
    return (token.kind == "sign" and token.text not in _CLOSING) or token.text in ("and", "or", "not", "return")


def _token_swaps(tokens: list[_Token], unequal: str) -> Iterator[Mutation]:
    for index, token in enumerate(tokens):
        before, after = tokens[index - 1 : index], tokens[index + 1 : index + 2]
        if token.kind == "number":
            number = float(token.text) if "." in token.text else int(token.text, 0)
            for new in _numbers(number):
                yield Mutation(token.start, token.end, new, "number")
        elif token.text in _SWAPPED and token.kind != "string":
            for new in _SWAPPED[token.text]:
                if not (new in ("!=", "~=") and new != unequal):
                    yield Mutation(token.start, token.end, new, f"{token.text} to {new}")
        elif token.text in _SUMS and _ends_operand(before) and "string" not in {one.kind for one in (*before, *after)}:
            new = _SUMS[token.text]
            yield Mutation(token.start, token.end, new, f"{token.text} to {new}")


_LANGUAGES: Mapping[str, Callable[[str], Iterator[Mutation]]] = {".py": _python, ".lua": _lua, ".js": _javascript}
