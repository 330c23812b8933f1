"""Reading a database dump as rows, as a stream: what mysqldump, mariadb-dump and pg_dump write as text.

Two languages, told apart by what only one of them has (a backtick, `COPY`, pg_dump's first lines). Rows come
from `INSERT` with or without a list of columns (then `CREATE TABLE` has told it) and from `COPY`. Nothing is
executed and nothing else is understood: any other statement is skipped to its end, strings and comments in it
included. Memory is bounded by the longest single value, not by the dump.
"""

import codecs
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from cairn.core.errors import Invalid

CHUNK_BYTES = 1 << 18
HEAD_CHARACTERS = 1 << 16  # by which the language is told
TOKEN_CHARACTERS_MAX = 32 << 20  # one value; Keystone's longest is a text of 64 KiB, or 4 MiB
Row = tuple[str, Sequence[str], list[str | None]]
"""A table's name, the columns' names, their values."""

# Only runs of single characters are possessive: of groups, Python before 3.11.5 matches too little.
_SPACE = re.compile(r"(?:\s++|--[^\n]*+\n|#[^\n]*+\n|/\*(?:[^*]++|\*(?!/))*\*/|\\[a-z][^\n]*+\n)*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")
_NAME = re.compile(r'`((?:[^`]++|``)*)`|"((?:[^"]++|"")*)"|([A-Za-z_][A-Za-z0-9_$]*+)')
_PLAIN = r"'((?:[^']++|'')*)'"
_ESCAPED = r"'((?:[^'\\]++|\\.|'')*)'"
_REST = r"|([+-]?[0-9][0-9A-Fa-fxXeE.+-]*+)|((?:null|true|false)\b)|(?:[xX]'([0-9A-Fa-f]*+)')"
_END = r"(?:::[A-Za-z_ \[\]]++)?\s*+([,)])"
_MYSQL_VALUE = re.compile(
    rf"\s*+(?:(?:_[a-z0-9]++\s*+)?{_ESCAPED}{_REST}){_END}", re.IGNORECASE | re.DOTALL
)
_PG_VALUE = re.compile(rf"\s*+(?:{_PLAIN}{_REST}|E{_ESCAPED}){_END}", re.IGNORECASE | re.DOTALL)
# To the end of a statement that says nothing to us.
_MYSQL_SKIP = re.compile(
    r"(?:[^'\"`;#/-]++|'(?:[^'\\]++|\\.)*'|\"(?:[^\"\\]++|\\.)*\"|`[^`]*+`|--[^\n]*+\n|#[^\n]*+\n"
    r"|/\*(?:[^*]++|\*(?!/))*\*/|/(?!\*)|-(?!-))*;",
    re.DOTALL,
)
_PG_SKIP = re.compile(
    r"(?:[^'\"$;/-]++|'[^']*+'|\"[^\"]*+\"|\$([A-Za-z_]*+)\$.*?\$\1\$|\$(?![A-Za-z_]*\$)|--[^\n]*+\n"
    r"|/\*(?:[^*]++|\*(?!/))*\*/|/(?!\*)|-(?!-))*;",
    re.DOTALL,
)
_MYSQL_UNESCAPE = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
_COPY_UNESCAPE = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}
_COPY_CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_NO_COLUMNS = {
    "primary", "unique", "key", "index", "constraint", "check", "foreign", "fulltext", "spatial",
    "exclude", "like", "period",
}  # fmt: skip


def rows(file: Path) -> Iterator[Row]:
    """Every row of every table of a dump. Raises Invalid: the text says where."""
    with file.open("rb") as raw:
        start = raw.read(5)
        raw.seek(0)
        if start == b"PGDMP":
            raise Invalid(
                f"{file.name} is in pg_dump's own format; write it as text: pg_dump --format=plain,"
                " or pg_restore --file=dump.sql of this file."
            )
        if start[:2] == b"\x1f\x8b":
            with gzip.open(raw) as opened:
                yield from _Reader(opened).rows()  # type: ignore[arg-type]
        else:
            yield from _Reader(raw).rows()


