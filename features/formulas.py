"""Formulas over exact sums: one expression is the feature's definition, its text and its program.

An expression is built with ordinary operators. ``str`` gives the formula of the data dictionary;
``Program`` turns a list of expressions into a register program (equal parts once), which the
compiled kernel of `features.windows` runs on tiles of rows. Only +, -, x, /, square root, minimum
and maximum exist: IEEE 754 rounds each of them correctly, so a row gets the same bits alone, in
any block and on any machine. Logarithms would not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Const", "Expr", "Op", "Program", "Take", "larger", "root", "smaller", "total"]

LOAD, CONST, ADD, SUB, MUL, DIV, SQRT, MIN, MAX = range(9)
SIGNS: Final = {ADD: "+", SUB: "-", MUL: "x", DIV: "/", SQRT: "sqrt", MIN: "min", MAX: "max"}


class Expr:
    """A formula over named integer sums. Hashable: equal formulas are one node of a program."""

    def __add__(self, other: Expr | float) -> Expr:
        return Op(ADD, (self, _lift(other)))

    def __sub__(self, other: Expr | float) -> Expr:
        return Op(SUB, (self, _lift(other)))

    def __mul__(self, other: Expr | float) -> Expr:
        return Op(MUL, (self, _lift(other)))

    def __truediv__(self, other: Expr | float) -> Expr:
        """A quotient; a zero divisor gives "not known" (NaN)."""
        return Op(DIV, (self, _lift(other)))


@dataclass(frozen=True)
class Take(Expr):
    """The integer input called `name`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Const(Expr):
    """A number."""

    value: float

    def __str__(self) -> str:
        short = f"{self.value:g}"
        return short if float(short) == self.value else repr(self.value)


@dataclass(frozen=True)
class Op(Expr):
    """An operation on one or two formulas."""

    code: int
    parts: tuple[Expr, ...]

    def __str__(self) -> str:
        if self.code in (SQRT, MIN, MAX):
            return f"{SIGNS[self.code]}({', '.join(map(str, self.parts))})"
        left, right = (f"({p})" if _loose(p) else str(p) for p in self.parts)
        return f"{left} {SIGNS[self.code]} {right}"


def _loose(part: Expr) -> bool:
    return isinstance(part, Op) and part.code in (ADD, SUB, MUL, DIV)


def _lift(value: Expr | float) -> Expr:
    return value if isinstance(value, Expr) else Const(float(value))


def root(value: Expr) -> Expr:
    """The square root; below zero (rounding of a variance) counts as zero."""
    return Op(SQRT, (value,))


def smaller(a: Expr, b: Expr | float) -> Expr:
    """The smaller of two; "not known" wins."""
    return Op(MIN, (a, _lift(b)))


def larger(a: Expr, b: Expr | float) -> Expr:
    """The larger of two; "not known" wins."""
    return Op(MAX, (a, _lift(b)))


def total(parts: Sequence[Expr], join: Callable[[Expr, Expr], Expr] | None = None) -> Expr:
    """Sum of formulas from left to right, or another operation in the place of +."""
    result = parts[0]
    for part in parts[1:]:
        result = join(result, part) if join else result + part
    return result


@dataclass(frozen=True)
class Program:
    """Instructions ``(op, a, b)``, instruction i writing register i; `outputs` are registers."""

    code: npt.NDArray[np.int32]
    constants: npt.NDArray[np.float64]
    outputs: npt.NDArray[np.int32]

    @classmethod
    def of(cls, formulas: Sequence[Expr], inputs: Sequence[str]) -> Program:
        """Compile formulas over the integer inputs in the order given.

        Raises
        ------
        KeyError
            A formula names an input that does not exist.
        """
        place = {name: i for i, name in enumerate(inputs)}
        register: dict[Expr, int] = {}
        code: list[tuple[int, int, int]] = []
        constants: list[float] = []
        for node in (n for formula in formulas for n in _walk(formula)):
            if node in register:
                continue
            if isinstance(node, Take):
                line = (LOAD, place[node.name], 0)
            elif isinstance(node, Const):
                line = (CONST, len(constants), 0)
                constants.append(node.value)
            elif isinstance(node, Op):
                a, b = node.parts[0], node.parts[-1]
                line = (node.code, register[a], register[b])
            register[node] = len(code)
            code.append(line)
        return cls(
            np.array(code, np.int32).reshape(-1, 3),
            np.array(constants, np.float64),
            np.array([register[f] for f in formulas], np.int32),
        )


def _walk(node: Expr) -> Iterator[Expr]:
    if isinstance(node, Op):
        for part in node.parts:
            yield from _walk(part)
    yield node
