"""One frame of each kind with every field filled, made from the types themselves.

So no field is forgotten, and the same file makes the frames of an older release when it is run over that
release's source.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from cairn.wire import link


def frames() -> Iterator[tuple[str, Struct]]:
    """Every kind of frame by name, those with a choice inside once for each: "Question.OpenScreen"."""
    for kind in _members(types.type_info(link.Frame)):
        choices = {
            field.name: _members(field.type)
            for field in kind.fields
            if isinstance(field.type, types.UnionType) and len(_members(field.type)) > 1
        }
        if not choices:
            yield kind.cls.__name__, _filled(kind)
        for name, members in choices.items():
            for member in members:
                frame = msgspec.structs.replace(_filled(kind), **{name: _filled(member)})
                yield f"{kind.cls.__name__}.{member.cls.__name__}", frame


def _members(kind: Any) -> list[Any]:
    """The Structs that a type may be."""
    if isinstance(kind, types.UnionType):
        return [one for one in kind.types if isinstance(one, types.StructType)]
    return [kind] if isinstance(kind, types.StructType) else []


def _filled(kind: Any, number: int = 0) -> Any:
    """A Struct with something in each field; its enumerations have their member of this number."""
    return kind.cls(**{field.name: _value(field.type, field.name, number) for field in kind.fields})


def _value(kind: Any, name: str, number: int) -> Any:
    match kind:
        case types.UnionType():
            something = next(one for one in kind.types if not isinstance(one, types.NoneType))
            return _value(something, name, number)
        case types.StructType():
            return _filled(kind, number)
        case types.EnumType():
            members: list[Enum] = list(kind.cls)
            return members[number % len(members)]
        case types.VarTupleType():
            return tuple(_value(kind.item_type, name, n) for n in range(_variety(kind.item_type)))
        case types.TupleType():
            return tuple(_value(one, name, number) for one in kind.item_types)
        case types.DictType():
            return {_value(kind.key_type, name, 0): _value(kind.value_type, name, 0)}
        case types.StrType():
            return f"{name} {number}"
        case types.BytesType():
            return name.encode()
        case types.BoolType():
            return True
        case types.IntType():
            return len(name) + number
        case types.FloatType():
            return len(name) + 0.5
    raise TypeError(f"{name}: no sample for {kind}")


def _variety(kind: Any) -> int:
    """How many of a kind show every member of its enumerations."""
    if isinstance(kind, types.EnumType):
        return len(list(kind.cls))
    if isinstance(kind, types.StructType):
        return max([_variety(field.type) for field in kind.fields], default=1)
    if isinstance(kind, types.UnionType):
        return max((_variety(one) for one in kind.types), default=1)
    return 1
