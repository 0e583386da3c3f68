"""What guidance costs: denoisers shaped like the real ones, random weights, time and peak memory of one step.

    python tests/benchmarks/cost.py [--shapes flux wan ...] [--dtype float32 bfloat16] [--rounds 5] [--compiled]
    python tests/benchmarks/cost.py --full [--shapes flux ...]           on a GPU: the models' own size, bfloat16
    python tests/benchmarks/cost.py --full --dry                         the same models on tensors without numbers: operations and memory, counted

Without --full: as many image and text tokens as the model has, less width and depth, on the processor, one thread. `wan` has fewer tokens than
Wan; `wan-81`, which takes minutes a round and is measured when asked for, has as many.
The ways of a step are run in turn (CFG, NAG with the batch doubled, NAG packed in two passes, NAG as it is), each right after a step
without guidance, by which it is divided: a machine's speed changes within a round. Medians of ratios, with their range. Prints a Markdown
table. Peak memory is given for a step without guidance on a text twice as long, too: what the second text's tokens take in the model
itself. "Counted" is what NAG would cost if only the arithmetic of matrix products, convolutions and attention took time. --compiled adds
NAG with its formula under torch.compile and the model as it is; --ways leaves some out, for more rounds in the same time.
"""

import argparse
import contextlib
import gc
import math
import statistics
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoisers import Bare, Case, embeds, loud, noise, ramp, steps_of

import nag
from nag import attention_processor, segments

PROMPT, NEGATIVE = "a portrait of a pirate", "big glasses"
SETTINGS = nag.NAGSettings()


def flux(full: bool):
    """4096 image tokens (1024 px), 512 text tokens; full: Flux.1-dev, 12 billion."""
    from diffusers import FluxTransformer2DModel

    config = (
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "axes_dims_rope": (16, 56, 56),
            "attention_head_dim": 128,
            "guidance_embeds": True,
        }
        if full
        else {
            "num_layers": 1,
            "num_single_layers": 2,
            "num_attention_heads": 8,
            "joint_attention_dim": 128,
            "pooled_projection_dim": 64,
            "axes_dims_rope": (8, 28, 28),
            "attention_head_dim": 64,
            "guidance_embeds": True,
        }
    )
    return Case(
        lambda: FluxTransformer2DModel(patch_size=1, in_channels=64, **config),
        (4096, 64),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t) / 1000,
            "return_dict": False,
            "img_ids": ramp(1, 64, 64),
            "guidance": torch.full((len(x),), 3.5),
            "pooled_projections": noise("pooled", 1, config["pooled_projection_dim"]).repeat(
                len(x), 1
            ),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 512, config["joint_attention_dim"]),
            "txt_ids": torch.zeros(512, 3),
        },
    )


def sd35(full: bool):
    """4096 image tokens, 333 text tokens; full: SD3.5-Large."""
    from diffusers import SD3Transformer2DModel

    layers, heads, text, pooled = (38, 38, 4096, 2048) if full else (2, 8, 128, 64)
    return Case(
        lambda: SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            num_layers=layers,
            attention_head_dim=64,
            num_attention_heads=heads,
            joint_attention_dim=text,
            caption_projection_dim=64 * heads,
            pooled_projection_dim=pooled,
            out_channels=16,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ),
        (16, 128, 128),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "pooled_projections": noise("pooled", 1, pooled).repeat(len(x), 1),
        },
        lambda words, n: {"encoder_hidden_states": embeds(words, 333, text)},
    )


def sdxl(full: bool):
    """128 x 128 latents, 77 text tokens, transformers at half and a quarter of the side; full: SDXL."""
    from diffusers import UNet2DConditionModel

    config = (
        {
            "block_out_channels": (320, 640, 1280),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
        if full
        else {
            "block_out_channels": (64, 128, 256),
            "cross_attention_dim": 256,
            "attention_head_dim": (1, 2, 4),
            "transformer_layers_per_block": (1, 1, 4),
        }
    )
    added = {"text_embeds": noise("pooled", 1, 1280), "time_ids": torch.full((1, 6), 1024.0)}
    return Case(
        lambda: UNet2DConditionModel(
            sample_size=128,
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            **config,
        ),
        (4, 128, 128),
        lambda x, t: {
            "sample": x,
            "timestep": t,
            "return_dict": False,
            **(
                {
                    "added_cond_kwargs": {
                        name: value.repeat(len(x), 1) for name, value in added.items()
                    }
                }
                if full
                else {}
            ),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 77, config["cross_attention_dim"])
        },
    )


