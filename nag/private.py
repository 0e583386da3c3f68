"""What we read of other libraries that they do not promise to keep, one function each.

A change there would go unnoticed: a picture guided in part, a clock that runs wrong. So it stands
in this one place, and tests/test_private.py says for each what has changed. Nothing heavy is
imported before a function needs it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from accelerate.hooks import ModelHook
    from diffusers import DiffusionPipeline, ModelMixin
    from diffusers.hooks import HookRegistry
    from gradio import Blocks, EventData
    from gradio.blocks import Block
    from gradio.queueing import Event, Queue
    from gradio.state_holder import SessionState
    from torch.nn import Module

M = TypeVar("M")  # a module, compiled or not

# diffusers, `encode_prompt` of pipelines: names of its arguments
PROMPTS = ("prompt", "prompts")
PICTURES = re.compile(r"num_\w+_per_prompt")  # how many pictures of each prompt
CFG = "do_classifier_free_guidance"
# arguments that belong to the words of one call, and not to how words are encoded
OTHER_WORDS = re.compile(
    r"negative_.*|prompt_\d+|.*prompt_embeds.*|(prompt|text)_.*mask.*|text_images"
)


def old_encoders(pipe: DiffusionPipeline | ModelMixin) -> list[str]:
    """What pipelines had before `encode_prompt`, and fifteen of them have alone."""
    return [name for name in ("_encode_prompt",) if hasattr(pipe, name)]


# diffusers, pipelines

ERNIE_PADS = "_pad_text"  # of ErnieImagePipeline: brings the texts of all rows to one length


def announced_steps(pipe: DiffusionPipeline) -> int | None:
    """How many steps the running call will make, where the pipeline says so.

    Image-to-image and refiners make a part of the scheduler's. Most pipelines have the property;
    before the first call it raises AttributeError.
    """
    return getattr(pipe, "num_timesteps", None)


def execution_device(
    pipe: DiffusionPipeline, otherwise: torch.device | None
) -> torch.device | None:
    """Where a pipeline computes: with offloading that is not where its weights are."""
    return getattr(pipe, "_execution_device", otherwise)


def unpack_latents(
    pipe: DiffusionPipeline, latents: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Tokens (B, N, C) of a picture of `height` x `width` px as the VAE takes them (B, C, H, W)."""
    values = {
        "latents": latents,
        "height": height,
        "width": width,
        "vae_scale_factor": pipe.vae_scale_factor,
    }
    wanted = inspect.signature(pipe._unpack_latents).parameters
    return pipe._unpack_latents(**{name: values[name] for name in wanted})


def absent_packages(pipeline_class: type) -> tuple[str, ...]:
    """The packages for want of which diffusers has only a placeholder of a class."""
    return tuple(getattr(pipeline_class, "_backends", ()))


# packages that tokenizers and pipelines need, each with what else its use needs
OPTIONAL = {
    "sentencepiece": ("sentencepiece", "protobuf"),
    "protobuf": ("sentencepiece", "protobuf"),
    "tiktoken": ("tiktoken",),
    "bitsandbytes": ("bitsandbytes",),
}


def packages_named(error: BaseException) -> tuple[str, ...]:
    """The packages that an error calls absent, as pip knows them.

    transformers and diffusers raise ImportError, or ValueError, that names a package in words only.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in OPTIONAL:
        return OPTIONAL[error.name]
    if not isinstance(error, (ImportError, ValueError)):
        return ()
    said = str(error).lower()
    return next((needed for name, needed in OPTIONAL.items() if name in said), ())


# diffusers, attention and hooks


def attention_backend() -> str:
    """The attention that diffusers uses in layers that name none, e.g. "native"."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    active, _ = _AttentionBackendRegistry.get_active_backend()
    return str(getattr(active, "value", active))