class _Reader:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text = ""
        self._at = 0
        self._lines = 1  # before the text that is held
        self._is_over = False
        self._is_mysql = True
        self._columns: dict[str, list[str]] = {}

    def rows(self) -> Iterator[Row]:
        while len(self._text) < HEAD_CHARACTERS and not self._is_over:
            self._more()
        self._is_mysql = self._guess()
        while True:
            self._space()
            if self._is_at_end():
                return
            word = self._try(_WORD)
            match word.lower() if word else "":
                case "insert":
                    yield from self._insert()
                case "create":
                    self._create()
                case "copy" if not self._is_mysql:
                    yield from self._copy()
                case _:
                    self._skip()

    def _guess(self) -> bool:
        head = self._text[:HEAD_CHARACTERS]
        if "PostgreSQL database" in head or "standard_conforming_strings" in head:
            return False
        if "`" in head or "MySQL dump" in head or "MariaDB dump" in head:
            return True
        return not re.search(r"^COPY |^SET search_path", head, re.MULTILINE)

    # --- statements ------------------------------------------------------------------------------

    def _create(self) -> None:
        """Remember the columns of a table in their order; whatever else is created is skipped."""
        words = self._words(("temporary", "unlogged", "table", "if", "not", "exists"))
        if "table" not in words:
            self._skip()
            return
        table = self._table()
        self._space()
        if not self._accept("("):
            self._skip()
            return
        columns: list[str] = []
        while True:
            self._space()
            is_quoted = self._peek() in ("`", '"')
            name = self._name()
            if is_quoted or name.lower() not in _NO_COLUMNS:
                columns.append(name)
            if self._to_comma() == ")":
                break
        self._columns[table] = columns
        self._skip()

    def _to_comma(self) -> str:
        """Past the rest of a column's definition; what ended it."""
        depth = 0
        while True:
            self._space()
            char = self._next()
            if char in ("'", '"', "`"):
                self._at -= 1
                self._match(
                    re.compile(
                        rf"{_ESCAPED if self._is_mysql else _PLAIN}|\"[^\"]*+\"|`[^`]*+`", re.S
                    )
                )
            elif char == "(":
                depth += 1
            elif char == ")" and depth == 0:
                return char
            elif char == ")":
                depth -= 1
            elif char == "," and depth == 0:
                return char

    def _insert(self) -> Iterator[Row]:
        self._words(("into", "ignore", "low_priority", "delayed"))
        table = self._table()
        self._space()
        columns = self._columns.get(table)
        if self._accept("("):
            columns = self._list_of_names()
        words = self._words(("overriding", "system", "user", "value", "values"))
        if not words or words[-1] not in ("values", "value"):
            self._skip()
            return
        if columns is None:
            raise self._wrong(
                f"the columns of table {table} are not told: dump with its CREATE TABLE"
            )
        while True:
            self._space()
            if not self._accept("("):
                raise self._wrong(f"table {table}: rows were expected")
            values = self._values()
            if len(values) != len(columns):
                raise self._wrong(f"table {table}: {len(values)} values for {len(columns)} columns")
            yield table, columns, values
            self._space()
            if not self._accept(","):
                self._skip()
                return

    def _values(self) -> list[str | None]:
        values: list[str | None] = []
        pattern = _MYSQL_VALUE if self._is_mysql else _PG_VALUE
        while True:
            found = self._match(pattern)
            groups = found.groups()
            values.append(self._value(groups))
            if groups[-1] == ")":
                return values

    def _value(self, groups: tuple[str | None, ...]) -> str | None:
        text, number, word, hexadecimal = groups[0], groups[1], groups[2], groups[3]
        if text is not None:
            if not self._is_mysql:
                return text.replace("''", "'")
            return _mysql_unescaped(text) if "\\" in text or "'" in text else text
        if number is not None:
            if number[:2].lower() == "0x":
                return bytes.fromhex(number[2:]).decode(errors="surrogateescape")
            return number
        if word is not None:
            return None if word.lower() == "null" else word.lower()
        if hexadecimal is not None:
            return bytes.fromhex(hexadecimal).decode(errors="surrogateescape")
        escaped = groups[4]  # E'...' of PostgreSQL
        assert escaped is not None, "one of the groups has matched"
        return _copy_unescaped(escaped.replace("''", "'"))

    def _copy(self) -> Iterator[Row]:
        self._space()
        table = self._table()
        self._space()
        columns = self._columns.get(table)
        if self._accept("("):
            columns = self._list_of_names()
        words = self._words(("from", "stdin"))
        self._skip()
        if "stdin" not in words:
            return
        self._line()  # what follows the semicolon
        while (line := self._line()) != "\\.":
            if self._is_at_end():
                raise self._wrong(f"table {table}: the dump ends within its rows")
            values = [
                None if v == "\\N" else _copy_unescaped(v) if "\\" in v else v
                for v in line.split("\t")
            ]
            if columns is None or len(values) != len(columns):
                raise self._wrong(
                    f"table {table}: {len(values)} values for {len(columns or ())} columns"
                )
            yield table, columns, values

    # --- words -----------------------------------------------------------------------------------

    def _words(self, known: Sequence[str]) -> list[str]:
        """As many of these words as follow."""
        found: list[str] = []
        while True:
            self._space()
            word = self._try(_WORD)
            if word is None:
                return found
            if word.lower() not in known:
                self._at -= len(word)
                return found
            found.append(word.lower())

    def _table(self) -> str:
        """The last part of "schema"."table"."""
        name = self._name()
        while self._accept("."):
            name = self._name()
        return name

    def _name(self) -> str:
        self._space()
        found = self._match(_NAME)
        if found[1] is not None:
            return found[1].replace("``", "`")
        if found[2] is not None:
            return found[2].replace('""', '"')
        return found[3]

    def _list_of_names(self) -> list[str]:
        names = []
        while True:
            names.append(self._name())
            self._space()
            end = self._next()
            if end == ")":
                return names
            if end != ",":
                raise self._wrong(f"a comma was expected, not {end!r}")

    def _skip(self) -> None:
        self._match(_MYSQL_SKIP if self._is_mysql else _PG_SKIP, or_end=True)

    # --- characters ------------------------------------------------------------------------------

    def _space(self) -> None:
        """Past spaces and comments; one that is not whole yet is read to its end first."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None, "it matches nothing, too"
            rest = self._text[found.end() : found.end() + 2]
            is_whole = len(rest) == 2 and rest not in ("--", "/*") and rest[0] not in "#\\"
            if is_whole or self._is_over:
                self._at = found.end()
                return
            if len(self._text) - found.end() > TOKEN_CHARACTERS_MAX:
                raise self._wrong("a comment without end")
            self._at = found.end()
            self._more()

    def _try(self, pattern: re.Pattern[str]) -> str | None:
        while len(self._text) - self._at < 256 and not self._is_over:  # longer than any such word
            self._more()
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _match(self, pattern: re.Pattern[str], *, or_end: bool = False) -> re.Match[str]:
        """What matches here. More of the dump is read until it matches whole."""
        while True:
            found = pattern.match(self._text, self._at)
            if found is not None and (found.end() < len(self._text) or self._is_over):
                self._at = found.end()
                return found
            if self._is_over and or_end:
                self._at = len(self._text)
                return re.compile("").match("")  # type: ignore[return-value]
            if self._is_over or len(self._text) - self._at > TOKEN_CHARACTERS_MAX:
                raise self._wrong("this is not understood")
            self._more()

    def _line(self) -> str:
        while (end := self._text.find("\n", self._at)) < 0 and not self._is_over:
            if len(self._text) - self._at > TOKEN_CHARACTERS_MAX:
                raise self._wrong("this line is too long")
            self._more()
        end = len(self._text) if end < 0 else end
        line = self._text[self._at : end]
        self._at = min(end + 1, len(self._text))
        return line.removesuffix("\r")

    def _peek(self) -> str:
        if self._at == len(self._text):
            self._more()
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise self._wrong("the dump ends within a statement")
        self._at += 1
        return char

    def _accept(self, char: str) -> bool:
        if self._peek() == char:
            self._at += 1
            return True
        return False

    def _is_at_end(self) -> bool:
        return not self._peek()

    def _more(self) -> None:
        """Drop what was read and hold twice as much of what was not, so that a long value costs little."""
        if self._is_over:
            return
        rest = len(self._text) - self._at
        data = self._file.read(max(CHUNK_BYTES, rest))
        self._is_over = not data
        self._lines += self._text.count("\n", 0, self._at)
        self._text = self._text[self._at :] + self._decode(data, final=self._is_over)
        self._at = 0

    def _wrong(self, reason: str) -> Invalid:
        line = self._lines + self._text.count("\n", 0, self._at)
        near = self._text[self._at : self._at + 60].encode("utf-8", "replace").decode()
        return Invalid(f"The dump cannot be read at line {line}: {reason}: {near!r}")


def _mysql_unescaped(text: str) -> str:
    plain = text.replace("''", "'")
    return re.sub(r"\\(.)", lambda m: _MYSQL_UNESCAPE.get(m[1], m[1]), plain, flags=re.DOTALL)


def _copy_unescaped(text: str) -> str:
    def meant(found: re.Match[str]) -> str:
        if found[1] is not None:
            return chr(int(found[1], 16))
        if found[2] is not None:
            return chr(int(found[2], 8))
        return _COPY_UNESCAPE.get(found[3], found[3])

    return _COPY_CODE.sub(meant, text)
