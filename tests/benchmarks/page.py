"""What the page adds to its pipeline calls: three columns through the engine, against three bare calls with the same arguments.

    python tests/benchmarks/page.py [--preset pocket-portrait] [--steps 4 20] [--rounds 9]

Everything that the page does with a column is done: previews made and coded, the finished picture coded as PNG, the meter read. The bare calls
are once those of a script, which encodes its words anew for each, and once with the words known, as the engine has them. The three
take turns, in changing order; medians of ratios within a turn, with their range. Prints a Markdown table.

Everything that computes does so in a thread of its own that ends with it, as the engine's does. A thread that has computed once keeps its
OpenMP helpers, and while there are more of these than cores, the calls slow one
another down: the ratio was then 1.6 to 1.7.
"""

import argparse
import contextlib
import io
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nag import bench, compare, guide, presets
from nag.adapters import replaced


def page(engine, preset, request) -> float:
    """Seconds of a comparison, as the page asks for it."""
    begun, coded = time.perf_counter(), set()
    for run, _, preview in engine.run(preset, request):
        if preview is not None:
            bench.data_uri(preview)
        for column in run.columns:
            if column.state == "done" and column.key not in coded:
                coded.add(column.key)
                column.image.save(io.BytesIO(), "PNG", compress_level=1)
    assert all(column.state == "done" for column in run.columns)
    return time.perf_counter() - begun


def bare(loaded, preset, request, known: bool) -> float:
    """Seconds of the same columns as calls of the pipeline and nothing else."""
    pipe, run, nag = loaded.pipe, compare.Run("bare", preset, request, []), request.nag
    begun = time.perf_counter()
    for key in request.guidance:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if known:
                stack.enter_context(replaced(pipe, "encode_prompt", loaded.words.recall))
            if "nag" in key:
                stack.enter_context(guide(pipe, request.negative_prompt, scale=nag.scale, tau=nag.tau, alpha=nag.alpha, end=nag.end))
            pipe(**compare._arguments(pipe, run, key))
    return time.perf_counter() - begun


def apart(function):
    """What `function` returns, computed in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=presets.DEFAULT)
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 20])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    engine = compare.Engine()
    print("| steps | three bare calls | the page / bare calls | the page / bare calls, words known |\n|---|---|---|---|")
    for steps in options.steps:
        preset, request = presets.resolve({"preset": options.preset, "num_inference_steps": steps, "fresh": True})
        loaded = apart(lambda p=preset: engine.shelf.get(p))
        ways = {"page": lambda p=preset, r=request: page(engine, p, r),
                "bare": lambda o=loaded, p=preset, r=request: apart(lambda: bare(o, p, r, False)),
                "known": lambda o=loaded, p=preset, r=request: apart(lambda: bare(o, p, r, True))}
        spent = {way: [] for way in ways}
        for turn in range(options.rounds + 1):
            for way in [*ways][turn % 3:] + [*ways][:turn % 3]:
                seconds = ways[way]()
                if turn:  # the first turn warms up
                    spent[way].append(seconds)
        cells = []
        for way in ("bare", "known"):
            ratios = [a / b for a, b in zip(spent["page"], spent[way], strict=True)]
            cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
        print(f"| {steps} | {statistics.median(spent['bare']):.3f} s | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
