"""What guidance costs: denoisers shaped like the real ones, random weights, one step at a time.

    python tests/benchmarks/cost.py [--shapes flux wan ...] [--dtype float32 bfloat16] [--rounds 5]
    python tests/benchmarks/cost.py --full            on a GPU: the models' own size, bfloat16
    python tests/benchmarks/cost.py --full --dry      the same on tensors without numbers, counted

`--full` needs a GPU of about 40 GB, and of packages torch, diffusers and transformers; all its
shapes take under five minutes together. For each it first holds NAG against its two passes, in a
reduced model on the GPU and in float32.

Without it: reduced models (`shapes.py`) on one thread of the processor. `wan` has fewer tokens than
Wan; `wan-81` has as many, and takes minutes. `hunyuan` takes minutes with `--full`. Both are
measured when they are asked for.

Words are encoded before, and the first step, which looks for the conditional rows and chooses
kernels, is not timed. Every way of a step is timed right behind a step without guidance, by which
it is divided: a machine's speed changes within a round. Medians of ratios, with their range;
"shortest / shortest" leaves a machine's other work out. On a GPU by CUDA events; "GPU" is the sum
of its kernels' times, without the gaps between them, which Python leaves where a model is small.
"Counted" is what NAG would cost if only the arithmetic of matrix products, convolutions and
attention took time. Peak memory counts weights too; "text twice as long" is a step without
guidance: what the second text's tokens take in the model itself.
"""

import argparse
import contextlib
import functools
import gc
import math
import statistics
import sys
import time
import traceback
import weakref
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denoisers import Bare, loud
from shapes import SHAPES

import nag
from nag import fused, kernels, segments

PROMPT, NEGATIVE = "a portrait of a pirate", "big glasses"
SETTINGS = nag.NAGSettings()
# where the image stands in joint attention, for the doubled batch; the others have cross-attention
# with so many keys
IMAGE = {"flux": slice(512, None), "sd35": slice(0, 4096), "hunyuan": slice(0, -256)}
TEXT = {"sdxl": 77, "sana": 300, "wan": 512, "wan-81": 512, "ltx": 128}
NONE, CFG, DOUBLED, TWICE, NAG = "none", "CFG", "NAG, batch doubled", "NAG, two passes", "NAG"
LONGER = "text twice as long"
WAYS = [CFG, DOUBLED, TWICE, NAG]
COMPILED = "flux-compiled"  # with compile_repeated_blocks(fullgraph=True)
GOALS = {
    "flux": "1.16",
    "sd35": "1.08",
    "sdxl": "1.12, GPU 1.04",
    "sana": "1.12, GPU 1.07",
    "wan": "1.02",
    "ltx": "1.03",
    COMPILED: "1.17",
}
# of the kernels of attention, PyTorch's counter does not know that of a processor
PROCESSORS = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
KNOWN = {PROCESSORS: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}


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
        scale, tau, alpha = SETTINGS.scale, SETTINGS.tau, SETTINGS.alpha
        part.copy_(
            nag.normalized_attention_guidance(part[:1], part[1:], scale, tau, alpha, dim=(1, 3))
        )
        return out

    with mock.patch.object(F, "scaled_dot_product_attention", attention):
        yield


