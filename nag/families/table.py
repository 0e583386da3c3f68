"""One row per denoiser class: where its text comes in, and which of its attentions see text.

That is all that NAG must be told about a model. To add a family, add a row to `unets.py`,
`cross.py` or `joint.py`; the parametrised tests ask for a tiny one too. Where a model counts its
text tokens itself, the row also names one of the small adapters in `nag/families/adapters/`.
"""

from .cross import CROSS
from .joint import JOINT
from .unets import UNETS

FAMILIES = {**UNETS, **CROSS, **JOINT}