def attention_is_replaced() -> bool:
    """Whether somebody's own kernel stands in the place of PyTorch's attention, or of diffusers'
    way to it: set there (as SageAttention says), or by a torch function mode (as in xDiT)."""
    import torch
    from diffusers.models import attention_dispatch as diffusers
    from torch.utils._device import DeviceContext  # of `with torch.device(...)`

    own = torch._C._nn.scaled_dot_product_attention
    native = diffusers._AttentionBackendRegistry._backends[diffusers.AttentionBackendName.NATIVE]
    modes = torch.overrides._get_current_function_mode_stack()
    return (
        torch.nn.functional.scaled_dot_product_attention is not own
        or native.__globals__ is not vars(diffusers)
        or any(not isinstance(mode, DeviceContext) for mode in modes)
    )


def usual_processor(attention: Module) -> str | None:
    """The class of the processor that an attention module comes with; None where it does not say.
    Those of the class `Attention` come with what their model chooses."""
    usual = getattr(type(attention), "_default_processor_cls", None)
    return usual and usual.__name__


def parallelism(denoiser: ModelMixin) -> str | None:
    """How a denoiser is spread over several devices: "tensor", "context", or None where it is not.
    Older ones of diffusers know neither."""
    config = getattr(denoiser, "_parallel_config", None)
    tensor = getattr(config, "tensor_parallel_config", None)
    if tensor is not None:
        return None if tensor._tp_degree == 1 else "tensor"
    return None if getattr(config, "context_parallel_config", None) is None else "context"


def stateful_hooks(denoiser: ModelMixin) -> list[HookRegistry]:
    """The registries of a denoiser's hooks that carry tensors from step to step (step caches)."""
    registries = [vars(module).get("_diffusers_hook") for module in denoiser.modules()]
    return [
        registry
        for registry in registries
        if registry is not None and any(hook._is_stateful for hook in registry.hooks.values())
    ]


def text_caches(denoiser: ModelMixin) -> list[HookRegistry]:
    """Of these, the ones that keep a text's keys and know it by its tensor's address."""
    from diffusers.hooks import text_kv_cache

    hooks = text_kv_cache.TextKVCacheTransformerHook, text_kv_cache.TextKVCacheBlockHook
    return [
        registry
        for registry in stateful_hooks(denoiser)
        if any(isinstance(hook, hooks) for hook in registry.hooks.values())
    ]


# accelerate


def offload_hook(module: Module) -> ModelHook | None:
    """The hook by which accelerate brings a module to the GPU, or None."""
    return getattr(module, "_hf_hook", None)


def bring_to_gpu(module: Module) -> None:
    """What model offload would do at the next call of `module`; else nothing."""
    hook = offload_hook(module)
    if hook is None:
        return
    from accelerate.hooks import CpuOffload

    if isinstance(hook, CpuOffload):
        hook.pre_forward(module)


def own_forward(module: Module) -> str:
    """The name of what a module runs inside of its hooks: accelerate puts its `forward` aside."""
    return "_old_forward" if "_old_forward" in vars(module) else "forward"


# torch


def changes_of(tensor: torch.Tensor) -> int:
    """How often a tensor was changed in place; 0 for those made in inference mode, which have no
    count to read."""
    return 0 if tensor.is_inference() else tensor._version


def uncompiled(module: M) -> M:
    """The module inside `torch.compile`."""
    return getattr(module, "_orig_mod", module)


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX)."""
    import torch

    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def cpu_attention() -> Callable:
    """The CPU's attention kernel, (query, key, value, ...) -> (output, log-sum-exp)."""
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def lerp_all(averages: list[torch.Tensor], values: list[torch.Tensor], weight: float) -> None:
    """Moves each average by `weight` of its way to its value, in place."""
    import torch

    torch._foreach_lerp_(averages, values, weight)


# gradio


def event_data(event: EventData) -> dict:
    """What the browser sends along with an event of gr.HTML; {} where it sends nothing."""
    return event._data or {}


def as_visitor_has_it(state: SessionState | None, block: Block) -> Block:
    """A component with what was changed of it in one visitor's page, its ends for example."""
    return state[block._id] if state and block._id in state else block


def queue_of(blocks: Blocks) -> Queue:
    """The queue in which every event of a page waits; its `push` is asked first."""
    return blocks._queue


def waiting_events(blocks: Blocks, concurrency_id: str) -> list[Event]:
    """The events that wait in one line of a page's queue."""
    line = queue_of(blocks).event_queue_per_concurrency_id.get(concurrency_id)
    return list(line.queue) if line else []
