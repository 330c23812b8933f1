"""The language of policy rules: a rule's text to a tree, and nothing about who asks.

Source: oslo.policy, "Policy Rule Expressions" (documentation of module oslo_policy.policy). Words are parted
by white space, parentheses stand at a word's ends, `not` binds tighter than `and`, that tighter than `or`.
What oslo.policy logs and takes for "never", is refused here with its reason.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

from msgspec import Struct

DEPTH_MAX = 50  # parentheses in each other
_FIELD = re.compile(r"%\(([^()]*)\)s")


class BadRule(Exception):
    """A rule that says nothing clear; the text is the reason."""


class Always(Struct, frozen=True):
    pass


class Never(Struct, frozen=True):
    pass


class Named(Struct, frozen=True):
    """Another rule of the table: `rule:name`."""

    name: str


class Role(Struct, frozen=True):
    """The caller has the role: `role:name`."""

    match: "Template"


class Compared(Struct, frozen=True):
    """A field of the caller, or a literal, is the same text as the other side."""

    kind: str  # the field's name; "" with a literal
    literal: str | None
    match: "Template"


class Not(Struct, frozen=True):
    of: "Expression"


class And(Struct, frozen=True):
    of: tuple["Expression", ...]


class Or(Struct, frozen=True):
    of: tuple["Expression", ...]


class Template(Struct, frozen=True):
    """Text with fields of the target in it: ("", "") and ("project_id",) for `%(project_id)s`."""

    texts: tuple[str, ...]  # one more than fields
    fields: tuple[str, ...]


Expression: TypeAlias = Always | Never | Named | Role | Compared | Not | And | Or


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """The tree of a rule's text; an empty one always allows. Raises BadRule."""
    words = list(_words(text))
    return _Parser(words).whole() if words else Always()


def parse_lists(rule: list[object]) -> Expression:
    """The old form: a list of alternatives, each a check or a list of checks that must all hold."""
    if not rule:
        return Always()
    choices: list[Expression] = []
    for inner in rule:
        checks = [inner] if isinstance(inner, str) else inner
        if not isinstance(checks, list) or not all(isinstance(c, str) for c in checks):
            raise BadRule("a list of lists holds texts only: [[role:admin], [role:a, role:b]]")
        if checks:
            parts = tuple(_check(c) for c in checks)
            choices.append(parts[0] if len(parts) == 1 else And(parts))
    if not choices:
        return Never()
    return choices[0] if len(choices) == 1 else Or(tuple(choices))


def leaves(expression: Expression) -> Iterator[Named | Role | Compared]:
    """Everything in it that asks something."""
    match expression:
        case Named() | Role() | Compared():
            yield expression
        case Not(of=inner):
            yield from leaves(inner)
        case And(of=several) | Or(of=several):
            for part in several:
                yield from leaves(part)


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        inner = word.lstrip("(")
        yield from "(" * (len(word) - len(inner))
        bare = inner.rstrip(")")
        if bare:
            yield bare
        yield from ")" * (len(inner) - len(bare))


class _Parser:
    """Recursive descent over: expression = term {"or" term}; term = factor {"and" factor}."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        found = self._expression()
        if self._at != len(self._words):
            raise BadRule(f"'{self._words[self._at]}' is not expected after '{self._before()}'")
        return found

    def _expression(self) -> Expression:
        terms = [self._term()]
        while self._accept("or"):
            terms.append(self._term())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _term(self) -> Expression:
        factors = [self._factor()]
        while self._accept("and"):
            factors.append(self._factor())
        return factors[0] if len(factors) == 1 else And(tuple(factors))

    def _factor(self) -> Expression:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise BadRule(f"it is nested more than {DEPTH_MAX} deep")
        try:
            if self._accept("not"):
                return Not(self._factor())
            if self._accept("("):
                inner = self._expression()
                if not self._accept(")"):
                    raise BadRule("a parenthesis is not closed")
                return inner
        finally:
            self._depth -= 1
        if self._at == len(self._words):
            raise BadRule(f"it ends after '{self._before()}'; a check must follow")
        word = self._words[self._at]
        if word.lower() in ("and", "or", ")"):
            raise BadRule(f"a check is missing before '{word}'")
        self._at += 1
        return _check(word)

    def _accept(self, word: str) -> bool:
        if self._at < len(self._words) and self._words[self._at].lower() == word:
            self._at += 1
            return True
        return False

    def _before(self) -> str:
        return self._words[self._at - 1] if self._at else ""


def _check(word: str) -> Expression:
    if word == "@":
        return Always()
    if word == "!":
        return Never()
    kind, colon, match = word.partition(":")
    if not colon or not kind:
        raise BadRule(f"'{word}' is no check; a check is @, ! or kind:value, such as role:admin")
    if kind == "rule":
        return Named(match)
    if kind == "role":
        return Role(_template(match))
    if kind in ("http", "https"):
        raise BadRule(f"'{word}': asking another server is not supported")
    literal = _literal(kind)
    return Compared("" if literal is not None else kind, literal, _template(match))


def _literal(kind: str) -> str | None:
    """The text of 'x', "x", 12, True or None; None for the name of a field."""
    try:
        return str(ast.literal_eval(kind))
    except ValueError:
        return None
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        if re.fullmatch(r"[\w.:-]+", kind):
            return None
        raise BadRule(f"'{kind}' is neither a field of the caller nor a literal") from error


def _template(match: str) -> Template:
    parts = _FIELD.split(match)
    texts, fields = parts[::2], parts[1::2]
    if any("%" in text.replace("%%", "") for text in texts):
        raise BadRule(f"'{match}': a field of the target is written %(name)s")
    if "%" in match:
        texts = [text.replace("%%", "%") for text in texts]
    return Template(tuple(texts), tuple(fields))