class Bench:
    """A denoiser of one shape, and a step of it in every way."""

    def __init__(self, shape: str, dtype: torch.dtype, device: str, full: bool):
        torch.manual_seed(0)
        self.shape, self.device, self.dtype = shape, device, dtype
        case = SHAPES[shape.removesuffix("-compiled")](full)
        before = torch.get_default_dtype()
        with torch.device(device):
            torch.set_default_dtype(dtype)  # 12 billion weights in float32 would not fit first
            try:
                self.denoiser = case.build().eval().requires_grad_(False)
            finally:
                torch.set_default_dtype(before)
        if not full:
            loud(self.denoiser)
        self.compiled = shape == COMPILED
        if self.compiled:
            self.denoiser.compile_repeated_blocks(fullgraph=True)
        cast = replace(case, texts=lambda words, n: self.cast(case.texts(words, n)))
        self.pipe = Bare(cast, self.denoiser)
        self.pipe.scheduler.set_timesteps(1)
        self.calls = [
            self.cast(case.arguments(torch.randn(rows, *case.latents), torch.tensor(500.0)))
            for rows in (1, 2)
        ]

    def cast(self, values: dict) -> dict:
        """Tensors on the device; numbers, but for positions, in the model's precision."""

        def one(name, value):
            if isinstance(value, dict):
                return self.cast(value)
            if not isinstance(value, torch.Tensor):
                return value
            number = value.is_floating_point() and "ids" not in name
            return value.to(self.device, self.dtype if number else value.dtype)

        return {name: one(name, value) for name, value in values.items()}

    @contextlib.contextmanager
    def ready(self, way: str):
        """-> a function that makes a step of this way, and has made one."""
        words = {CFG: [NEGATIVE, PROMPT], DOUBLED: [PROMPT, NEGATIVE]}.get(way, PROMPT)
        arguments = self.calls[isinstance(words, list)]
        with contextlib.ExitStack() as stack:
            progress = None
            if way == DOUBLED:
                stack.enter_context(doubled(self.shape))
            if way in (NAG, TWICE):
                progress = stack.enter_context(
                    nag.guide(self.pipe, NEGATIVE, exact=way == TWICE, scale=SETTINGS.scale)
                )
            texts = self.pipe.texts(words)
            if way == LONGER:
                texts = {n: torch.cat([x, x], 0 if "ids" in n else 1) for n, x in texts.items()}
            step = functools.partial(self.denoiser, **arguments, **texts)
            step()
            yield step
            assert progress is None or progress.guided_calls

    def seconds(self, way: str, steps: int = 1) -> float:
        """Of one step, on the average of several."""
        with self.ready(way) as step:
            if self.device != "cuda":
                begun = time.perf_counter()
                for _ in range(steps):
                    step()
                return (time.perf_counter() - begun) / steps
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begun.record()
            for _ in range(steps):
                step()
            ended.record()
            torch.cuda.synchronize()
            return begun.elapsed_time(ended) / 1000 / steps

    def on_gpu(self, way: str) -> tuple[float, int]:
        """Seconds that the kernels of a step take together, and how many there are."""
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with self.ready(way) as step:
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=kinds) as profile:
                step()
                torch.cuda.synchronize()
        kernels = [e for e in profile.events() if e.device_type == DeviceType.CUDA]
        return sum(e.time_range.elapsed_us() for e in kernels) / 1e6, len(kernels)

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
            kinds = [torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
                step()
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        now = most = 0  # allocations less releases since the step began
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return most + sum(p.nbytes for p in self.denoiser.parameters())

    def difference(self) -> float:
        """How far NAG's output is from that of its two passes, relative to what NAG changes."""
        outputs = {}
        for way in (NONE, TWICE, NAG):
            with self.ready(way) as step:
                outputs[way] = step()[0].float()
        changed = (outputs[TWICE] - outputs[NONE]).norm()
        return float((outputs[NAG] - outputs[TWICE]).norm() / changed)


def ratios(bench: Bench, ways: list[str], rounds: int, seconds: float) -> tuple[float, dict, dict]:
    """-> seconds of a step without guidance, {way: ratios to the step right before it}, {way: its
    shortest step / the shortest without guidance}. At least three rounds, then as many as fit into
    `seconds`, at most `rounds`."""
    plain, found, least = [], {way: [] for way in ways}, dict.fromkeys(ways, math.inf)
    steps = max(1, int(0.1 / bench.seconds(NONE))) if bench.device == "cuda" else 1
    begun = time.monotonic()
    for turn in range(rounds + 1):
        if turn > 3 and time.monotonic() - begun > seconds:
            break
        for way in ways:
            none, guided = bench.seconds(NONE, steps), bench.seconds(way, steps)
            if turn:  # the first turn warms up
                plain.append(none)
                found[way].append(guided / none)
                least[way] = min(least[way], guided)
    return statistics.median(plain), found, {way: one / min(plain) for way, one in least.items()}


def cell(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    numbers = statistics.median(values), min(values), max(values)
    return "{} ({}-{})".format(*(f"{number:.{digits}f}" for number in numbers))


@torch.inference_mode()
def reduced(shape: str, dtype: str, ways: list[str], rounds: int) -> str:
    """The row of a reduced model on the processor."""
    bench = Bench(shape, getattr(torch, dtype), "cpu", False)
    _, found, _ = ratios(bench, ways, rounds, math.inf)
    peaks = {way: bench.peak(way) for way in [NONE, *ways, LONGER]}
    cells = [shape, dtype, *(cell(values) for values in found.values())]
    cells.append(f"{bench.operations(NAG) / bench.operations(NONE):.2f}")
    cells.append(" / ".join(f"{peaks[way] / peaks[NONE]:.3f}" for way in [*ways, LONGER]))
    return row(cells)


def checked(shape: str) -> float:
    """How far NAG is from its two passes on this GPU, of what it changes: in float32 and in the
    reduced model, whose weights are such that guidance shows. (In bfloat16 rounding is as large as
    what guidance changes in random weights.) Raises ArithmeticError where it is too far."""
    with torch.backends.cudnn.flags(allow_tf32=False):  # rounds convolutions to ten bits
        off = Bench(shape.removesuffix("-compiled"), torch.float32, "cuda", False).difference()
    if not off < 1e-3:
        raise ArithmeticError(f"{shape}: NAG is off its two passes by {off:.1e} of its effect")
    return off


@torch.inference_mode()
def full(shape: str, dtype: str, ways: list[str], rounds: int, seconds: float) -> str:
    """The row of a model of its own size on a GPU. Raises ArithmeticError where the fused kernel
    and two passes disagree."""
    off = checked(shape)
    bench = Bench(shape, getattr(torch, dtype), "cuda", True)
    plain, found, least = ratios(bench, ways, rounds, seconds)
    cells = [shape, f"{1000 * plain:.1f}", *(cell(values, 3) for values in found.values())]
    gpu, launches = zip(*(bench.on_gpu(way) for way in (NONE, NAG)), strict=True)
    cells += [f"{least.get(NAG, math.nan):.3f}", f"{gpu[1] / gpu[0]:.3f} ({1000 * gpu[0]:.1f} ms)"]
    cells += ["{} / {}".format(*launches)]
    counted = math.nan if bench.compiled else bench.operations(NAG) / bench.operations(NONE)
    peaks = [bench.peak(way) for way in (NONE, CFG, NAG)]
    cells += [f"{counted:.3f}", f"{peaks[1] / peaks[0]:.3f} / {peaks[2] / peaks[0]:.3f}"]
    return row([*cells, f"{off:.0e}", GOALS.get(shape, "")]).replace("nan", "-")


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head(cells: list[str]) -> str:
    return f"{row(cells)}\n|{'---|' * len(cells)}"


class Alive(TorchDispatchMode):
    """Bytes of the tensors that were made under it and are alive: `most` at a time. Weights are not
    counted, nor views of them."""

    def __init__(self, denoiser):
        super().__init__()
        self.sizes = {p.untyped_storage()._cdata: 0 for p in denoiser.parameters()}
        self.now = self.most = 0

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


def one_launch(
    positive, negative, rows, settings, image=None, at=None, labels=None
) -> torch.Tensor:
    """The memory that the fused kernel takes, without the kernel."""
    z = positive if image is None else image[0]
    return z.new_empty(z.shape)


def dry(shape: str) -> str:
    """The row of a full-size model with fake tensors: its parameters, and operations and peak
    memory of its steps, by the ways of a GPU."""
    operations, peaks = {}, {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        # numbers cannot be compared: rows of the prompt's shape are the prompt's, as here they are
        stack.enter_context(mock.patch.object(torch, "equal", lambda a, b: a.shape == b.shape))
        stack.enter_context(mock.patch.object(segments, "PORTION", sys.maxsize))
        stack.enter_context(mock.patch.dict(fused.launchers, {"cpu": one_launch}))
        bench = Bench(shape, torch.bfloat16, "cpu", True)
        weights = sum(p.nbytes for p in bench.denoiser.parameters())
        for way in (NONE, CFG, NAG, LONGER):
            try:
                operations[way] = bench.operations(way)
                with bench.ready(way) as step, Alive(bench.denoiser) as alive:
                    step()
                peaks[way] = weights + alive.most
            except DataDependentOutputException:  # a text cut by its mask
                operations[way] = peaks[way] = math.nan
    cells = [
        shape,
        f"{sum(p.numel() for p in bench.denoiser.parameters()) / 1e9:.2f}",
        f"{operations[NONE] / 1e12:.1f}",
        *(f"{operations[way] / operations[NONE]:.3f}" for way in (CFG, NAG)),
        f"{peaks[NONE] / 1e9:.2f}",
        " / ".join(f"{peaks[way] / peaks[NONE]:.3f}" for way in (CFG, NAG, LONGER)),
    ]
    return row(cells).replace("nan", "-")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES, COMPILED])
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, help="at the most; 5, with --full 15")
    parser.add_argument("--seconds", type=float, default=15, help="--full: of a shape's rounds")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="beside no guidance and NAG")
    parser.add_argument("--full", action="store_true", help="the models' own size, on CUDA")
    parser.add_argument("--dry", action="store_true", help="with --full: no GPU needed")
    options = parser.parse_args()
    if options.full and not options.dry and not torch.cuda.is_available():
        parser.error("--full needs a CUDA device; --full --dry runs without one.")
    real = options.full and not options.dry
    slow = {"wan-81", "hunyuan"} if real else {"wan-81"}
    usual = [name for name in SHAPES if name not in slow] + [COMPILED] * real
    options.shapes = options.shapes or usual
    options.ways = options.ways or ([CFG, TWICE, NAG] if real else WAYS)
    options.dtype = options.dtype or (["bfloat16"] if real else ["float32", "bfloat16"])
    options.rounds = options.rounds or (15 if real else 5)
    return options


