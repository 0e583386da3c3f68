"""What follows attention on a GPU, in one kernel: equal to the formula, wherever it can be tried.

Triton itself is tried under its interpreter where it is installed (`pip install triton`: it is not
among the requirements, for its size). Everything else has its numerical twin in PyTorch.
"""

import functools
import importlib
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from denoisers import CASES, bare
from oracle import naive
from test_guidance import STRONG, close
from tiny import NEGATIVE, PROMPT
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import nag
from nag import NAGSettings, fused, kernels
from nag.segments import Inputs, Segments

PIECES = (fused.POSITIVE, fused.NEGATIVE, fused.IMAGE)


@pytest.fixture(scope="module")
def by_triton():
    """The kernel's `steer`, interpreted on the processor (see conftest.py)."""
    pytest.importorskip("triton", reason="Triton is not installed, so its kernel is not tried")
    return importlib.import_module("nag.triton_kernel").steer


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The processor takes the paths of a GPU, with the kernel's twin in its place."""
    monkeypatch.setitem(fused.launchers, "cpu", fused.in_torch)


class Attended:
    """A joint attention of random shape, layout, rows and strength; all that `steer` asks of it."""

    def __init__(self, seed: int, dtype=torch.float32, sizes=((1, 6), (1, 40)), length=3):
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.heads, self.features = (rng.randint(*size) for size in sizes)
        rows = rng.randint(1, length)
        first = rng.randrange(rows)
        self.rows = slice(first, rng.randint(first + 1, rows))
        lengths = [(rng.randint(1, length), rng.choice(PIECES)) for _ in range(rng.randint(1, 3))]
        lengths.append((rng.randint(1, length), fused.IMAGE))  # there is always an image
        rng.shuffle(lengths)
        starts = [sum(n for n, _ in lengths[:i]) for i in range(len(lengths))]
        self.at = Segments([(s, n, label) for s, (n, label) in zip(starts, lengths, strict=True)])
        tokens = sum(n for n, _ in lengths)
        shape = rows, self.heads, tokens, self.features
        if rng.random() < 0.5:  # as processors lay them out
            shape = rows, tokens, self.heads, self.features
        q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
        if shape[1] == tokens and shape[2] == self.heads:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self.q, self.k, self.v = q, k, v
        tau = rng.choice([1.0, 1.5, 2.5, math.inf])
        self.settings = NAGSettings(rng.uniform(1, 12), tau, rng.uniform(0, 1))

    def answer(self, pieces, rows=slice(None), queries=None):
        """What queries get of some keys, with its log-sum-exp; None without keys."""
        if not pieces:
            return None
        places = [at for start, length in pieces for at in range(start, start + length)]
        q, k, v = self.q[rows], self.k[rows][:, :, places], self.v[rows][:, :, places]
        q = q if queries is None else q.narrow(2, *queries)
        scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(self.features)
        return (scores.softmax(-1) @ v.float()).to(q.dtype), scores.logsumexp(-1)

    def arguments(self):
        """Of `steer`, behind the three calls of joint attention."""
        positive = self.answer(self.at.positive, queries=self.at.asking_positive)
        negative = self.answer(self.at.negative, self.rows, self.at.asking_negative)
        image = self.answer(self.at.image)
        return positive, negative, self.rows, self.settings, image, self.at

    def by_hand(self):
        """Float64, piece by piece: what joint attention with two texts is."""
        q, k, v = (x.double() for x in (self.q, self.k, self.v))

        def attended(queries, keys):
            at = [[p for s, n in pieces for p in range(s, s + n)] for pieces in (queries, keys)]
            scores = q[:, :, at[0]] @ k[:, :, at[1]].transpose(-1, -2) / math.sqrt(self.features)
            return scores.softmax(-1) @ v[:, :, at[1]]

        out = torch.zeros_like(q)
        for start, n, label in self.at.labelled:
            place, here = out[:, :, start : start + n], [(start, n)]
            z_positive = attended(here, self.at.with_positive)
            z_negative = attended(here, self.at.with_negative)
            if label == fused.NEGATIVE:
                place[self.rows] = z_negative[self.rows]
                continue
            place.copy_(z_positive)
            if label == fused.IMAGE:
                s = self.settings
                z = z_positive[self.rows], z_negative[self.rows]
                place[self.rows] = naive(*z, s.scale, s.tau, s.alpha)
        return out

    def between(self):
        """Arguments of `steer` behind cross-attention: no merge."""
        positive = self.answer(self.at.with_positive)[0]
        return positive, self.answer(self.at.with_negative, self.rows)[0], self.rows, self.settings