def sana(full: bool):
    """32 x 32 latents (1024 px), 300 text tokens; full: Sana 1.6B."""
    from diffusers import SanaTransformer2DModel

    config = (
        {
            "num_attention_heads": 70,
            "num_layers": 20,
            "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112,
            "cross_attention_dim": 2240,
            "caption_channels": 2304,
        }
        if full
        else {
            "num_attention_heads": 16,
            "num_layers": 2,
            "num_cross_attention_heads": 8,
            "cross_attention_head_dim": 64,
            "cross_attention_dim": 512,
            "caption_channels": 128,
        }
    )
    return Case(
        lambda: SanaTransformer2DModel(
            in_channels=32,
            out_channels=32,
            attention_head_dim=32,
            sample_size=32,
            patch_size=1,
            **config,
        ),
        (32, 32, 32),
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False},
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 300, config["caption_channels"]),
            "encoder_attention_mask": torch.ones(len(words), 300),
        },
    )


def wan(full: bool, frames: int = 5, heads: int = 8, layers: int = 1):
    """5 latent frames of 60 x 104 (7,800 tokens), 512 text tokens; full: Wan2.1 1.3B, 21 latent frames (480p, 81 frames)."""
    from diffusers import WanTransformer3DModel

    config = (
        {
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "text_dim": 4096,
            "freq_dim": 256,
            "ffn_dim": 8960,
            "num_layers": 30,
        }
        if full
        else {
            "num_attention_heads": heads,
            "attention_head_dim": 64,
            "text_dim": 128,
            "freq_dim": 64,
            "ffn_dim": 256 * heads,
            "num_layers": layers,
        }
    )
    return Case(
        lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2), in_channels=16, out_channels=16, rope_max_seq_len=1024, **config
        ),
        (16, 21 if full else frames, 60, 104),
        lambda x, t: {"hidden_states": x, "timestep": steps_of(x, t), "return_dict": False},
        lambda words, n: {"encoder_hidden_states": embeds(words, 512, config["text_dim"])},
    )


def wan_81(full: bool):
    """As many tokens as the model has of 81 frames (32,760), at a sixth of its width, in one block."""
    return wan(full, 21, 4)


def ltx(full: bool):
    """13 latent frames of 16 x 22 (704 x 512, 97 frames), 128 text tokens; full: LTX-Video 2B."""
    from diffusers import LTXVideoTransformer3DModel

    heads, layers, text = (32, 28, 4096) if full else (8, 1, 128)
    return Case(
        lambda: LTXVideoTransformer3DModel(
            in_channels=128,
            out_channels=128,
            num_attention_heads=heads,
            attention_head_dim=64,
            cross_attention_dim=64 * heads,
            num_layers=layers,
            caption_channels=text,
        ),
        (13 * 16 * 22, 128),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "num_frames": 13,
            "height": 16,
            "width": 22,
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 128, text),
            "encoder_attention_mask": torch.ones(len(words), 128),
        },
    )


def hunyuan(full: bool):
    """9 latent frames of 32 x 56 (4,032 tokens), 256 text tokens; full: HunyuanVideo, 13 billion, 13 latent frames of 90 x 160 (720p, 49 frames)."""
    from diffusers import HunyuanVideoTransformer3DModel

    config = (
        {
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "num_layers": 20,
            "num_single_layers": 40,
            "text_embed_dim": 4096,
            "pooled_projection_dim": 768,
            "rope_axes_dim": (16, 56, 56),
        }
        if full
        else {
            "num_attention_heads": 8,
            "attention_head_dim": 64,
            "num_layers": 1,
            "num_single_layers": 2,
            "text_embed_dim": 128,
            "pooled_projection_dim": 64,
            "rope_axes_dim": (8, 28, 28),
        }
    )
    return Case(
        lambda: HunyuanVideoTransformer3DModel(
            in_channels=16,
            out_channels=16,
            patch_size=2,
            patch_size_t=1,
            guidance_embeds=True,
            num_refiner_layers=2,
            **config,
        ),
        (16, 13, 90, 160) if full else (16, 9, 32, 56),
        lambda x, t: {
            "hidden_states": x,
            "timestep": steps_of(x, t),
            "return_dict": False,
            "guidance": torch.full((len(x),), 6000.0),
            "pooled_projections": noise("pooled", 1, config["pooled_projection_dim"]).repeat(
                len(x), 1
            ),
        },
        lambda words, n: {
            "encoder_hidden_states": embeds(words, 256, config["text_embed_dim"]),
            "encoder_attention_mask": (torch.arange(256) < 40).long().repeat(len(words), 1),
        },
    )


