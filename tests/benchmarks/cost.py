"""What guidance costs: denoisers shaped like the real ones at reduced width and depth, random weights, one thread.

    python tests/benchmarks/cost.py [--shapes flux wan ...] [--dtype float32 bfloat16] [--rounds 5]

Ways of a step are measured in turn (none, CFG as a second call, NAG in two passes, NAG as it is), and each is divided by its
neighbour without guidance: medians of ratios, with their range. Prints a Markdown table.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoisers import Bare, Case, embeds, loud, noise, ramp, steps_of

import nag


def flux():
    """4096 image tokens (1024 px), 512 text tokens, as many double and single blocks as Flux has in proportion."""
    from diffusers import FluxTransformer2DModel

    return Case(lambda: FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=64, num_attention_heads=8, joint_attention_dim=128,
        pooled_projection_dim=64, axes_dims_rope=(8, 28, 28)), (4096, 64), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t) / 1000, "return_dict": False, "img_ids": ramp(1, 64, 64),
            "pooled_projections": noise("pooled", 1, 64).repeat(len(x), 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, 512, 128), "txt_ids": torch.zeros(512, 3)})


def sd35():
    """4096 image tokens, 333 text tokens."""
    from diffusers import SD3Transformer2DModel

    return Case(lambda: SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, num_layers=6, attention_head_dim=64, num_attention_heads=8, joint_attention_dim=128,
        caption_projection_dim=512, pooled_projection_dim=64, out_channels=16, pos_embed_max_size=192, qk_norm="rms_norm"),
        (16, 128, 128), lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False,
                                      "pooled_projections": noise("pooled", 1, 64).repeat(len(x), 1)},
        lambda words, n: {"encoder_hidden_states": embeds(words, 333, 128)})


def sdxl():
    """128 x 128 latents, 77 text tokens, transformers at half and a quarter of the side, as in SDXL."""
    from diffusers import UNet2DConditionModel

    return Case(lambda: UNet2DConditionModel(
        sample_size=128, block_out_channels=(64, 128, 256), layers_per_block=2, cross_attention_dim=256, attention_head_dim=(1, 2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 1, 4)),
        (4, 128, 128), lambda x, t: {"sample": x, "timestep": t, "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, 77, 256)})


def wan():
    """4 latent frames of 60 x 104 (3,120 tokens a quarter of 480p's 81 frames), 512 text tokens."""
    from diffusers import WanTransformer3DModel

    return Case(lambda: WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=8, attention_head_dim=64, in_channels=16, out_channels=16, text_dim=128, freq_dim=64,
        ffn_dim=2048, num_layers=3, rope_max_seq_len=128), (16, 4, 60, 104),
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, 512, 128)})


def ltx():
    """13 latent frames of 16 x 22 (704 x 512, 97 frames), 128 text tokens."""
    from diffusers import LTXVideoTransformer3DModel

    return Case(lambda: LTXVideoTransformer3DModel(
        in_channels=128, out_channels=128, num_attention_heads=8, attention_head_dim=64, cross_attention_dim=512, num_layers=3,
        caption_channels=128), (13 * 16 * 22, 128), lambda x, t: {
            "hidden_states": x, "timestep": steps_of(x, t), "return_dict": False, "num_frames": 13, "height": 16, "width": 22},
        lambda words, n: {"encoder_hidden_states": embeds(words, 128, 128), "encoder_attention_mask": torch.ones(len(words), 128)})


SHAPES = {"flux": flux, "sd35": sd35, "sdxl": sdxl, "wan": wan, "ltx": ltx}
WAYS = ("none", "CFG", "NAG, two passes", "NAG")


def measure(case: Case, dtype, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step for every way, `rounds` times in turn -> {way: ratios to the step without guidance}"""
    torch.manual_seed(0)
    denoiser = case.build().eval()
    loud(denoiser)
    denoiser = denoiser.to(dtype)

    def cast(values: dict) -> dict:
        return {name: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() and "ids" not in name else v for name, v in values.items()}

    pipe = Bare(replace(case, texts=lambda words, n: cast(case.texts(words, n))), denoiser)
    pipe.scheduler.set_timesteps(1)
    arguments = cast(case.arguments(torch.randn(1, *case.latents), torch.tensor(500.0)))

    def step(calls: int = 1) -> float:
        texts = pipe.texts("a portrait of a pirate")
        begun = time.perf_counter()
        for _ in range(calls):
            denoiser(**arguments, **texts)
        return time.perf_counter() - begun

    def seconds(way: str) -> float:
        if not way.startswith("NAG"):
            return step(2 if way == "CFG" else 1)
        with nag.guide(pipe, "big glasses", exact=way != "NAG") as guidance:
            spent = step()
        assert guidance.guided_calls == 1
        return spent

    ratios = {way: [] for way in WAYS}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            spent = {way: seconds(way) for way in WAYS}
            for way in WAYS if turn else ():  # the first turn warms up
                ratios[way].append(spent[way] / spent["none"])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| shape | dtype | {' | '.join(WAYS[1:])} |\n|---|---|{'---|' * (len(WAYS) - 1)}")
    for name in options.shapes:
        for dtype in options.dtype:
            ratios = measure(SHAPES[name](), getattr(torch, dtype), options.rounds)
            cells = [f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for way, r in ratios.items() if way != "none"]
            print(f"| {name} | {dtype} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
