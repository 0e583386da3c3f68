"""The quick run leaves out what was measured to be slow, and no room altogether."""

import ast
from pathlib import Path

import pytest
from quick import SERVERS, first_stays, slow_functions

HERE = Path(__file__).resolve().parent


def functions(path: Path) -> dict[str, set[str]]:
    """{test function of a file: its arguments}"""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f.name: {a.arg for a in f.args.args} for f in found if f.name.startswith("test_")}


TESTS = {path.name: functions(path) for path in sorted(HERE.glob("test_*.py"))}


@pytest.mark.parametrize("name", TESTS)
def test_every_file_keeps_a_quick_test(name):
    slow = slow_functions()
    kept = [
        one
        for one, arguments in TESTS[name].items()
        if not arguments & SERVERS
        and (f"{name}::{one}" not in slow or first_stays(*slow[f"{name}::{one}"][::2]))
    ]
    assert kept


def test_what_is_called_slow_is_there():
    known = {f"{name}::{one}" for name, tests in TESTS.items() for one in tests}
    assert not set(slow_functions()) - known, "python -m pytest -n 0 --write-slow"
