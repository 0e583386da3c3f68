"""The context manager `guide`, and what happens inside it from the words to the denoiser's call."""

from .guide import guide

__all__ = ["guide"]
