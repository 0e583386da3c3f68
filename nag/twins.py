"""How the guided op gets into a model's own attention processors, without a change to either.

The trick: a Python function is its *code* and the *namespace* in which the code looks names up. A
processor's `__call__` finds `F` (or `dispatch_attention_fn`) in the module that defines it. So the
same code, run in a copy of that module's namespace in which those two names are ours, is the same
processor with our attention op. Such a copy is the processor's *twin*: an object with the same
attributes, of a subclass whose `__call__` is the copied function. LoRA, IP-Adapter, fused
projections, rotary positions and the choice of kernels stay what they are.

Two other ways do not work. A wrapper around a processor loses arguments: diffusers drops those
that the processor's own signature does not name. And replacing `F.scaled_dot_product_attention`
for everybody would change other models, in other threads.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import sys
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch.nn.functional as F

from .attention_processor import GuidedAttention
from .errors import NAGRuntimeError, NAGValueError
from .patch import refuse_copy
from .settings import NAGSettings

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from torch import Tensor
    from torch.nn import Module

    from .families.schema import Family
    from .guidance.state import CallState

Namespace = types.ModuleType | types.SimpleNamespace
ATTENTION = {"scaled_dot_product_attention", "dispatch_attention_fn"}
PLAIN_OPTIONS = ("scale", "backend", "enable_gqa")
_serial = itertools.count()

# denoiser -> {processor class: its twin class}. One for all layers and all contexts: to
# torch.compile another class is another program, which it would compile anew for every layer of a
# repeated block and every time that `guide` is entered.
_twins = weakref.WeakKeyDictionary()


class Processor(Protocol):
    """What diffusers calls an attention processor."""

    def __call__(
        self, attn: Module, hidden_states: Tensor, *args: Tensor | None, **kwargs: Tensor | None
    ) -> Tensor | tuple[Tensor, ...]: ...


class Twin(Processor, Protocol):
    """A processor with another attention op, that of its `nag_layer`."""

    nag_layer: GuidedAttention


class CurrentLayer:
    """The layer whose processor runs: set by a twin as it is called, read by the op that it then
    calls. One for each twin class."""

    layer: GuidedAttention | None = None


def copy_code(code: types.CodeType) -> types.CodeType:
    """The same code, with that of its inner functions, as another object: torch.compile remembers
    by code object what it compiled, and leaves it in the namespace where it first ran."""

    def again(const):
        return copy_code(const) if isinstance(const, types.CodeType) else const

    return code.replace(co_consts=tuple(map(again, code.co_consts)))


def with_globals(function: types.FunctionType, namespace: Namespace) -> types.FunctionType:
    """The same function, which looks names up in another module."""
    other = types.FunctionType(
        copy_code(function.__code__),
        namespace.__dict__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    other.__kwdefaults__ = function.__kwdefaults__
    return other


def copy_module(namespace: dict, name: str) -> types.ModuleType:
    """A module with the names of another: it can be changed alone. `name` becomes its own
    `__name__` too, under which `install` puts it into `sys.modules`."""
    module = types.ModuleType(name)
    module.__dict__.update(namespace | {"__name__": name})
    return module


def is_plain(args: tuple, options: dict, backend: str) -> bool:
    """Whether an attention op is asked for attention alone, by PyTorch's own kernels.

    args, options: all but query, key, value and mask. backend: diffusers' where options name none.
    """
    for name, value in options.items():  # not `any`: this runs in every guided layer
        if value and name not in PLAIN_OPTIONS:
            return False
    return not any(args) and (options.get("backend") or backend) == "native"


def functional_with(current: CurrentLayer, name: str) -> types.ModuleType:
    """`torch.nn.functional` as a module `name`, whose attention op asks `current.layer`."""

    def scaled_dot_product_attention(query, key, value, attn_mask=None, *args, **options):
        def op(q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, mask, *args, **options)

        plain, scale = is_plain(args, options, "native"), options.get("scale")
        return current.layer.attend(op, query, key, value, attn_mask, 2, plain, scale)

    functional = copy_module(F.__dict__, name)
    functional.scaled_dot_product_attention = scaled_dot_product_attention
    return functional


def dispatch_with(current: CurrentLayer, dispatch: Callable) -> Callable:
    """diffusers' `dispatch_attention_fn`, which asks `current.layer`; tensors are (B, N, H, D).
    dispatch: what stands under that name, perhaps somebody's own function."""
    diffusers = sys.modules.get("diffusers.models.attention_dispatch")
    foreign = diffusers is None or getattr(dispatch, "__globals__", None) is not vars(diffusers)

    def dispatch_attention_fn(query, key, value, attn_mask=None, *args, **options):
        def op(q, k, v, mask):
            return dispatch(q, k, v, mask, *args, **options)

        if options.get("parallel_config") is not None:
            current.layer.check_whole()
        plain = not foreign and is_plain(args, options, current.layer.call.backend)
        scale = options.get("scale")
        return current.layer.attend(op, query, key, value, attn_mask, 1, plain, scale)

    return dispatch_attention_fn


