from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import formulas, windows
from features.formulas import Const, Expr, Op, Program, Take, larger, root, smaller, total

NAMES = ("a", "b", "c", "d")
INTS = st.integers(-(2**62), 2**62) | st.integers(-3, 3)


def trees() -> st.SearchStrategy[Expr]:
    number = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 0.1, 30.4375, 1e-9])
    leaf = st.sampled_from(NAMES).map(Take) | number.map(lambda v: Const(v + 0.0))

    def grow(parts: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        return (
            st.tuples(parts, parts).map(lambda p: p[0] + p[1])
            | st.tuples(parts, parts).map(lambda p: p[0] - p[1])
            | st.tuples(parts, parts).map(lambda p: p[0] * p[1])
            | st.tuples(parts, parts).map(lambda p: p[0] / p[1])
            | st.tuples(parts, parts).map(lambda p: smaller(*p))
            | st.tuples(parts, parts).map(lambda p: larger(*p))
            | parts.map(root)
        )

    return st.recursive(leaf, grow, max_leaves=24)


def naive(node: Expr, given_: dict[str, int]) -> float:
    """The meaning of a formula in Python's own floats."""
    if isinstance(node, Take):
        return float(given_[node.name])
    if isinstance(node, Const):
        return node.value
    assert isinstance(node, Op)
    x, *rest = (naive(part, given_) for part in node.parts)
    if node.code == formulas.SQRT:
        return 0.0 if x < 0 else math.sqrt(x)
    (y,) = rest
    if node.code == formulas.DIV:
        return x / y if y != 0 else math.nan
    if node.code in (formulas.MIN, formulas.MAX):
        pick = min if node.code == formulas.MIN else max
        return math.nan if math.isnan(x) or math.isnan(y) else pick(x, y)
    return {formulas.ADD: x + y, formulas.SUB: x - y, formulas.MUL: x * y}[node.code]


def run(program: Program, rows: list[tuple[int, ...]]) -> np.ndarray:
    """Rows through the compiled interpreter, in one tile."""
    sums = np.zeros((len(NAMES), windows.TILE), np.int64)
    sums[:, : len(rows)] = np.array(rows, np.int64).T
    registers = np.full((len(program.code), windows.TILE), 99.0)
    out = np.full((len(rows), len(program.outputs)), -1.0)
    windows._evaluate(
        sums, registers, program.code, program.constants, program.outputs, out, 0, len(rows)
    )
    return out


def same(x: float, y: float) -> bool:
    return x == y or (math.isnan(x) and math.isnan(y))


def exactly(found: np.ndarray, told: list[list[float]]) -> bool:
    return all(same(x, y) for a, b in zip(found.tolist(), told, strict=True)
               for x, y in zip(a, b, strict=True))  # fmt: skip


@settings(max_examples=150)
@given(
    st.lists(trees(), min_size=1, max_size=4),
    st.lists(st.tuples(INTS, INTS, INTS, INTS), min_size=1, max_size=9),
)
def test_programs_against_a_walk_in_python_floats(made, rows):
    found = run(Program.of(made, NAMES), rows)
    told = [[naive(tree, dict(zip(NAMES, row, strict=True))) for tree in made] for row in rows]
    assert exactly(found, told)


@settings(max_examples=60)
@given(trees(), st.tuples(INTS, INTS, INTS, INTS))
def test_a_row_has_the_same_bits_wherever_it_stands(tree, row):
    program = Program.of([tree], NAMES)
    alone = run(program, [row]).view(np.uint64)[0, 0]
    for n in (2, 7, 64):
        assert (run(program, [row] * n).view(np.uint64) == alone).all()


def test_not_known():
    a, b = Take("a"), Take("b")
    zero = Const(0.0)
    nothing = a / zero
    made = [
        a / b, a / zero, zero / zero, smaller(nothing, a), smaller(a, nothing),
        larger(nothing, a), larger(a, nothing), root(nothing), root(zero - 4.0), nothing + 1.0,
        a / nothing, smaller(a, 3.0), larger(a, 3.0), root(Const(2.25)),
    ]  # fmt: skip
    found = run(Program.of(made, NAMES), [(5, 0, 0, 0)])[0]
    nan = math.nan
    told = [nan, nan, nan, nan, nan, nan, nan, nan, 0.0, nan, nan, 3.0, 5.0, 1.5]
    np.testing.assert_array_equal(found, told)


def test_total_goes_from_left_to_right():
    parts = [Take(name) for name in NAMES]
    assert total(parts) == ((parts[0] + parts[1]) + parts[2]) + parts[3]
    assert total(parts[:1], larger) == parts[0]
    assert total(parts[:3], larger) == larger(larger(parts[0], parts[1]), parts[2])


TOKEN = re.compile(r"sqrt|min|max|[abcd]|-?\d[\d.]*(?:e[+-]?\d+)?|[-+x/(),]")


def parse(text: str) -> Expr:
    """Read a formula back by a grammar without precedence: each operation has its brackets."""
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == text.replace(" ", "")

    def operand() -> Expr:
        word = tokens.pop(0)
        if word == "(":
            inside = whole()
            assert tokens.pop(0) == ")"
            return inside
        if word in ("sqrt", "min", "max"):
            assert tokens.pop(0) == "("
            first = whole()
            if word == "sqrt":
                made = root(first)
            else:
                assert tokens.pop(0) == ","
                made = (smaller if word == "min" else larger)(first, whole())
            assert tokens.pop(0) == ")"
            return made
        return Take(word) if word in NAMES else Const(float(word))

    def whole() -> Expr:
        left = operand()
        if not tokens or tokens[0] in "),":
            return left
        sign = tokens.pop(0)
        code = next(code for code, text_ in formulas.SIGNS.items() if text_ == sign)
        return Op(code, (left, operand()))

    made = whole()
    assert not tokens
    return made


@settings(max_examples=300)
@given(trees())
def test_the_text_is_unambiguous(tree):
    assert parse(str(tree)) == tree


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Take("a") - (Take("b") - 1.0), "a - (b - 1)"),
        ((Take("a") - Take("b")) - 1.0, "(a - b) - 1"),
        (root(Take("a") * Take("a") / 12), "sqrt((a x a) / 12)"),
        (smaller(Take("a"), Take("b")) / 30.4375, "min(a, b) / 30.4375"),
        (Take("a") / 86_400_000_000, "a / 8.64e+10"),
        (Take("a") / 1234567.0, "a / 1234567.0"),
    ],
)
def test_texts(made, told):
    assert str(made) == told


@settings(max_examples=100)
@given(trees())
def test_equal_parts_are_compiled_once(tree):
    nodes = set()

    def walk(node: Expr) -> None:
        nodes.add(node)
        for part in getattr(node, "parts", ()):
            walk(part)

    walk(tree)
    again = parse(str(tree))  # equal, but other objects
    program = Program.of([tree, again, tree + 1.0], NAMES)
    assert len(program.code) == len(nodes | {Const(1.0), tree + 1.0})
    assert program.outputs[0] == program.outputs[1]
    instructions = [tuple(line) for line in program.code.tolist()]
    assert len(set(instructions)) == len(instructions)


def test_an_unknown_input_is_told():
    with pytest.raises(KeyError, match="nobody"):
        Program.of([Take("a") + Take("nobody")], NAMES)


def test_no_formulas_make_an_empty_program():
    program = Program.of([], NAMES)
    assert program.code.shape == (0, 3)
    assert run(program, [(1, 2, 3, 4)]).shape == (1, 0)