SEEDS = [range(at, at + 25) for at in range(0, 200, 25)]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_the_twin_is_joint_attention_with_two_texts_by_hand(seeds, as_on_a_gpu):
    for seed in seeds:
        attended = Attended(seed)
        out = fused.steer(*attended.arguments())
        assert out.transpose(1, 2).is_contiguous()  # heads side by side: nothing is copied later
        assert_close(out.double(), attended.by_hand(), rtol=1e-5, atol=2e-5)


def both(arguments, by_triton, monkeypatch) -> list:
    """What the kernel gives, and what its twin."""
    found = []
    for launcher in (fused.in_torch, by_triton):
        monkeypatch.setitem(fused.launchers, "cpu", launcher)
        found.insert(0, fused.steer(*arguments))
    assert all(out.transpose(1, 2).is_contiguous() for out in found)
    return found


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_the_kernel_is_the_formula(seeds, by_triton, monkeypatch):
    """Few tokens: interpreted, one takes some milliseconds."""
    for seed in seeds:
        attended = Attended(seed, length=2)
        for arguments in (attended.arguments(), attended.between())[: 1 + (seed % 4 == 0)]:
            assert_close(*both(arguments, by_triton, monkeypatch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_the_kernel_is_the_formula_rounded_once(dtype, by_triton, monkeypatch):
    for seed in range(30):
        attended = Attended(seed, dtype, length=2)
        for arguments in (attended.arguments(), attended.between())[: 1 + (seed % 4 == 0)]:
            out, expected = both(arguments, by_triton, monkeypatch)
            assert out.dtype == expected.dtype == dtype
            rounding = torch.finfo(dtype).eps
            assert_close(out.float(), expected.float(), rtol=1e-5 + rounding, atol=1e-5)


@pytest.mark.parametrize("sizes", [(64, 256), (38, 64), (24, 128), (20, 112), (1, 8)], ids=str)
def test_the_kernel_takes_all_heads_of_a_token_at_once(sizes, by_triton, monkeypatch):
    attended = Attended(3, sizes=[(size, size) for size in sizes], length=1)
    out, expected = both(attended.arguments(), by_triton, monkeypatch)
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out, fused.steer(*attended.arguments()))  # the same twice


def test_the_kernel_reads_beyond_two_to_the_31(by_triton):
    """Two rows that lie 8.6 GB apart, in memory that nobody touches between them."""
    apart = 2**32 + 64
    try:
        memory = torch.empty(apart + 64, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("this machine does not promise 8.6 GB")
    z = memory.as_strided((2, 1, 1, 8), (apart, 8, 8, 1)).copy_(torch.randn(2, 1, 1, 8))
    assert torch.equal(by_triton(z, z, slice(0, 2), NAGSettings()), z)


@pytest.mark.parametrize("cfg", [None, "before"])
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_gives_what_two_passes_give(name, cfg, as_on_a_gpu):
    """Its three calls, or one call for both texts, and one kernel; the processor plays the GPU."""
    with nag.guide(bare(name), NEGATIVE, **STRONG, exact=True):
        expected = bare(name)(PROMPT, cfg)
    with nag.guide(bare(name), NEGATIVE, **STRONG):
        close(bare(name)(PROMPT, cfg), expected)


class Launches(TorchDispatchMode):
    """Counts operations that a GPU would have to launch: all but views and bare memory."""

    BARE = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function._schema.name
        if name not in self.BARE and not function.is_view:
            self.names.append(name.removeprefix("aten::"))
        return out


def guided_layer(kind: str, plus: int, minus: int, image: int, rows=slice(0, 1), total=1):
    """One layer whose texts stand first, and its inputs."""
    from test_rivals import layer

    guided = layer(kind, "nag", 5.0, rows, total)
    guided.family.pieces = lambda kind, texts, count: ([(0, plus)], [(plus, minus)])
    guided.call.layout.texts = ((plus, minus),)
    keys = plus + minus + image * (kind == "joint")
    queries = keys if kind == "joint" else image
    return guided, [torch.randn(total, 4, n, 8) for n in (queries, keys, keys)]


def one_kernel(positive, negative, rows, settings, image=None, at=None, labels=None):
    """In the place of the kernel's twin: one launch."""
    z = positive if image is None else image[0]
    return torch.zeros_like(z)


@pytest.mark.parametrize(
    ("kind", "texts", "rows", "total", "calls"),
    [
        ("joint", (5, 3), slice(0, 1), 1, 3),
        ("joint", (5, 3), slice(1, 2), 2, 3),  # with CFG's unconditional row
        ("cross", (5, 3), slice(0, 1), 1, 2),
        ("cross", (4, 4), slice(0, 1), 1, 1),  # two texts of a length are two rows of one call
        ("cross", (4, 4), slice(1, 2), 2, 2),
    ],
)
def test_a_guided_layer_launches_its_attention_and_one_kernel(
    kind, texts, rows, total, calls, monkeypatch
):
    """On a GPU: what was about forty launches in joint attention, and ten in cross-attention."""
    from test_rivals import op

    monkeypatch.setitem(fused.launchers, "cpu", one_kernel)
    guided, inputs = guided_layer(kind, *texts, 12, rows, total)
    guided.attend(op, *inputs, None, 2, plain=True)  # labels are made once for a layout
    with Launches() as launched:
        guided.attend(op, *inputs, None, 2, plain=True)
    attention = [name for name in launched.names if "attention" in name]
    assert len(attention) == calls, launched.names
    assert len(launched.names) == calls + 1, launched.names


class Kernel:
    """In the place of Triton's: counts what is looked up, and what is launched by what it found."""

    function, packed_metadata = "code", "warps"

    def __init__(self, kernel, refuses: bool = False):
        self.names, self.refuses, self.found, self.launched = kernel.arg_names, refuses, 0, 0

    def __getitem__(self, grid):
        def look_up(*arguments, num_warps, **constants):
            assert len(arguments) + len(constants) == len(self.names) and len(grid) == 3
            self.found += 1
            return self

        return look_up

    def run(self, x, y, z, stream, *arguments):
        """As Triton's launcher is called: what it compiled, nobody's hooks, and the arguments."""
        if self.refuses:
            raise TypeError("function takes exactly 19 arguments (31 given)")
        assert arguments[:5] == ("code", "warps", None, None, None) and stream == "stream"
        assert len(arguments) == 5 + len(self.names) and (y, z) == (1, 1)
        self.launched += 1
        self.programs, self.given = x, dict(zip(self.names, arguments[5:], strict=True))


@pytest.fixture
def module(by_triton, monkeypatch):
    """The kernels' module, which has found nothing yet, with a driver's stream."""
    module = importlib.import_module("nag.triton_kernel")
    monkeypatch.setattr(module, "launches", {})
    active = SimpleNamespace(get_current_stream=lambda index: "stream")
    monkeypatch.setattr(module, "driver", SimpleNamespace(active=active))
    return module


def instead(module, monkeypatch, **options) -> list[Kernel]:
    """The kernels with and without a merge, replaced."""
    kernels = []
    for name in ("merge_kernel", "steer_kernel"):
        kernels.append(Kernel(getattr(module, name), **options))
        monkeypatch.setattr(module, name, kernels[-1])
    return kernels


def test_triton_looks_a_kernel_up_once(module, monkeypatch):
    """For tensors of the same sizes, strides, dtypes and alignment, of which it may be another."""
    merging, alone = instead(module, monkeypatch)
    z = torch.randn(2, 4, 6, 16)
    at = Segments([(0, 2, fused.POSITIVE), (2, 1, fused.NEGATIVE), (3, 3, fused.IMAGE)])
    answer, other = (z, torch.randn(2, 4, 6)), (z[:, :, 2:], torch.randn(2, 4, 4))
    labels, settings = fused.labels_of(at, z.device), NAGSettings()

    def cross(z, settings=settings, rows=slice(1, 2)):
        module.steer(z, z[1:], rows, settings)

    calls = [
        lambda: module.steer(answer, other, slice(0, 2), NAGSettings(), answer, at, labels),
        lambda: cross(z),
        lambda: cross(z.double()),
        lambda: cross(torch.randn(2, 4, 7, 16)),  # more tokens
        lambda: cross(torch.randn(2, 6, 4, 16).transpose(1, 2)),  # another stride
        lambda: cross(torch.randn(2 * 4 * 6 * 16 + 1)[1:].view(2, 4, 6, 16)),  # not aligned
        lambda: cross(torch.randn(3, 4, 6, 16)),
        lambda: cross(z, rows=slice(0, 1)),
    ]
    for call in calls:
        call()
    assert (merging.found, merging.launched, alone.found, alone.launched) == (1, 0, 7, 0)
    for call in calls:
        call()
    cross(torch.randn_like(z), NAGSettings(7.0, 3.0, 0.5))  # strengths are handed over
    assert (merging.found, merging.launched, alone.found, alone.launched) == (1, 1, 7, 8)
    monkeypatch.setattr(module, "MOST_LAUNCHES", len(module.launches))
    cross(torch.randn(2, 4, 8, 16))
    assert len(module.launches) == 1  # they do not grow without end


def test_a_kernel_that_was_found_is_launched_with_every_argument_in_its_place(module, monkeypatch):
    merging, alone = instead(module, monkeypatch)
    at = Segments([(0, 1, fused.NEGATIVE), (1, 2, fused.POSITIVE), (3, 3, fused.IMAGE)])
    image, negative = ((torch.randn(2, 4, 6, 16), torch.randn(2, 4, 6)) for _ in range(2))
    negative = tuple(part[1:] for part in negative)
    positive = torch.randn(2, 5, 4, 16).transpose(1, 2), torch.randn(2, 4, 5)
    labels, settings = fused.labels_of(at, image[0].device), NAGSettings(5, 2.0, 0.5)
    for _ in range(2):
        out = module.steer(positive, negative, slice(1, 2), settings, image, at, labels)
    given, parts = merging.given, {"image": image, "positive": positive, "negative": negative}
    for name, (z, lse) in parts.items():
        assert given[name] == z.data_ptr() and given[f"{name}_lse"] == lse.data_ptr()
        for tensor, of in ((z, ""), (lse, "lse_")):
            for place, stride in zip(("row", "head", "token"), tensor.stride(), strict=False):
                assert given[f"{name}_{of}{place}_stride"] == stride
    assert given["labels"] == labels.data_ptr() and given["out"] == out.data_ptr()
    assert [given[n] for n in ("tokens", "heads", "features")] == [6, 4, 16]
    assert [given[n] for n in ("positive_from", "negative_from")] == [1, 0]
    assert [given[n] for n in ("first_row", "last_row")] == [1, 2]
    assert [given[n] for n in ("scale", "tau", "alpha")] == [5.0, 2.0, 0.5]
    assert isinstance(given["scale"], float) and merging.programs == 12
    assert out.shape == image[0].shape and out.transpose(1, 2).is_contiguous()
    z_positive, z_negative = image[0], positive[0].narrow(2, 0, 3).repeat(1, 1, 2, 1)
    for _ in range(2):
        out = module.steer(z_positive, z_negative, slice(0, 2), settings)
    given = alone.given
    assert [given[name] for name in ("positive", "negative", "out")] == [
        x.data_ptr() for x in (z_positive, z_negative, out)
    ]
    for place, (stride, other) in enumerate(
        zip(z_positive.stride(), z_negative.stride(), strict=True)
    ):
        name = ("row", "head", "token", "feature")[place]
        assert given.get(f"{name}_stride", 1) == stride
        assert given.get(f"negative_{name}_stride", 1) == other


@pytest.mark.parametrize("other", ["its arguments", "its names"])
def test_a_triton_whose_kernels_are_called_otherwise_looks_up_every_time(
    other, module, monkeypatch
):
    _, kernel = instead(module, monkeypatch, refuses=True)
    if other == "its names":
        monkeypatch.delattr(Kernel, "packed_metadata")
    z = torch.randn(1, 4, 6, 16)
    for _ in range(3):
        module.steer(z, z, slice(0, 1), NAGSettings())
    assert (kernel.found, kernel.launched) == (3, 0) and module.launches is None


def test_without_triton_or_with_a_wrong_kernel_there_is_one_line_and_the_way_without(
    monkeypatch, caplog
):
    def broken(*_):
        raise TypeError("unexpected keyword argument 'num_warps'")

    def wrong(*arguments):
        return 1.1 * fused.in_torch(*arguments)

    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    for module, said in (
        (None, "ModuleNotFoundError|ImportError"),
        (SimpleNamespace(steer=broken), "TypeError: unexpected keyword argument"),
        (SimpleNamespace(steer=wrong), "it is off by"),
        (SimpleNamespace(steer=fused.in_torch), ""),
    ):
        monkeypatch.setattr(fused, "launchers", {})
        monkeypatch.setitem(sys.modules, "nag.triton_kernel", module)
        monkeypatch.delattr(nag, "triton_kernel", raising=False)
        caplog.clear()
        for _ in range(2):
            fused.prepare("cpu")
        assert fused.able(torch.ones(1)) == (not said)
        assert len(caplog.records) == bool(said)
        assert not said or any(part in caplog.text for part in said.split("|")), caplog.text


def by_hand(kind, texts, q, k, v):
    """Guided attention whose texts stand first, by functions that autograd knows."""
    from test_rivals import attention

    plus, minus = texts
    text, other, image = slice(plus), slice(plus, plus + minus), slice(plus + minus, None)

    def of(queries, *keys):
        some = [torch.cat([x[:, :, part] for part in keys], 2) for x in (k, v)]
        return attention(q[:, :, queries], *some)

    if kind == "cross":
        z = of(slice(None), text), of(slice(None), other)
        return nag.normalized_attention_guidance(*z, 5.0, 2.5, 0.25, dim=(1, 3))
    z = of(image, text, image), of(image, other, image)
    guided = nag.normalized_attention_guidance(*z, 5.0, 2.5, 0.25, dim=(1, 3))
    return torch.cat([of(text, text, image), of(other, other, image), guided], 2)


@pytest.mark.parametrize("exact", [False, True], ids=["as it is", "exact"])
@pytest.mark.parametrize("kind", ["joint", "cross"])
@pytest.mark.parametrize("wanted", [(0, 1, 2), (1, 2), (2,)], ids=["all", "of keys", "of values"])
def test_gradients_through_a_guided_call_are_right(kind, exact, wanted, as_on_a_gpu):
    """Log-sum-exps and the fused kernel have none: who wants gradients gets two passes. Whoever
    trains what makes of a text its keys and values wants none of the queries."""
    from test_rivals import op

    guided, inputs = guided_layer(kind, 4, 4, 12)
    guided.call.exact = exact
    assert kernels.able(Inputs(*inputs)) and fused.able(inputs[0])

    def gradients(attend):
        some = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        attend(*some).square().sum().backward()
        return [some[i].grad for i in wanted]

    expected = gradients(functools.partial(by_hand, kind, (4, 4)))
    found = gradients(lambda *some: guided.attend(op, *some, None, 2, plain=True))
    assert all(x.abs().max() > 0 for x in expected)
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("FluxTransformer2DModel", ["before"]),
        ("SD3Transformer2DModel", []),
        ("PixArtTransformer2DModel", ["before", "behind"]),
    ],
)
def test_it_compiles_as_one_graph_for_batches_of_any_size(name, orders, as_on_a_gpu):
    """With CFG and without: lengths and rows become symbols."""
    from test_coexistence import counting, fresh, guided

    pipe = fresh(name)
    calls = {cfg: functools.partial(pipe, cfg=cfg) for cfg in (None, *orders)}
    expected = {cfg: guided(pipe, call, exact=True) for cfg, call in calls.items()}
    with counting() as (backend, graphs):
        pipe.transformer = torch.compile(pipe.transformer, backend=backend, fullgraph=True)
        for cfg in (None, *orders, None):
            close(guided(pipe, calls[cfg]), expected[cfg], 1e-4)
        count = len(graphs)
        for cfg in calls:
            guided(pipe, calls[cfg])
        assert len(graphs) == count


