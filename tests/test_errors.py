"""What goes wrong is told in sentences, wherever it happens, and what nobody foresaw as that."""

import ast
from pathlib import Path

import pytest
import torch

from nag import errors

NAG = Path(errors.__file__).parent
# raised for the one who calls within the package, who catches it: no person reads these
WITHIN = {
    "nag/kernels.py",  # a kernel's "not with a mask", which is how `prepare` learns of it
    "nag/request.py",  # pydantic makes them a sentence with the field's name
    "nag/engine/reuse.py",  # TypeError of something that is not remembered
}


def test_every_error_that_the_library_raises_is_a_sentence_for_people():
    """A bare ValueError would be called unexpected, and its sentence not be shown."""
    bare = []
    for path in sorted(NAG.rglob("*.py")):
        name = path.relative_to(NAG.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            raised = node.exc if isinstance(node, ast.Raise) else None
            called = getattr(raised, "func", raised)
            if getattr(called, "id", "") in ("ValueError", "RuntimeError", "Exception"):
                bare += [f"{name}:{node.lineno}"] if name not in WITHIN else []
    assert bare == []


def test_a_sentence_is_also_the_error_that_python_has_for_it():
    assert issubclass(errors.Refused, errors.NAGValueError)
    with pytest.raises(ValueError, match="glasses"):
        raise errors.NAGValueError("glasses")
    with pytest.raises(RuntimeError):
        raise errors.NAGRuntimeError("while it ran")


def test_memory_that_ran_out_is_known_on_every_device():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert errors.out_of_memory(caught.value), caught.value
    assert errors.out_of_memory(MemoryError())
    assert errors.out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert errors.out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not errors.out_of_memory(ValueError("out of memory"))
    assert not errors.out_of_memory(RuntimeError("size mismatch"))


def test_an_unexpected_error_names_the_run_and_the_log_but_not_what_only_the_log_may_say():
    said = errors.unexpected(KeyError("/srv/secret"), "4711")
    assert "unexpected" in said and "4711" in said and "log" in said and "secret" not in said


def test_the_causes_of_an_error_end_even_where_they_go_round():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert list(errors.causes(one)) == [one, other]
