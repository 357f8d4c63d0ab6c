"""Rules over scores as people write them: `itm >= 0.5 and siglip >= 0.1`, `2 * siglip`.

A small language, read by a parser of its own over Python's syntax tree and never evaluated as Python: names of scores,
numbers, `and`, `or`, `not`, comparisons, `+ - *`, and brackets. Besides scores there are `words` (the words of the
text), `source` (compared with "web" or "synthetic") and `NAME_truncated` (whether that scorer read only its beginning).
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

Value = bool | float | str

_LONGEST = 500
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALCULATED: dict[type[ast.operator], Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_SIGNED: dict[type[ast.unaryop], Callable[[Any], Value]] = {ast.USub: operator.neg, ast.Not: operator.not_}


class Rule:
    """A rule that was read and found well-formed.

    Args:
        text: as it was written.
        yields: `bool` for what decides, `float` for what weighs.

    Raises:
        ValueError: it is no such rule; says what is wrong in it.
    """

    def __init__(self, text: str, yields: type[bool] | type[float] = bool) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise ValueError(f"a rule has at most {_LONGEST} characters, not {len(text)}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no rule: {error}; write e.g. itm >= 0.5 and siglip >= 0.1") from error
        found = _kind(self._tree, text)
        if found is not yields and not (yields is float and found is bool):
            wanted = "a comparison, e.g. itm >= 0.5" if yields is bool else "a number, e.g. siglip or 2 * itm"
            raise ValueError(f"{text!r} gives no decision or number as is needed here: write {wanted}")
        names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        self.names = frozenset(names - {"words", "source"})

    def __call__(self, known: Mapping[str, Value]) -> Value:
        """What the rule gives for the facts of a text: all of `names`, `words` and `source`."""
        return _value(self._tree, known)


def _kind(node: ast.expr, text: str) -> type:
    """What a part gives; ValueError for anything that does not belong to the language."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, str):
        return str if isinstance(node.value, str) else float
    if isinstance(node, ast.Name):
        return str if node.id == "source" else bool if node.id.endswith("_truncated") else float
    if isinstance(node, ast.BoolOp):
        return _of(node.values, bool, bool, text)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNED:
        inner = bool if isinstance(node.op, ast.Not) else float
        return _of([node.operand], inner, inner, text)
    if isinstance(node, ast.BinOp) and type(node.op) in _CALCULATED:
        return _of([node.left, node.right], float, float, text)
    if isinstance(node, ast.Compare) and all(type(one) in _COMPARED for one in node.ops):
        sides = [node.left, *node.comparators]
        same = str if str in {_kind(one, text) for one in sides} else float
        if same is str and not all(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
            raise ValueError(f'{text!r}: words are compared by == and != alone, e.g. source == "web"')
        return _of(sides, same, bool, text)
    raise ValueError(
        f"{text!r}: {ast.unparse(node)!r} has no place in a rule: names of scores, numbers, and, or, not, comparisons, "
        "+ - * and brackets have"
    )


def _of(parts: list[ast.expr], wanted: type, gives: type, text: str) -> type:
    """`gives`, if all parts are what is wanted."""
    for part in parts:
        if _kind(part, text) is not wanted:
            names = {bool: "a comparison", float: "a number", str: "a word"}
            raise ValueError(f"{text!r}: {ast.unparse(part)!r} stands where {names[wanted]} must")
    return gives


def _value(node: ast.expr, known: Mapping[str, Value]) -> Value:
    if isinstance(node, ast.Constant):
        value: Value = node.value  # type: ignore[assignment]  # _kind has seen it
        return value
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.BoolOp):
        whole = all if isinstance(node.op, ast.And) else any
        return whole(_value(one, known) for one in node.values)
    if isinstance(node, ast.UnaryOp):
        return _SIGNED[type(node.op)](_value(node.operand, known))
    if isinstance(node, ast.BinOp):
        return _CALCULATED[type(node.op)](_value(node.left, known), _value(node.right, known))
    return _compared(node, known)


def _compared(node: ast.expr, known: Mapping[str, Value]) -> bool:
    """A comparison of two or more, `0.1 <= siglip < 0.9`."""
    if not isinstance(node, ast.Compare):
        raise TypeError(f"{ast.dump(node)} was let through")
    sides = [_value(one, known) for one in (node.left, *node.comparators)]
    return all(
        _COMPARED[type(how)](left, right) for how, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True)
    )