SHAPES = {
    "flux": flux,
    "sd35": sd35,
    "hunyuan": hunyuan,
    "sdxl": sdxl,
    "sana": sana,
    "wan": wan,
    "wan-81": wan_81,
    "ltx": ltx,
}
# where the image stands in joint attention, for the doubled batch; the others have cross-attention with so many keys
IMAGE = {"flux": slice(512, None), "sd35": slice(0, 4096), "hunyuan": slice(0, -256)}
TEXT = {"sdxl": 77, "sana": 300, "wan": 512, "wan-81": 512, "ltx": 128}
WAYS = ["none", "CFG", "NAG, batch doubled", "NAG, two passes", "NAG"]
COMPILED, LONGER = "NAG, formula compiled", "text twice as long"


@contextlib.contextmanager
def doubled(shape: str):
    """NAG in rows of (positive, negative): the authors' way, at its leanest."""
    real = F.scaled_dot_product_attention

    def attention(query, key, value, *args, **options):
        out = real(query, key, value, *args, **options)
        if shape in TEXT and (key.shape[2] != TEXT[shape] or query.shape[2] == key.shape[2]):
            return out
        if shape in IMAGE and query.shape[2] <= 512:  # the text by itself, before it is joined
            return out
        part = out[:, :, IMAGE.get(shape, slice(None))]
        part.copy_(
            nag.normalized_attention_guidance(
                part[:1], part[1:], SETTINGS.scale, SETTINGS.tau, SETTINGS.alpha, dim=(1, 3)
            )
        )
        return out

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real


@contextlib.contextmanager
def compiled():
    """The formula of a portion as one fused loop."""
    real = attention_processor.blend
    attention_processor.blend = FUSED
    try:
        yield
    finally:
        attention_processor.blend = real


FUSED = torch.compile(attention_processor.blend)

# of the kernels of attention, the counter does not know that of a processor
KNOWN = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        sdpa_flop_count(query, key, value)
    )
}


class Bench:
    """A denoiser of one shape, and a step of it in every way."""

    def __init__(self, shape: str, dtype, device: str, full: bool):
        torch.manual_seed(0)
        self.shape, self.device, self.dtype, case = shape, device, dtype, SHAPES[shape](full)
        with torch.device(device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)  # 12 billion weights in float32 would not fit first
            try:
                self.denoiser = case.build().eval().requires_grad_(False)
            finally:
                torch.set_default_dtype(before)
        if not full:
            loud(self.denoiser)
        self.pipe = Bare(
            replace(case, texts=lambda words, n: self.cast(case.texts(words, n))), self.denoiser
        )
        self.pipe.scheduler.set_timesteps(1)
        self.calls = [
            self.cast(case.arguments(torch.randn(rows, *case.latents), torch.tensor(500.0)))
            for rows in (1, 2)
        ]

    def cast(self, values: dict) -> dict:
        def one(name, value):
            if isinstance(value, dict):
                return self.cast(value)
            if not isinstance(value, torch.Tensor):
                return value
            return value.to(
                self.device,
                self.dtype if value.is_floating_point() and "ids" not in name else value.dtype,
            )

        return {name: one(name, value) for name, value in values.items()}

    def step(self, *words: str) -> None:
        """One denoiser call, with one row for each of the words."""
        self.denoiser(
            **self.calls[len(words) - 1],
            **self.pipe.texts(list(words) if len(words) > 1 else words[0]),
        )

    @contextlib.contextmanager
    def ready(self, way: str):
        """-> what a step of this way is."""
        if way == "none":
            yield lambda: self.step(PROMPT)
        elif way == LONGER:
            once = self.pipe.texts(PROMPT)
            twice = {name: torch.cat([x, x], 0 if "ids" in name else 1) for name, x in once.items()}
            yield lambda: self.denoiser(**self.calls[0], **twice)
        elif way == "CFG":
            yield lambda: self.step(NEGATIVE, PROMPT)
        elif way == "NAG, batch doubled":
            with doubled(self.shape):
                yield lambda: self.step(PROMPT, NEGATIVE)
        else:
            how = compiled() if way == COMPILED else contextlib.nullcontext()
            with how, nag.guide(self.pipe, NEGATIVE, exact=way == "NAG, two passes") as guidance:
                yield lambda: self.step(PROMPT)
                assert guidance.guided_calls

    def seconds(self, way: str) -> float:
        with self.ready(way) as step:
            self.wait()
            begun = time.perf_counter()
            step()
            self.wait()
            return time.perf_counter() - begun

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def operations(self, way: str) -> int:
        with (
            self.ready(way) as step,
            FlopCounterMode(display=False, custom_mapping=KNOWN) as counter,
        ):
            step()
        return counter.get_total_flops()

    def peak(self, way: str) -> int:
        """Bytes of tensors at the most, weights included."""
        gc.collect()
        with self.ready(way) as step:
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                step()
                return torch.cuda.max_memory_allocated()
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as profile:
                step()
        now = most = 0  # allocations less releases since the step began
        for event in sorted(
            (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),
            key=lambda e: e.start_ns(),
        ):
            now += event.nbytes()
            most = max(most, now)
        return most + sum(p.nbytes for p in self.denoiser.parameters())