TRACED = """
import torch
import torch.utils._triton

torch.utils._triton.has_triton = lambda: True  # torch.compile asks for a GPU before it looks

from torch._subclasses.fake_tensor import FakeTensorMode
from test_fused import guided_layer
from test_rivals import op
from nag import fused, triton_kernel

fused.launchers["cpu"] = triton_kernel.steer
graphs = []


def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward


with FakeTensorMode(), torch.no_grad():
    cases = ("joint", (16, 24), 3), ("cross", (16, 16), 1), ("cross", (16, 24), 2)
    for kind, texts, calls in cases:
        guided, inputs = guided_layer(kind, *texts, 64)
        attend = torch.compile(
            lambda *x: guided.attend(op, *x, None, 2, True), backend=backend, fullgraph=True
        )
        out = attend(*inputs)
        assert out.shape == inputs[0].shape and out.transpose(1, 2).is_contiguous()
        names = [str(node.target) for node in graphs[-1].graph.nodes]
        assert sum("attention" in name for name in names) == calls, names
        assert sum("triton_kernel" in name for name in names) == 1, names
"""


IN_FLOAT32 = """
import sys

try:
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    target, context = GPUTarget("cuda", 90, 32), ir.context()
    backend = make_backend(target)
    options = backend.parse_options({"num_warps": 8})
    ir.load_dialects(context)
    backend.load_dialects(context)
    made_by = backend.get_codegen_implementation(options), backend.get_module_map(), context
except (ImportError, AttributeError, TypeError) as error:
    print(f"this Triton compiles otherwise: {error}")
    sys.exit(3)

from nag.triton_kernel import KERNEL as kernel

kinds = {"image": "*bf16", "positive": "*bf16", "negative": "*bf16", "out": "*bf16"}
kinds |= {"image_lse": "*fp32", "positive_lse": "*fp32", "negative_lse": "*fp32", "labels": "*i8"}
kinds |= dict.fromkeys(("scale", "tau", "alpha"), "fp64")
constants = {"EPS": 1e-6, "HEADS": 32, "FEATURES": 128}
kinds |= dict.fromkeys(constants, "constexpr")
kinds = {name: kinds.get(name, "i32") for name in kernel.arg_names}
module = str(ASTSource(kernel, kinds, constants).make_ir(target, options, *made_by))
assert "xf32" in module and module.count(": f64 to f32") == 3, module
assert "xf64" not in module, module
"""
MERGED, ALONE = (IN_FLOAT32.replace("KERNEL", f"{x}_kernel") for x in ("merge", "steer"))


@pytest.mark.parametrize("program", [TRACED, MERGED, ALONE], ids=["traced", "merged", "alone"])
def test_torch_compile_takes_the_kernel_into_its_graph(program):
    """On tensors without numbers; and whole tensors stay in float32 though the strengths come in
    float64, as torch.compile hands numbers over. In a process of its own: here kernels are
    interpreted."""
    pytest.importorskip("triton", reason="Triton is not installed, so its kernel is not tried")
    path = os.pathsep.join([str(Path(nag.__file__).parents[1]), str(Path(__file__).parent)])
    path = os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])
    surroundings = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program], env=surroundings, capture_output=True, text=True
    )
    if done.returncode == 3:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
