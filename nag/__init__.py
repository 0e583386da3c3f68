"""Normalized Attention Guidance (arXiv 2505.21179) for diffusers pipelines.

with nag.guide(pipe, "blurry"):
    pipe("a cat")
"""

import importlib
from collections.abc import Callable

__all__ = ["NAGSettings", "XRay", "guide", "normalized_attention_guidance", "supports"]

HOME = {
    "NAGSettings": "settings",
    "XRay": "xray",
    "guide": "guidance",
    "normalized_attention_guidance": "formula",
    "supports": "families",
}


def __getattr__(name: str) -> Callable | type:
    """The public names, from their modules at first use: torch and diffusers take seconds to
    import, which the page does not wait for."""
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOME[name]}", __name__), name)