def machine() -> str:
    """The GPU, and what NAG computes with on it."""
    kernels.prepare("cuda")
    fused.prepare("cuda")
    chosen = []
    for (device, dtype, masked, wide), kernel in kernels.chosen.items():
        if device == "cuda" and not wide:
            name = kernel.__name__ if kernel else "none"
            chosen.append(f"{str(dtype).removeprefix('torch.')}{' masked' * masked} {name}")
    able = "yes" if fused.launchers.get("cuda") else "no"
    gpu = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{gpu}. Kernels: {', '.join(chosen)}. Fused kernel: {able}."


def heads(options: argparse.Namespace) -> list[str]:
    """The columns of the table."""
    if options.full and options.dry:
        size = ["billion parameters", "tera-operations of a step"]
        return ["shape", *size, CFG, NAG, "its peak memory, GB", f"{CFG} / {NAG} / {LONGER}"]
    if not options.full:
        return ["shape", "dtype", *options.ways, "counted", f"peak memory: the same, {LONGER}"]
    beside = ["shortest / shortest", "NAG, GPU", "launches, none / NAG", "counted"]
    beside += ["peak memory, CFG / NAG"]
    return [
        "shape",
        "a step, ms",
        *options.ways,
        *beside,
        "off two passes, float32",
        "goal",
    ]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    if options.full and not options.dry:
        print(machine() + "\n", flush=True)
    print(head(heads(options)), flush=True)
    failed = []
    for shape in options.shapes:
        for dtype in options.dtype[:1] if options.dry else options.dtype:
            if options.dry:
                print(dry(shape), flush=True)
            elif options.full:
                try:
                    print(full(shape, dtype, options.ways, options.rounds, options.seconds))
                except Exception:  # the others are measured all the same
                    traceback.print_exc()
                    failed.append(shape)
                sys.stdout.flush()
                torch._dynamo.reset()
                torch.cuda.empty_cache()
            else:
                print(reduced(shape, dtype, options.ways, options.rounds), flush=True)
            gc.collect()
    if failed:
        sys.exit(f"Not measured, for the reasons above: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