def twin_class(cls: type, current: CurrentLayer) -> type:
    """A subclass of a processor class that asks `current.layer` for its attention.

    `nag_namespaces`: the modules that it runs in. Raises NAGValueError where `__call__` has no
    Python code that could run elsewhere.
    """
    function = cls.__call__
    if not isinstance(function, types.FunctionType):
        raise NAGValueError(
            f"NAG cannot look into an attention processor that is a {cls.__name__}: its __call__ "
            "is not written in Python."
        )
    namespace = copy_module(function.__globals__, f"nag._attention_{next(_serial)}")
    functional = functional_with(current, namespace.__name__ + "_functional")
    if vars(namespace).get("F") is F:
        namespace.F = functional
    if dispatch := vars(namespace).get("dispatch_attention_fn"):
        namespace.dispatch_attention_fn = dispatch_with(current, dispatch)
    for name, helper in list(vars(namespace).items()):  # that attend for the processor
        beside = isinstance(helper, types.FunctionType)
        beside = beside and helper.__globals__ is function.__globals__
        if beside and ATTENTION & set(helper.__code__.co_names):
            setattr(namespace, name, with_globals(helper, namespace))
    same_code = with_globals(function, namespace)

    @functools.wraps(function)
    def call(self, *args, **kwargs):
        current.layer = self.nag_layer
        current.layer.seen = False
        return same_code(self, *args, **kwargs)

    # diffusers reads it at every call: found here, it need not be made of what is wrapped
    call.__signature__ = inspect.signature(function)
    members = {"nag_current": current, "nag_namespaces": (namespace, functional)}
    members |= {"__copy__": copied, "__deepcopy__": copied, "__reduce_ex__": reduced}
    members["nag_source"] = function, dict(function.__globals__)
    return type(cls.__name__, (cls,), {"__call__": call} | members)


def is_outdated(twin: type, cls: type) -> bool:
    """Whether a processor class, or a name of its module, was replaced after its twin was made."""
    function, names = twin.nag_source
    now = function.__globals__
    return cls.__call__ is not function or any(now.get(n) is not names[n] for n in names)


def copied(self: Twin, memo: dict | None = None) -> Processor:
    """A twin that somebody kept is copied as the processor that it stands for."""
    if self.nag_layer.installed:
        refuse_copy(self)
    original = self.nag_layer.original
    return copy.copy(original) if memo is None else copy.deepcopy(original, memo)


def reduced(self: Twin, protocol: int) -> str | tuple:
    """The same for `pickle`."""
    if self.nag_layer.installed:
        refuse_copy(self)
    return self.nag_layer.original.__reduce_ex__(protocol)


def twin(denoiser: ModelMixin, processor: Processor, layer: GuidedAttention) -> Processor:
    """`processor` again, with the same attributes, whose attention op is that of `layer`."""
    classes = _twins.setdefault(denoiser, {})
    cls = type(processor)
    if cls not in classes or is_outdated(classes[cls], cls):
        classes[cls] = twin_class(cls, CurrentLayer())
    other = copy.copy(processor)
    other.__class__ = classes[cls]
    other.nag_layer = layer
    return other


def install(
    denoiser: ModelMixin, family: Family, settings: NAGSettings, call: CallState
) -> tuple[list, Callable]:
    """Gives every layer of `family` a twin of its processor.

    Returns the guided layers and a function that puts the original processors back. Raises
    NAGRuntimeError where a denoiser is guided already.
    """
    found = family.layers(denoiser)
    for _, module in found.values():  # kept from an earlier nag.guide, and set again
        kept = getattr(module.processor, "nag_layer", None)
        if kept is not None and not kept.installed:
            module.processor = kept.original
    if any(hasattr(module.processor, "nag_layer") for _, module in found.values()):
        raise NAGRuntimeError(
            f"This {type(denoiser).__name__} is guided already; leave one nag.guide before you "
            "enter the next."
        )
    layers, decided = [], {}
    with contextlib.ExitStack() as stack:
        namespaces = {}
        stack.callback(put_back, layers, namespaces)
        for name, (kind, module) in found.items():
            original = module.processor
            pictures = hasattr(original, "to_k_ip")
            layer = GuidedAttention(name, kind, family, settings, call, decided, pictures)
            layer.module, layer.original, layer.installed = module, original, True
            layer.twin = module.processor = twin(denoiser, original, layer)
            layers.append(layer)
        # found under their names in sys.modules, the namespaces can be traced by torch.compile
        for cls in _twins[denoiser].values():
            namespaces |= {module.__name__: module for module in cls.nag_namespaces}
        sys.modules.update(namespaces)
        stack.pop_all()  # all went well
    return layers, functools.partial(put_back, layers, namespaces)


def put_back(layers: list[GuidedAttention], namespaces: dict[str, types.ModuleType]) -> None:
    """The original processors, but for those that somebody replaced meanwhile, which stay."""
    for name in namespaces:
        sys.modules.pop(name, None)
    for layer in layers:
        layer.installed = False
        type(layer.twin).nag_current.layer = None
        if layer.module.processor is layer.twin:
            layer.module.processor = layer.original
        # set meanwhile (an attention backend, the scale of an IP-Adapter), and meant to stay
        changed = {name: value for name, value in vars(layer.twin).items() if name != "nag_layer"}
        vars(layer.original).update(changed)
