"""What the page adds to its pipeline calls: columns through the engine, against three bare calls
with the same arguments.

    python tests/benchmarks/page.py [--preset pocket-portrait ...] [--steps 4 20] [--rounds 9]
    [--guidance none,cfg,nag] [--batched]

Everything that the page does with a column is done: previews made and coded, the finished picture
coded as PNG, the meter read. The bare calls are once those of a script, which encodes its words
anew for each, and once with the words known, as the engine has them. The three take turns, in
changing order; medians of ratios within a turn, with their range. Prints a Markdown table. With
--batched it is instead the page with its columns drawn together against the page without.

Everything that computes does so in a thread of its own that ends with it, as the engine's does. A
thread that has computed once keeps its OpenMP helpers, and while there are more of these than
cores, the calls slow one another down: the ratio was then 1.6 to 1.7.
"""

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nag import guide, presets
from nag.engine.call import call_arguments
from nag.engine.engine import Engine
from nag.page.inline import data_uri
from nag.patch import wrap_method
from nag.request import DEFAULT


def page(engine, preset, request) -> float:
    """Seconds of a comparison, as the page asks for it."""
    begun, coded = time.perf_counter(), set()
    for run, _, preview in engine.run(preset, request):
        if preview is not None:
            data_uri(preview)
        for column in run.columns:
            if column.state == "done" and column.key not in coded:
                coded.add(column.key)
                column.image.save(io.BytesIO(), "PNG", compress_level=1)
    assert all(column.state == "done" for column in run.columns)
    return time.perf_counter() - begun


def bare(loaded, preset, request, known: bool) -> float:
    """Seconds of the same columns as calls of the pipeline and nothing else."""
    pipe = loaded.pipe
    begun = time.perf_counter()
    for key in request.guidance:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if known:
                stack.enter_context(wrap_method(pipe, "encode_prompt", loaded.words.recall))
            if (settings := request.attention(key)) is not None:
                stack.enter_context(guide(pipe, request.negative_prompt, **asdict(settings)))
            pipe(**call_arguments(pipe, preset, request, key))
    return time.perf_counter() - begun


def apart(function):
    """What `function` returns, computed in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def turns(ways: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round, in changing order; a first round warms up and does not
    count."""
    spent = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]:
            seconds = ways[way]()
            if turn:
                spent[way].append(seconds)
    return spent


def ratio(spent: dict, way: str, to: str) -> str:
    ratios = [a / b for a, b in zip(spent[way], spent[to], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


def against_calls(engine, raw: dict, rounds: int) -> str:
    preset, request = presets.resolve(raw)
    loaded = apart(lambda: engine.shelf.get(preset))
    spent = turns(
        {
            "page": lambda: page(engine, preset, request),
            "bare": lambda: apart(lambda: bare(loaded, preset, request, False)),
            "known": lambda: apart(lambda: bare(loaded, preset, request, True)),
        },
        rounds,
    )
    bare, known = ratio(spent, "page", "bare"), ratio(spent, "page", "known")
    return f"{statistics.median(spent['bare']):.3f} s | {bare} | {known}"


def together(engine, raw: dict, rounds: int) -> str:
    ways = {}
    for name, batched in (("alone", False), ("together", True)):
        preset, request = presets.resolve({**raw, "batched": batched})
        ways[name] = lambda p=preset, r=request: page(engine, p, r)
    spent = turns(ways, rounds)
    return f"{statistics.median(spent['alone']):.3f} s | {ratio(spent, 'together', 'alone')}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", nargs="+", default=[DEFAULT])
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 20])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--guidance",
        nargs="+",
        default=["none,cfg,nag"],
        help="columns; of several lists, one row each",
    )
    parser.add_argument(
        "--batched",
        action="store_true",
        help="columns drawn together, against columns drawn one after another",
    )
    options = parser.parse_args()
    engine = Engine()
    titles = (
        ["one after another", "together / one after another"]
        if options.batched
        else ["bare calls", "the page / bare calls", "the page / bare calls, words known"]
    )
    print(f"| preset | columns | steps | {' | '.join(titles)} |\n{'|---' * (3 + len(titles))}|")
    for preset, columns, steps in itertools.product(
        options.preset, options.guidance, options.steps
    ):
        raw = {
            "preset": preset,
            "guidance": columns.split(","),
            "num_inference_steps": steps,
            "fresh": True,
        }
        row = (together if options.batched else against_calls)(engine, raw, options.rounds)
        print(f"| {preset} | {columns} | {steps} | {row} |", flush=True)


if __name__ == "__main__":
    main()
