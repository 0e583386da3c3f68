"""What only a GPU can show beside times: that its pictures, graphs and half precision are right.

    python tests/benchmarks/on_a_gpu.py [--checks half graphs ...]

Needs of packages torch, diffusers and transformers, and `pictures` what the command line needs.
Prints one line a check, and ends with a status of 1 where one failed.

    half        the fused kernel is the formula rounded once, in every precision, natively
    compiled    torch.compile(mode="reduce-overhead"): what is guided so is what is guided eagerly
    graphs      a guided step of SDXL's and SANA's own size as one CUDA graph: right, and its time
                beside a step without guidance in a graph of its own
    float8      weights kept in 8 bits (`enable_layerwise_casting`): guided as in two passes
    calls       a layer's attention calls at Flux's size beside one call of a single text, and
                whether both texts as two rows of one call take less
    pictures    pocket-portrait's pictures of eight seeds are the processor's, within 1 of 255
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cost import NAG, NEGATIVE, NONE, PROMPT, Bench

import nag
from nag import fused, kernels
from nag.segments import Inputs

PROJECT = Path(__file__).resolve().parents[2]


def half(cases: int = 60) -> str:
    from test_fused import Attended

    worst = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        eps = torch.finfo(dtype).eps
        for seed in range(cases):
            arguments = Attended(seed, dtype, ((1, 40), (1, 128)), 9).arguments()
            arguments = [on_gpu(x) for x in arguments]
            out = fused.steer(*arguments).float()
            with mock.patch.dict(fused.launchers, {"cuda": fused.in_torch}):
                expected = fused.steer(*arguments).float()
            # both round once, so that they may be one step of the last digit apart
            bound = 1e-5 + (1e-5 if dtype == torch.float32 else eps) * expected.abs()
            off = float(((out - expected).abs() / bound).max())
            worst[dtype] = max(worst.get(dtype, 0.0), off)
    said = ", ".join(f"{str(d).removeprefix('torch.')} {x:.2f}" for d, x in worst.items())
    assert max(worst.values()) <= 1, said
    return f"{cases} random cases each, of the bound at the most: {said}"


def on_gpu(value):
    if isinstance(value, torch.Tensor):
        return value.cuda()
    return tuple(map(on_gpu, value)) if isinstance(value, tuple) else value


def outputs(bench: Bench, negatives: list[str], **options) -> list[torch.Tensor]:
    """Of a guided step, for each of the negative prompts."""
    found = []
    for negative in negatives:
        with nag.guide(bench.pipe, negative, scale=5.0, **options):
            texts = bench.pipe.texts(PROMPT)
            for _ in range(3):  # a graph is recorded in the second call and replayed in the third
                out = bench.denoiser(**bench.calls[0], **texts)[0].float().clone()
        found.append(out)
    return found


def compiled() -> str:
    said, negatives = [], [NEGATIVE, "a beard"]
    for shape in ("flux", "sana"):
        bench = Bench(shape, torch.float32, "cuda", False)
        plain = bench.denoiser(**bench.calls[0], **bench.pipe.texts(PROMPT))[0].float()
        expected = outputs(bench, negatives, exact=True)
        bench.denoiser.compile(mode="reduce-overhead")
        for found, wanted in zip(outputs(bench, negatives), expected, strict=True):
            off = float((found - wanted).norm() / (wanted - plain).norm())
            assert off < 1e-3, f"{shape} is off by {off:.1e} of NAG's effect"
        said.append(f"{shape} {off:.0e}")
        torch._dynamo.reset()
    return f"two negative prompts, off the eager two passes, of NAG's effect: {', '.join(said)}"


def graphs() -> str:
    said = []
    for shape in ("sdxl", "sana"):
        bench, replay = Bench(shape, torch.bfloat16, "cuda", True), {}
        for way in (NONE, NAG):
            with bench.ready(way) as step:
                eager = step()[0].float()
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    step()
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    out = step()[0]
            graph.replay()
            torch.cuda.synchronize()
            off = float((out.float() - eager).norm() / eager.norm())
            assert off < 2e-2, f"{shape}, {way}: the graph is off by {off:.1e}"
            replay[way] = graph
        times = {way: [] for way in replay}
        for _ in range(15):
            for way, graph in replay.items():
                begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begun.record()
                for _ in range(5):
                    graph.replay()
                ended.record()
                torch.cuda.synchronize()
                times[way].append(begun.elapsed_time(ended) / 5)
        ratios = [b / a for a, b in zip(*times.values(), strict=True)]
        none, ratio = statistics.median(times[NONE]), statistics.median(ratios)
        said.append(f"{shape} {none:.1f} ms, {ratio:.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
        del bench, replay, graph, out
        torch.cuda.empty_cache()
    return f"a step without guidance, NAG / none: {'; '.join(said)}"


def float8() -> str:
    bench = Bench("flux", torch.float32, "cuda", False)
    bench.denoiser.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    plain = bench.denoiser(**bench.calls[0], **bench.pipe.texts(PROMPT))[0]
    (twice,), (once,) = (outputs(bench, [NEGATIVE], exact=exact) for exact in (True, False))
    kept = {p.dtype for n, p in bench.denoiser.named_parameters() if "transformer_blocks.0." in n}
    assert torch.float8_e4m3fn in kept, kept
    off = float((once - twice).norm() / (twice - plain).norm())
    assert off < 1e-3, f"off by {off:.1e} of NAG's effect"
    return f"off two passes by {off:.0e} of NAG's effect"


def calls(device: str = "cuda", text: int = 512, image: int = 4096, heads: int = 24) -> str:
    dtype = torch.bfloat16
    query, key, value = (
        torch.randn(1, heads, 2 * text + image, 128, device=device, dtype=dtype) for _ in range(3)
    )
    positive, negative, of_image = (
        [x.narrow(2, *at) for x in (key, value)]
        for at in ((0, text), (text, text), (2 * text, image))
    )

    def plain():
        return [kernels.attend(Inputs(*(x[:, :, text:] for x in (query, key, value))))]

    def three():
        return [kernels.attend(Inputs(query, *seen)) for seen in (of_image, positive, negative)]

    def rows():
        both = [torch.cat(pair) for pair in zip(positive, negative, strict=True)]
        out, lse = kernels.attend(Inputs(query.expand(2, -1, -1, -1), *both))
        parts = zip(out[:, None], lse[:, None], strict=True)
        return [kernels.attend(Inputs(query, *of_image)), *parts]

    for one, other in zip(three(), rows(), strict=True):
        for a, b in zip(one, other, strict=True):
            off = float((a.float() - b.float()).abs().max())
            assert off < 2e-2, f"two rows of one call are off by {off:.1e}"
    times = {way: [] for way in (plain, three, rows)}
    for _ in range(3 if device == "cpu" else 50):
        for way, found in times.items():
            found.append(timed(way, device))
    none = statistics.median(times[plain])
    said = []
    for name, way in (("three calls", three), ("the texts as two rows", rows)):
        ratios = [b / a for a, b in zip(times[plain], times[way], strict=True)]
        said.append(f"{name} {statistics.median(ratios):.3f}")
    return f"one text {none:.3f} ms; times that: {', '.join(said)}"


def timed(way, device: str) -> float:
    """Milliseconds."""
    if device == "cpu":
        begun = time.perf_counter()
        way()
        return 1000 * (time.perf_counter() - begun)
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    way()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended)


def pictures() -> str:
    import numpy as np
    from PIL import Image

    folders, beside = {}, tempfile.TemporaryDirectory()
    for device, hidden in (("cpu", {"CUDA_VISIBLE_DEVICES": ""}), ("cuda", {})):
        folders[device], surroundings = Path(beside.name, device), os.environ | hidden
        command = ["-m", "nag", "seeds", "--preset", "pocket-portrait", "--out"]
        command = [sys.executable, *command, str(folders[device])]
        done = subprocess.run(command, env=surroundings, cwd=PROJECT, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    most, mean, count = 0, [], 0
    grids = [json.loads((folder / "grid.json").read_text()) for folder in folders.values()]
    for row in zip(*(grid["cells"] for grid in grids), strict=True):
        for cells in zip(*row, strict=True):
            pair = [
                np.asarray(Image.open(folder / cell["picture"])).astype(int)
                for folder, cell in zip(folders.values(), cells, strict=True)
            ]
            off = abs(pair[0] - pair[1])
            most, count = max(most, int(off.max())), count + 1
            mean.append(off.mean())
    beside.cleanup()
    said = f"{count} pictures, off by at most {most}, {statistics.mean(mean):.4f} on the average"
    assert count == 24 and most <= 1, said
    return said


CHECKS = {check.__name__: check for check in (half, compiled, graphs, float8, calls, pictures)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("these checks need a CUDA device.")
    kernels.prepare("cuda")
    fused.prepare("cuda")
    failed = []
    for name in options.checks:
        try:
            with torch.inference_mode():
                print(f"{name}: {CHECKS[name]()}", flush=True)
        except Exception:  # the others are tried all the same
            traceback.print_exc()
            print(f"{name}: FAILED", flush=True)
            failed.append(name)
    sys.exit(f"Failed: {', '.join(failed)}." if failed else 0)


if __name__ == "__main__":
    main()