def measure(bench: Bench, rounds: int) -> tuple[dict, dict, float]:
    """-> {way: ratios of seconds to the step without guidance}, {way: ratio of peak memory}, ratio of NAG's counted operations"""
    ratios = {way: [] for way in WAYS[1:]}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for way in WAYS[1:]:
                none = bench.seconds("none")
                ratio = bench.seconds(way) / none
                if turn:  # the first turn warms up
                    ratios[way].append(ratio)
        peaks = {way: bench.peak(way) for way in [*WAYS, LONGER]}
        counted = bench.operations("NAG") / bench.operations("none")
    return ratios, {way: peak / peaks["none"] for way, peak in peaks.items()}, counted


class Alive(TorchDispatchMode):
    """Bytes of the tensors that were made under it and are alive: `most` at a time. Weights are not counted, nor views of them."""

    def __init__(self, denoiser):
        super().__init__()
        self.sizes, self.now, self.most = (
            {p.untyped_storage()._cdata: 0 for p in denoiser.parameters()},
            0,
            0,
        )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, storage._cdata)
        return out

    def freed(self, storage) -> None:
        self.now -= self.sizes.pop(storage)


def dry(shape: str) -> None:
    """The full-size model with fake tensors: prints its parameters, and operations and peak memory of its steps."""
    operations, peaks = {}, {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        # numbers cannot be compared: the rows that have the prompt's shape are the prompt's, as here they are
        stack.enter_context(mock.patch.object(torch, "equal", lambda a, b: a.shape == b.shape))
        stack.enter_context(mock.patch.object(segments, "PORTION", sys.maxsize))  # as on a GPU
        bench = Bench(shape, torch.bfloat16, "cpu", True)
        weights = sum(p.nbytes for p in bench.denoiser.parameters())
        for way in ("none", "CFG", "NAG", LONGER):
            try:
                operations[way] = bench.operations(way)
                with bench.ready(way) as step, Alive(bench.denoiser) as alive:
                    step()
                peaks[way] = weights + alive.most
            except DataDependentOutputException:  # a text cut by its mask
                operations[way] = peaks[way] = math.nan
    cells = [
        f"{sum(p.numel() for p in bench.denoiser.parameters()) / 1e9:.2f}",
        f"{operations['none'] / 1e12:.1f}",
        *(f"{operations[way] / operations['none']:.3f}" for way in ("CFG", "NAG")),
        f"{peaks['none'] / 1e9:.2f}",
        " / ".join(f"{peaks[way] / peaks['none']:.3f}" for way in ("CFG", "NAG", LONGER)),
    ]
    print(f"| {shape} | {' | '.join(cells).replace('nan', '-')} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=[name for name in SHAPES if name != "wan-81"],
        choices=list(SHAPES),
    )
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ways",
        nargs="+",
        default=WAYS[1:],
        choices=WAYS[1:],
        help="beside the step without guidance",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="one more way: the formula under torch.compile"
    )
    parser.add_argument("--full", action="store_true", help="the models' own size, on CUDA")
    parser.add_argument(
        "--dry", action="store_true", help="with --full: on fake tensors, no GPU needed"
    )
    options = parser.parse_args()
    if options.full and options.dry:
        print(
            f"| shape | billion parameters | tera-operations of a step | CFG | NAG | its peak memory, GB | CFG / NAG / {LONGER} |\n|{'---|' * 7}"
        )
        return [dry(shape) for shape in options.shapes] and None
    device = "cuda" if options.full else "cpu"
    if options.full and not torch.cuda.is_available():
        parser.error("--full needs a CUDA device; --full --dry runs without one.")
    torch.set_num_threads(1)
    WAYS[1:] = options.ways + [COMPILED] * options.compiled
    print(
        f"| shape | dtype | {' | '.join(WAYS[1:])} | NAG, counted | peak memory: the same, {LONGER} |\n|---|---|---|{'---|' * len(WAYS)}"
    )
    for name in options.shapes:
        for dtype in options.dtype or (["bfloat16"] if options.full else ["float32", "bfloat16"]):
            ratios, peaks, counted = measure(
                Bench(name, getattr(torch, dtype), device, options.full), options.rounds
            )
            cells = [
                f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for r in ratios.values()
            ]
            cells.append(f"{counted:.2f}")
            cells.append(" / ".join(f"{peaks[way]:.3f}" for way in [*WAYS[1:], LONGER]))
            print(f"| {name} | {dtype} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
