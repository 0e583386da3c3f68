"""What NAG must be told of each denoiser class of diffusers."""

from .lookup import (
    a,
    denoiser_of,
    denoisers_of,
    encoders_of,
    find,
    name_of,
    obstacle,
    parallel_obstacle,
    published_alpha,
    row_of,
    supports,
    unwrapped,
)
from .refused import REFUSED
from .schema import KINDS, Adapted, Family, Packed
from .table import FAMILIES

__all__ = [
    "FAMILIES",
    "KINDS",
    "REFUSED",
    "Adapted",
    "Family",
    "Packed",
    "a",
    "denoiser_of",
    "denoisers_of",
    "encoders_of",
    "find",
    "name_of",
    "obstacle",
    "parallel_obstacle",
    "published_alpha",
    "row_of",
    "supports",
    "unwrapped",
]
