"""Twins of attention processors: the same code and signature, with another attention op."""

import inspect

from diffusers.models import attention_processor

from nag.twins import CurrentLayer, twin_class

PROCESSORS = [
    cls
    for _, cls in inspect.getmembers(attention_processor, inspect.isclass)
    if "Processor" in cls.__name__ and inspect.isfunction(vars(cls).get("__call__"))
]


def test_a_twin_has_the_signature_of_its_processor_and_need_not_look_for_it():
    """diffusers reads it at every call of every layer."""
    assert len(PROCESSORS) > 5
    for cls in PROCESSORS:
        call = twin_class(cls, CurrentLayer()).__call__
        assert inspect.signature(call) == inspect.signature(cls.__call__)
        assert vars(call)["__signature__"] == inspect.signature(cls.__call__)
