"""What happened to the pictures, in one sentence."""

from .run import Run


def mean_difference(a, b) -> float:
    """Mean absolute difference of two pictures, or of two lists of frames, 0 to 255."""
    import numpy as np

    if isinstance(a, list):
        return float(
            np.mean([mean_difference(one, other) for one, other in zip(a, b, strict=False)])
        )
    return float(
        np.abs(
            np.asarray(a.convert("RGB"), np.float32) - np.asarray(b.convert("RGB"), np.float32)
        ).mean()
    )


NOTHING, TOO_MUCH = 1.5, 1.6  # of 255; times the spread of the un-guided latents
MANY = 2  # attributes that nobody asked to change


def judge(meter, run: Run) -> None:
    """Fills in what the meter (or None) reads, and one sentence when NAG changed nothing, or too much."""
    done = {c.key: c for c in run.columns if c.state == "done"}
    also = []  # what the meter sees changed beyond the negative prompt
    if meter and done:
        named = meter.named_in(run.request.negative_prompt)
        readings = dict(
            zip(done, meter.read([c.frames or c.image for c in done.values()]), strict=True)
        )
        for key, reading in readings.items():
            done[key].readings = {meter.phrase(pair): reading[pair[0]][pair[1]] for pair in named}
        if "none" in readings and "nag" in readings:
            seen = {
                key: {name: max(shares, key=shares.get) for name, shares in readings[key].items()}
                for key in ("none", "nag")
            }
            also = [
                name
                for name, value in seen["none"].items()
                if value != seen["nag"][name] and name not in dict(named)
            ]
    if "none" not in done or "nag" not in done:
        return
    request, changed = (
        run.request,
        mean_difference(*(done[key].frames or done[key].image for key in ("none", "nag"))),
    )
    whole = request.nag_normalisation and request.nag_refinement
    if request.nag.off:
        run.hint = "NAG is off: scale 1, alpha 0 or end 0 means that nothing is touched."
    elif changed < NOTHING:
        raised = "alpha first, then the scale" if request.nag_refinement else "the scale"
        run.hint = f"NAG changed {changed:.1f} of 255 on average, hardly anything: raise {raised}."
    elif done["nag"].spread > TOO_MUCH * done["none"].spread:
        run.hint = f"NAG pushed hard enough to distort the picture: lower the scale{', alpha or tau' if whole else ', or bound and blend it again'}."
    elif len(also) >= MANY:
        lowered = "alpha, or tau" if whole else "the scale, or bound and blend it again"
        run.hint = f"NAG changed more than it was asked to ({', '.join(also)}): lower {lowered}, to keep more of the picture."
    else:
        run.hint = f"NAG changed {changed:.0f} of 255 on average" + (
            f", and beyond what was asked: {', '.join(also)}." if also else "."
        )
