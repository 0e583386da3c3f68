"""Which columns of a run are drawn in one pipeline call."""

from ..methods import METHODS
from .loading import Loaded
from .run import Column, Run

NO_TWO = (
    "No two of these columns can share a call: no guidance goes with NAG, and CFG with CFG + NAG."
)


def calls_of(loaded: Loaded, run: Run, missing: list[Column]) -> tuple[list[list[Column]], str]:
    """The columns of each pipeline call, in the order of the columns, and what there is to say
    about that, or ""."""
    alone = [[column] for column in missing]
    if missing and missing[0].seed is not None:
        return (alone, reason) if (reason := apart(loaded)) else ([missing], "")
    if not run.request.batched or not missing or len(run.columns) == 1:
        return alone, ""
    if all(len(columns) == 1 for columns in together(run.columns)):
        return alone, NO_TWO
    if reason := apart(loaded):
        return alone, reason
    return sorted(together(missing), key=lambda columns: min(map(missing.index, columns))), ""


def together(columns: list[Column]) -> list[list[Column]]:
    """Which columns can be rows of one call: those without CFG, and those with it, for that is
    switched for a whole call. In each, the guided one is the last. The rivals change attention in
    ways of their own, and stay alone."""
    rivals = [c for c in columns if METHODS[c.key].research]
    others = sorted((c for c in columns if c not in rivals), key=lambda c: METHODS[c.key].attention)
    shared = [[c for c in others if METHODS[c.key].cfg is cfg] for cfg in (False, True)]
    return [group for group in shared if group] + [[c] for c in rivals]


def apart(loaded: Loaded) -> str:
    """Why this model draws its columns one after another, in a sentence, or ""."""
    from .. import families

    if loaded.preset.image:
        return "Columns that begin with a picture are drawn one after another."
    if loaded.preset.batch == 1:
        return (
            "This model draws other pictures from several prompts in a call than from one, so the "
            "columns were drawn one after another."
        )
    if families.supports(loaded.pipe)[0] and families.find(loaded.pipe).rows:
        return (
            "This model takes texts of different length one by one, so the columns were drawn one "
            "after another."
        )
    return ""
