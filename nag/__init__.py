"""Normalized Attention Guidance (arXiv 2505.21179) for diffusers pipelines: `with nag.guide(pipe, "blurry"): pipe(...)`."""

from .families import supports
from .guidance import NAGSettings, guide, normalized_attention_guidance

__all__ = ["NAGSettings", "guide", "normalized_attention_guidance", "supports"]
