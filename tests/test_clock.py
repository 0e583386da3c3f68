"""Every scheduler of diffusers can be watched, whatever the order of its arguments."""

import ast
import inspect
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import CogVideoXDPMScheduler, EulerDiscreteScheduler

from nag.engine.clock import StepClock
from nag.patch import Wrapped, set_attribute

SCHEDULERS = Path(diffusers.__file__).parent / "schedulers"


def signatures():
    """(class, names of the arguments of `step`) of all that the sources have."""
    for path in sorted(SCHEDULERS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("Flax"):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name == "step":
                        yield pytest.param(method.args, id=node.name)


def scheduler_with(names: list[str]):
    """A scheduler whose `step` has these arguments, and returns a tuple."""
    listed = ", ".join(f"{name}=None" for name in names)
    sample = "sample" if "sample" in names else "sample_hat"
    code = f"def step(self, {listed}): return ({sample} - model_output,)"
    namespace = {}
    exec(code, namespace)
    return type("Other", (), {"step": namespace["step"], "config": None})()


@pytest.mark.parametrize("arguments", signatures())
def test_the_noise_and_the_latents_are_found_by_name(arguments):
    names = [argument.arg for argument in arguments.args[1:]]
    scheduler = scheduler_with(names)
    clock = StepClock(type("Pipe", (), {"scheduler": scheduler}), "cpu")
    clock.begin(torch.nn.Identity())
    sample, output = torch.full((1, 2), 5.0), torch.ones(1, 2)
    values = {"sample": sample, "sample_hat": sample, "model_output": output}
    with set_attribute(scheduler, "step", Wrapped(scheduler.step, clock.stepped)):
        scheduler.step(*(values.get(name) for name in names))
        scheduler.step(**{name: values.get(name) for name in names})
    assert clock.step == 2 and torch.equal(clock.latents, torch.full((1, 2), 4.0))
    assert clock.spread() == [0] and len(clock.times) == 2
    known = StepClock(None, "cpu")
    known.begin(torch.nn.Identity())
    known.stepped(lambda model_output, timestep, sample: (sample,), output, 0, sample)
    assert clock.sha256 == known.sha256, "the checksum is of another tensor"


@pytest.mark.parametrize("tuples", [False, True])
def test_cogvideox_dpm_is_watched_and_steps_as_it_does_alone(tuples):
    """Its `step` has the old estimate in the second place, and the sample in the fifth."""

    def draw(around):
        scheduler = CogVideoXDPMScheduler()
        scheduler.set_timesteps(4)
        noise = torch.Generator().manual_seed(0)
        x, old, times = torch.randn(1, 2, 4, 8, 8, generator=noise), None, scheduler.timesteps
        with around(scheduler):
            for i, t in enumerate(times):
                back = times[i - 1] if i else None
                output = torch.randn(x.shape, generator=noise)
                given = (output, old, t, back, x)
                made = scheduler.step(*given, generator=noise, return_dict=not tuples)
                x, old = made[0], made[1]  # a tuple in the first step, whatever is asked for
        return x

    clock = StepClock(type("Pipe", (), {"scheduler": CogVideoXDPMScheduler()}), "cpu")
    clock.begin(torch.nn.Identity())
    watched = draw(lambda s: set_attribute(s, "step", Wrapped(s.step, clock.stepped)))
    alone = draw(lambda s: set_attribute(s, "step", s.step))
    assert torch.equal(watched, alone) and torch.equal(clock.latents, alone) and clock.step == 4


def test_a_preview_of_a_part_of_the_schedule_knows_its_noise_level():
    """Image-to-image begins in the middle: the first step's sigma is not the schedule's first."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(2)
    clean, noise, seen = torch.ones(1, 2), torch.zeros(1, 2), []
    clock = StepClock(
        type("Pipe", (), {"scheduler": scheduler}),
        "cpu",
        lambda step, latents: seen.append(latents),
    )
    clock.begin(torch.nn.Identity())
    sigma = scheduler.sigmas[2]
    sample = sigma * noise + (1 - sigma) * clean
    with set_attribute(scheduler, "step", Wrapped(scheduler.step, clock.stepped)):
        scheduler.step(noise - clean, scheduler.timesteps[2], sample)
    torch.testing.assert_close(seen[0], clean)


def test_extra_arguments_of_a_watched_step_are_still_seen():
    """Pipelines look at the signature of `step` for `eta` and `generator`."""
    scheduler = EulerDiscreteScheduler()
    clock = StepClock(None, "cpu")
    before = inspect.signature(scheduler.step)
    with set_attribute(scheduler, "step", Wrapped(scheduler.step, clock.stepped)):
        assert inspect.signature(scheduler.step) == before
