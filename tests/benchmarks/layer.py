"""What one guided attention layer costs beside its attention: launches on a GPU, and Python.

    python tests/benchmarks/layer.py                        this checkout
    python tests/benchmarks/layer.py --code ../other        another one, for comparison
    python tests/benchmarks/layer.py --cuda                 on a GPU, with the kernel's own launch

Tiny tensors on one thread of the processor, which plays a GPU: nothing is cut into portions, and
the fused kernel is a function that fills its output. Launches are operations that compute or copy;
microseconds are of processor time, the least of several rounds. On a GPU the kernels of such
tensors are done before the next is launched, so there too Python is what is timed.
"""

import argparse
import inspect
import sys
import time
from pathlib import Path
from types import SimpleNamespace

IMAGE = 12
CASES = {  # kind, (T+, T-), conditional rows, rows
    "joint": ("joint", (5, 3), slice(0, 1), 1),
    "joint, CFG": ("joint", (5, 3), slice(1, 2), 2),
    "cross": ("cross", (5, 3), slice(0, 1), 1),
    "cross, equal lengths": ("cross", (4, 4), slice(0, 1), 1),
    "cross, CFG": ("cross", (4, 4), slice(1, 2), 2),
}
BARE = {"aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided"}


def as_on_a_gpu() -> None:
    """The processor takes the paths of a GPU."""
    from nag import segments

    segments.PORTION = sys.maxsize
    try:
        from nag import fused
    except ImportError:  # a checkout from before the fused kernel
        return

    def one_launch(positive, negative, rows, settings, image=None, at=None, labels=None):
        z = positive if image is None else image[0]
        return z.new_zeros(z.shape)

    fused.launchers["cpu"] = one_launch


def layer(kind: str, texts, rows: slice, total: int, device: str = "cpu"):
    """A guided layer whose texts stand first, and what its op is called with."""
    import torch
    import torch.nn.functional as F

    import nag
    from nag.attention_processor import GuidedAttention
    from nag.segments import Layout

    plus, minus = texts
    family = SimpleNamespace(pieces=lambda *_: ([(0, plus)], [(plus, minus)]))
    layout = Layout((texts,), rows, total)
    call = SimpleNamespace(layout=layout, exact=False, backend="native", record=None)
    guided = GuidedAttention("here", kind, family, nag.NAGSettings(), call)
    keys = plus + minus + IMAGE * (kind == "joint")
    queries = keys if kind == "joint" else IMAGE
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    features = 8 if device == "cpu" else 64
    shapes = [(total, 4, n, features) for n in (queries, keys, keys)]
    inputs = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]

    def op(query, key, value, mask):
        return F.scaled_dot_product_attention(query, key, value, mask)

    return lambda: guided.attend(op, *inputs, None, 2, True), lambda: op(*inputs, None)


def launches(step) -> int:
    """Operations that compute or copy."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            real = function._schema.name not in BARE and not function.is_view
            Count.count += real
            return function(*args, **(kwargs or {}))

    with Count():
        step()
    return Count.count


def microseconds(step, calls: int = 300, rounds: int = 25) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(calls):
            step()
        best = min(best, time.process_time() - begun)
    return best / calls * 1e6


def signature_of_a_twin() -> tuple[float, float]:
    """Microseconds of what diffusers asks at every call: of a processor, and of its twin."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    from nag.twins import CurrentLayer, twin_class

    processors = AttnProcessor2_0(), twin_class(AttnProcessor2_0, CurrentLayer())()
    return tuple(
        microseconds(lambda one=one: set(inspect.signature(one.__call__).parameters.keys()))
        for one in processors
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--cuda", action="store_true", help="on a GPU")
    options = parser.parse_args()
    sys.path.insert(0, str(options.code))

    import torch

    torch.set_num_threads(1)
    device = "cuda" if options.cuda else "cpu"
    if options.cuda:
        from nag import fused, kernels

        kernels.prepare(device)
        fused.prepare(device)
    else:
        as_on_a_gpu()
    print("| layer | launches | microseconds | of one attention call |\n|---|---|---|---|")
    with torch.no_grad():
        for name, case in CASES.items():
            guided, plain = layer(*case, device)
            guided()  # what is found out once for a layout
            times = microseconds(guided), microseconds(plain)
            print(f"| {name} | {launches(guided)} | {times[0]:.0f} | {times[1]:.0f} |")
    plain, twin = signature_of_a_twin()
    print(f"\ninspect.signature of a processor {plain:.0f}, of its twin {twin:.0f} microseconds")


if __name__ == "__main__":
    main()
