"""What holds for every file of nag/: hints, no circles, gradio in one room."""

import ast
import functools
import graphlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

NAG = Path(__file__).resolve().parent.parent / "nag"
MODULES = {
    ".".join(path.relative_to(NAG.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(NAG.rglob("*.py"))
}
HAS_TRITON = importlib.util.find_spec("triton") is not None
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def public_functions(node: ast.AST, of: str = "") -> Iterator[tuple[str, Function, bool]]:
    """(name, function, whether it is called with `self` or `cls` first)"""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and is_public(child.name):
            yield from public_functions(child, f"{of}{child.name}.")
        elif isinstance(child, Function) and is_public(child.name):
            static = any(ast.unparse(one) == "staticmethod" for one in child.decorator_list)
            yield of + child.name, child, bool(of) and not static


def without_hint(function: Function, bound: bool) -> list[str]:
    given = function.args
    named = [*given.posonlyargs, *given.args][bound:]
    every = [*named, *given.kwonlyargs, given.vararg, given.kwarg]
    found = [one.arg for one in every if one is not None and one.annotation is None]
    return found if function.returns is not None else [*found, "what it returns"]


def test_every_public_function_says_what_it_takes_and_gives():
    """But for those in Triton's language, which has no types."""
    holes = {
        f"{module}, line {function.lineno}: {name}": names
        for module in MODULES
        for name, function, bound in public_functions(tree_of(module))
        if not any("triton.jit" in ast.unparse(one) for one in function.decorator_list)
        and (names := without_hint(function, bound))
    }
    assert holes == {}


def named_for_hints(module: str) -> dict[str, object]:
    """What a module imports and defines for its hints alone."""
    names = {}
    for node in tree_of(module).body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            continue
        for line in node.body:
            source = source_of(line, module) if isinstance(line, ast.ImportFrom) else ""
            if source in MODULES:
                there = vars(importlib.import_module(source)) | named_for_hints(source)
                names |= {one.name: there[one.name] for one in line.names}
            else:
                code = compile(ast.Module([line], []), str(MODULES[module]), "exec")
                exec(code, vars(importlib.import_module(module)) | names, names)
    return names


@pytest.mark.parametrize("module", MODULES)
def test_every_hint_names_something_that_is_there(module):
    """A checker reads them, and Python never does."""
    if module == "nag.triton_kernel" and not HAS_TRITON:
        pytest.skip("Triton is not installed")
    loaded = importlib.import_module(module)
    names = vars(loaded) | named_for_hints(module)
    for owner in vars(loaded).values():
        for one in [owner, *(vars(owner).values() if isinstance(owner, type) else [])]:
            hinted = inspect.unwrap(getattr(one, "fget", None) or one)
            if getattr(hinted, "__module__", "") == module and hasattr(hinted, "__qualname__"):
                for hint in getattr(hinted, "__annotations__", {}).values():
                    if isinstance(hint, str):
                        eval(hint, names)


def source_of(node: ast.ImportFrom, module: str) -> str:
    """The module that `from ... import` names."""
    inside = MODULES[module].name == "__init__.py"
    package = module.split(".") if inside else module.split(".")[:-1]
    start = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*start, *filter(None, [node.module])])


def imported(module: str) -> set[str]:
    """The modules of this package that one imports, at once or later; not those that it names for
    its hints alone."""
    tree, found = tree_of(module), set()
    hints = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hints:
            continue
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = source_of(node, module)
            inside = {f"{source}.{one.name}" for one in node.names}
            found |= (inside & MODULES.keys()) or {source}
    return found - {module}


def test_no_import_comes_round_to_where_it_began():
    order = graphlib.TopologicalSorter({name: imported(name) & MODULES.keys() for name in MODULES})
    order.prepare()  # raises CycleError, which names the circle


def test_gradio_is_imported_by_the_page_alone():
    for name in MODULES:
        outside = {one.partition(".")[0] for one in imported(name)}
        assert "gradio" not in outside or name.startswith("nag.page"), name
