"""Denoisers that are spread over several devices: guided where that can be right, else refused."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from test_guidance import STRONG
from tiny import NEGATIVE, PROMPT, draw, prepared

import nag
from nag import families

TENSOR = SimpleNamespace(
    tensor_parallel_config=SimpleNamespace(_tp_degree=2), context_parallel_config=None
)
CONTEXT = SimpleNamespace(tensor_parallel_config=None, context_parallel_config=SimpleNamespace())
SENTENCES = {
    "tensor": (TENSOR, "part of the attention heads.*load it without TensorParallelConfig"),
    "context": (CONTEXT, "part of the text and of the picture.*Load it without ContextParallel"),
}


def counted(pipe):
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("how", SENTENCES)
def test_what_cannot_be_right_on_several_devices_is_refused_before_a_layer_runs(how, inside):
    """Norms over a part of the heads, and texts of which every device has a part."""
    pipe, (config, sentence) = prepared(tiny.flux), SENTENCES[how]
    calls = counted(pipe)
    if not inside:
        pipe.transformer._parallel_config = config
        yes, why = nag.supports(pipe)
        assert not yes and "FluxTransformer2DModel" in why
    with (
        pytest.raises(RuntimeError if inside else ValueError, match=sentence),
        nag.guide(pipe, NEGATIVE, **STRONG),
    ):
        pipe.transformer._parallel_config = config
        draw("flux", pipe=pipe)
    assert not calls


def test_cross_attention_is_supported_in_parts_but_not_with_a_part_of_the_heads():
    pipe = prepared(tiny.PIPELINES["wan"].build)
    pipe.transformer._parallel_config = CONTEXT
    assert nag.supports(pipe)[0]
    pipe.transformer._parallel_config = TENSOR
    assert "TensorParallelConfig" in nag.supports(pipe)[1]


def test_one_device_alone_has_all_heads():
    pipe = prepared(tiny.flux)
    alone = SimpleNamespace(_tp_degree=1)
    pipe.transformer._parallel_config = SimpleNamespace(tensor_parallel_config=alone)
    assert nag.supports(pipe)[0]


def test_processors_that_were_told_by_hand_are_refused_in_their_attention():
    pipe = prepared(tiny.flux)
    layers = families.find(pipe).layers(pipe.transformer)
    for _, module in layers.values():
        module.processor._parallel_config = CONTEXT
    with (
        pytest.raises(RuntimeError, match=SENTENCES["context"][1]),
        nag.guide(pipe, NEGATIVE, **STRONG),
    ):
        pipe(PROMPT, **tiny.PIPELINES["flux"].plain, num_inference_steps=1)


def test_a_text_that_is_cut_into_parts_is_not_blamed_on_the_processors():
    """LTX's cross-attention: on every device its keys are a part of the text."""
    pipe = prepared(tiny.PIPELINES["ltx"].build)
    pipe.transformer._parallel_config = CONTEXT
    attention = pipe.transformer.transformer_blocks[0].attn2

    def a_part(module, args, given):
        given = dict(given)
        given["encoder_hidden_states"] = given["encoder_hidden_states"][:, ::2]
        given["attention_mask"] = given["attention_mask"][..., ::2]
        return args, given

    attention.register_forward_pre_hook(a_part, with_kwargs=True)
    with (
        pytest.raises(RuntimeError, match=SENTENCES["context"][1]),
        nag.guide(pipe, NEGATIVE, **STRONG),
    ):
        draw("ltx", pipe=pipe)


RANK = """
import sys
import torch
import torch.distributed as dist

dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[1]),
                        world_size=2)
from diffusers import ContextParallelConfig
from test_guidance import STRONG
from tiny import NEGATIVE, PIPELINES, draw, prepared
import nag

torch.set_num_threads(1)
torch._C._get_accelerator = lambda: torch.device("cpu")
torch.accelerator.device_count = lambda: 2
pipes = {name: prepared(PIPELINES[name].build) for name in ("wan", "flux")}
with nag.guide(pipes["wan"], NEGATIVE, **STRONG):
    alone = draw("wan", pipe=pipes["wan"])
for pipe in pipes.values():
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
with nag.guide(pipes["wan"], NEGATIVE, **STRONG):
    off = float((draw("wan", pipe=pipes["wan"]) - alone).abs().max())
print("off by", off, "flux:", nag.supports(pipes["flux"]), flush=True)
assert off < 1e-5 and "ContextParallelConfig" in nag.supports(pipes["flux"])[1]
dist.barrier()
"""


def test_two_processes_draw_wan_as_one_does(tmp_path):
    """And diffusers still says of a denoiser, where we look, that it runs on several devices."""
    tests = Path(__file__).parent
    run = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*run, str(rank), str(tmp_path / "store")],
            env={**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
