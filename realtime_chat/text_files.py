"""Files of text that an operator writes, and what is said when one can't be used."""

from __future__ import annotations

_MAX = 1024 * 1024


class FileRefused(ValueError):
    """A file can't be used, and a person has to act.

    :param line: where in the file, from 1; None if it is about the whole file.
    :param what: what was wrong, and what would be right.
    """

    def __init__(self, path: str, line: int | None, what: str) -> None:
        self.line = line
        super().__init__(f"{path}: {what}" if line is None else f"{path}, line {line}: {what}")


def read_text_file(path: str, right: str) -> str:
    """Read a file.

    :param right: what would be right, for the message.
    :raises FileRefused: it can't be read, is larger than a mebibyte, or isn't in UTF-8.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX + 1)
    except OSError as error:
        raise FileRefused(path, None, f"it can't be read ({error.strerror}); right would be {right}") from error
    if len(raw) > _MAX:
        raise FileRefused(path, None, f"it has more than a mebibyte; right would be {right}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FileRefused(path, line, f"this is no text in UTF-8; right would be {right}") from None
