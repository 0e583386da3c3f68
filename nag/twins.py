"""How the attention op gets into a model's own processors: a twin of each, with the same code in another namespace."""

import contextlib
import copy
import functools
import itertools
import sys
import types
import weakref

import torch.nn.functional as F

from .attention_processor import GuidedAttention
from .errors import NAGRuntimeError, NAGValueError
from .settings import NAGSettings

_serial = itertools.count()
ATTENTION = {"scaled_dot_product_attention", "dispatch_attention_fn"}


def copy_code(code: types.CodeType) -> types.CodeType:
    """The same code, with that of its inner functions, as another object: torch.compile remembers what it compiled by code object, and
    leaves it in the namespace where it first ran."""
    return code.replace(
        co_consts=tuple(
            copy_code(const) if isinstance(const, types.CodeType) else const
            for const in code.co_consts
        )
    )


def with_globals(function, namespace):
    """The same code, run in another namespace."""
    call = types.FunctionType(
        copy_code(function.__code__),
        namespace.__dict__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    call.__kwdefaults__ = function.__kwdefaults__
    return call


class CurrentLayer:
    """Whose attention op runs: set by a twin when it is called, read by its op. One for each twin class."""

    layer: GuidedAttention | None = None


def copy_module(namespace: dict, name: str) -> types.ModuleType:
    """A module's namespace as a module of its own; with its name too, for under that it goes into sys.modules."""
    module = types.ModuleType(name)
    module.__dict__.update(namespace | {"__name__": name})
    return module


def plain(args, options: dict, backend: str) -> bool:
    """Whether an attention op is asked for nothing but attention, of PyTorch's own kind. backend: diffusers' where the op names none."""
    asked = any(
        bool(value)
        for name, value in options.items()
        if name not in ("scale", "backend", "enable_gqa")
    )
    return not asked and not any(args) and (options.get("backend") or backend) == "native"


def twin_class(cls, running: CurrentLayer):
    """A processor class again, with its attention op led through `running.layer`. The original is not touched."""
    function = cls.__call__
    if not isinstance(function, types.FunctionType):
        raise NAGValueError(
            f"NAG cannot look into an attention processor that is a {cls.__name__}: its __call__ is not written in Python."
        )
    namespace = copy_module(function.__globals__, f"nag._attention_{next(_serial)}")

    def scaled_dot_product_attention(query, key, value, attn_mask=None, *args, **options):
        def op(q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, mask, *args, **options)

        return running.layer.attend(
            op,
            query,
            key,
            value,
            attn_mask,
            2,
            plain(args, options, "native"),
            options.get("scale"),
        )

    functional = copy_module(F.__dict__, namespace.__name__ + "_functional")
    functional.scaled_dot_product_attention = scaled_dot_product_attention
    if namespace.__dict__.get("F") is F:
        namespace.F = functional
    dispatch = namespace.__dict__.get("dispatch_attention_fn")
    if dispatch is not None:

        def dispatch_attention_fn(query, key, value, attn_mask=None, *args, **options):
            def op(q, k, v, mask):
                return dispatch(q, k, v, mask, *args, **options)

            ours = plain(args, options, running.layer.call.backend)
            return running.layer.attend(
                op, query, key, value, attn_mask, 1, ours, options.get("scale")
            )

        namespace.dispatch_attention_fn = dispatch_attention_fn

    for name, helper in list(
        vars(namespace).items()
    ):  # functions of the same module that attend for the processor
        own = isinstance(helper, types.FunctionType) and helper.__globals__ is function.__globals__
        if own and ATTENTION & set(helper.__code__.co_names):
            setattr(namespace, name, with_globals(helper, namespace))
    same_code = with_globals(function, namespace)

    @functools.wraps(function)  # diffusers reads the signature
    def call(self, *args, **kwargs):
        running.layer = self.nag_layer
        running.layer.seen = False
        return same_code(self, *args, **kwargs)

    return type(
        cls.__name__,
        (cls,),
        {"__call__": call, "nag_running": running, "nag_namespaces": (namespace, functional)},
    )


# denoiser -> {processor class: its twin}. One class for all layers and all contexts: to torch.compile another class is another
# program, and it would compile anew for every layer of a repeated block and every time that `guide` is entered.
_twins = weakref.WeakKeyDictionary()


def twin(denoiser, processor, layer: GuidedAttention):
    """`processor` again, with its attention op led through `layer`."""
    classes = _twins.setdefault(denoiser, {})
    cls = type(processor)
    if cls not in classes:
        classes[cls] = twin_class(cls, CurrentLayer())
    other = copy.copy(processor)
    other.__class__ = classes[cls]
    other.nag_layer = layer
    return other


def install(denoiser, family, settings: NAGSettings, call):
    """Gives every layer of `family` a guided twin of its processor. Returns the guided layers and a function that gives all back."""
    layers, changed, found = [], [], family.layers(denoiser)
    if any(hasattr(module.processor, "nag_layer") for _, module in found.values()):
        raise NAGRuntimeError(
            f"This {type(denoiser).__name__} is guided already; leave one nag.guide before you enter the next."
        )
    namespaces = {}

    def give_back():
        for name in namespaces:
            sys.modules.pop(name, None)
        for module, original, other in changed:
            type(other).nag_running.layer = None
            if module.processor is other:  # else somebody has set another one, which stays
                module.processor = original
            # what was set meanwhile (an attention backend, the scale of an IP-Adapter) was meant for the original
            vars(original).update(
                {name: value for name, value in vars(other).items() if name != "nag_layer"}
            )

    with contextlib.ExitStack() as stack:
        stack.callback(give_back)
        for name, (kind, module) in found.items():
            original = module.processor
            layer = GuidedAttention(
                name, kind, family, settings, call, pictures=hasattr(original, "to_k_ip")
            )
            layer.module, layer.twin = module, twin(denoiser, original, layer)
            module.processor = layer.twin
            layers.append(layer)
            changed.append((module, original, layer.twin))
        # found under their names in sys.modules, the namespaces can be traced by torch.compile
        namespaces |= {
            n.__name__: n for cls in _twins[denoiser].values() for n in cls.nag_namespaces
        }
        sys.modules.update(namespaces)
        stack.pop_all()  # all went well

    return layers, give_back
