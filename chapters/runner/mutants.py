"""Wrong answers that nobody thought of: each small change of a solution, made by `ast`."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult,
}
COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
TURNS = ("transpose", "permute", "movedim", "contiguous", "clamp", "masked_fill", "float", "to")


def mutants(text: str) -> Iterator[tuple[str, int, str]]:
    """(what was changed, its line, the changed source) of one function or class."""
    tree = ast.parse(text)
    made = {ast.unparse(tree)}
    types = _annotations(tree)
    places = [node for node in ast.walk(tree) if not isinstance(node, ast.Load | ast.Store)]
    for index, node in enumerate(places):
        if node in types:
            continue
        for number, (says, _) in enumerate(_changes(node)):
            changed = copy.deepcopy(tree)
            twins = [n for n in ast.walk(changed) if not isinstance(n, ast.Load | ast.Store)]
            _, new = list(_changes(twins[index]))[number]
            _Replace(twins[index], new).visit(changed)
            ast.fix_missing_locations(changed)
            source = ast.unparse(changed)
            if source not in made:
                made.add(source)
                yield f"{getattr(node, 'lineno', 0)}: {says}", getattr(node, "lineno", 0), source


def _annotations(tree: ast.Module) -> set[ast.AST]:
    """What says of which type something is: no code, and a change of it no mistake."""
    tops = [getattr(n, name, None) for n in ast.walk(tree) for name in ("annotation", "returns")]
    return {node for top in tops if top is not None for node in ast.walk(top)}


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What can become of one node, with what it was and is."""

    def changed(**fields: object) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    def told(new: ast.AST) -> tuple[str, ast.AST]:
        return f"{ast.unparse(node)} -> {ast.unparse(new)}", new

    if isinstance(node, ast.BinOp):
        if type(node.op) in BINARY:
            yield told(changed(op=BINARY[type(node.op)]()))
        if isinstance(node.op, ast.MatMult | ast.Sub | ast.Div | ast.Pow):
            yield told(changed(left=node.right, right=node.left))
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARE:
        yield told(changed(ops=[COMPARE[type(node.ops[0])](), *node.ops[1:]]))
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not | ast.Invert):
            yield told(node.operand)
        elif isinstance(node.op, ast.USub):
            if isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, int):
                yield told(changed(operand=ast.Constant(node.operand.value + 1)))
            else:
                yield told(node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield told(ast.Constant(not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield told(ast.Constant(node.value + 1))
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in TURNS:
            yield told(node.func.value)
        # transpose(a, b) is transpose(b, a)
        if len(node.args) >= 2 and getattr(node.func, "attr", "") != "transpose":
            yield told(changed(args=[node.args[1], node.args[0], *node.args[2:]]))
        for i in range(len(node.keywords)):
            yield told(changed(keywords=node.keywords[:i] + node.keywords[i + 1 :]))
    elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield told(node.value)
    elif isinstance(node, ast.IfExp):
        yield told(changed(body=node.orelse, orelse=node.body))
    elif isinstance(node, ast.AugAssign):
        yield told(ast.Pass())
