"""Reading the pickled dictionaries of CIFAR's "python version" without unpickling them.

``pickletools.genops`` lists the opcodes of a pickle and executes none. The few that a Python 2 dictionary of strings,
numbers, lists and one numpy array needs are followed here; any other opcode, and any global but numpy's own array and
dtype, is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError

__all__ = ["read_pickled"]

_RECONSTRUCT = "numpy.core.multiarray _reconstruct"
_ARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
_MOST_TUPLES = 100


def read_pickled(raw: bytes, name: str) -> dict[str, Any]:
    """Return the dictionary in ``raw``: values are str (Latin-1), int, bool, None, list, tuple, or uint8 arrays.

    Args:
        raw: a pickle of protocol 0 to 2 that Python 2 wrote.
        name: of the file, for messages.

    Raises:
        DataError: cut off, damaged, or anything but such a dictionary.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(raw):
            machine.step(opcode.name, argument)
        return {str(key): _value(value) for key, value in machine.result().items()}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{name} is not a batch of the official python version: {error or type(error).__name__}",
            "nothing in it was executed",
        ) from error


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(eq=False)
class _Object:
    """A call that was written down and not made, and the state that was to be set on its result."""

    function: str
    arguments: Any
    state: Any = None


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    tuples: int = 0

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        else:
            raise ValueError(f"opcode {opcode} has no place there")

    def result(self) -> dict[Any, Any]:
        if len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            raise ValueError("it does not hold one dictionary")
        return self.stack[0]

    def protocol(self, number: int) -> None:
        if number > 2:
            raise ValueError(f"pickle protocol {number}, expected 2 at most")

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def tuple_of(self, count: int) -> None:
        items = self.stack[-count:]
        if len(items) != count:
            raise IndexError("too few items for a tuple")
        del self.stack[-count:]
        self.push_tuple(items)

    def push_tuple(self, items: list[Any]) -> None:
        self.tuples += 1
        if self.tuples > _MOST_TUPLES:  # comparing tuples that lie in one another would overflow the C stack
            raise ValueError("it holds more tuples than a batch has")
        self.stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        _typed(self.stack[-1], list).extend(items)

    def update(self, items: list[Any]) -> None:
        target = _typed(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_typed(key, str)] = value

    def find(self, name: str) -> None:
        if name not in {_RECONSTRUCT, _ARRAY, _DTYPE}:
            raise ValueError(f"it names {name.replace(' ', '.')!r}")
        self.stack.append(_Global(name))

    def reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_Object(_typed(function, _Global).name, arguments))

    def build(self, _: None) -> None:
        state = self.stack.pop()
        _typed(self.stack[-1], _Object).state = state


_LITERALS = frozenset({"BININT", "BININT1", "BININT2", "BINSTRING", "INT", "SHORT_BINSTRING"})

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
    "NONE": lambda: None,
}

_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "BINGET": _Machine.get,
    "BINPUT": _Machine.put,
    "BUILD": _Machine.build,
    "GLOBAL": _Machine.find,
    "LONG_BINGET": _Machine.get,
    "LONG_BINPUT": _Machine.put,
    "MARK": _Machine.mark,
    "PROTO": _Machine.protocol,
    "REDUCE": _Machine.reduce,
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "STOP": lambda machine, _: None,
    "TUPLE": lambda machine, _: machine.push_tuple(machine.since_mark()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
}


def _is_byte(name: Any) -> bool:
    return isinstance(name, str) and name in {"u1", "|u1", "uint8"}


def _typed(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__.strip('_')} where {kind.__name__.strip('_')} was expected")
    return value


def _value(value: Any) -> Any:
    return _array(value) if isinstance(value, _Object) else value


def _array(written: _Object) -> NDArray[np.uint8]:
    """Return the array that ``numpy.ndarray.__reduce__`` wrote: (version, shape, dtype, column-major, bytes)."""
    if written.function != _RECONSTRUCT or written.arguments != (_Global(_ARRAY), (0,), "b"):
        raise ValueError("it holds an object that is no plain numpy array")
    _, shape, dtype, column_major, text = _typed(written.state, tuple)
    if not isinstance(dtype, _Object) or dtype.function != _DTYPE or not _is_byte(_typed(dtype.arguments, tuple)[0]):
        raise ValueError("its array is not of unsigned bytes")
    flat = np.frombuffer(_typed(text, str).encode("latin-1"), dtype=np.uint8)
    return flat.reshape(shape, order="F" if column_major else "C")
