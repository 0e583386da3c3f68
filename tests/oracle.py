"""NAG the way the authors run it: the batch doubled, positive rows first, negative rows behind. Slow, obvious, and nobody's code but this."""

import contextlib
import inspect

import torch
import torch.nn.functional as F

from nag import families


def naive(Z_plus, Z_minus, s, tau, alpha):
    """Section 3.2 in the paper's letters, float64; heads apart, (B, H, N, D)."""
    Z_plus, Z_minus = Z_plus.double(), Z_minus.double()
    phi = s - 1
    Z_tilde = Z_plus + phi * (Z_plus - Z_minus)
    R = Z_tilde.abs().sum((1, 3), keepdim=True) / Z_plus.abs().sum((1, 3), keepdim=True)
    Z_hat = torch.minimum(R, torch.tensor(tau, dtype=R.dtype)) / R * Z_tilde
    return alpha * Z_hat + (1 - alpha) * Z_plus


def arguments_of(denoiser, args, kwargs) -> dict:
    return dict(zip(list(inspect.signature(type(denoiser).forward).parameters)[1:], args, strict=False)) | kwargs


@contextlib.contextmanager
def text_seen(pipe, into: list):
    """Collects the text inputs of every denoiser call, by argument."""
    family = families.find(pipe)

    def note(module, args, kwargs):
        given = arguments_of(module, args, kwargs)
        into.append({p.argument: given.get(p.argument) for p in family.inputs})
    handle = families.denoiser_of(pipe).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def doubled(pipe, positive: dict, negative: dict, monkeypatch, s, tau, alpha):
    """`pipe` guided by doubling the batch. `positive` and `negative`: text inputs of the denoiser by argument, n rows of equal shape."""
    family, denoiser = families.find(pipe), families.denoiser_of(pipe)
    state, handles, sdpa = {"guided": []}, [], F.scaled_dot_product_attention
    first = family.inputs[0].argument

    def twice(value):
        if isinstance(value, dict):
            return {k: list(map(twice, v)) if isinstance(v, list) else twice(v) for k, v in value.items()}  # one tensor per IP-Adapter
        if isinstance(value, list) and len(value) == state["rows"]:
            return value * 2
        batched = isinstance(value, torch.Tensor) and value.ndim and len(value) == state["rows"]
        return torch.cat([value, value]) if batched else value

    def again(p, value, minus):
        """A text input with the negative's rows behind."""
        times = state["rows"] // len(positive[first])
        if value is None or (p.kind == "ids" and value.ndim == 2):
            return value
        if isinstance(value, list):
            return value + minus * times
        rows = 1 if value.ndim == 4 else 0  # (layers, rows, T, D)
        return torch.cat([value, torch.cat([minus] * times, rows)], rows)

    def same(a, b):
        if isinstance(a, list):
            return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))
        return a.shape == b.shape and torch.equal(a, b)

    def before(module, args, kwargs):
        given = arguments_of(module, args, kwargs)
        text, n = given[first], len(positive[first])
        state["rows"] = len(text)
        state["guided"] = [i for i in range(0, len(text), n) if same(text[i:i + n], positive[first])]
        if not state["guided"]:
            return None
        texts = {p.argument: again(p, given[p.argument], negative[p.argument]) for p in family.inputs if p.argument in given}
        fixed = {k: v for k, v in given.items() if k in ("img_ids", "image_rotary_emb", "num_frames", "height", "width")}
        return (), {k: twice(v) for k, v in given.items()} | fixed | texts

    def halved(output):
        if isinstance(output, tuple):
            return tuple(map(halved, output))
        return output[:state["rows"]] if isinstance(output, (torch.Tensor, list)) else output

    def after(module, args, output):
        if not state["guided"]:
            return None
        state["guided"] = []
        return halved(output)

    def attention(query, key, value, *args, **options):
        out = sdpa(query, key, value, *args, **options)
        kind = state.get("kind")
        if not state["guided"] or kind not in ("cross", "joint"):
            return out
        lengths = [(length(positive[p.argument], p), 0) for p in family.texts]
        pieces, _ = family.pieces(kind, lengths, key.shape[2])
        texts = sum(n for _, n in pieces)
        if (kind == "cross" and key.shape[2] != texts) or (kind == "joint" and key.shape[2] != query.shape[2]):
            return out
        image = torch.ones(out.shape[2], dtype=torch.bool)
        for start, count in pieces if kind == "joint" else ():
            image[start:start + count] = False
        out, times = out.clone(), len(query) // (2 * state["rows"])
        n = len(positive[first]) * times
        for begin in range(0, state["rows"] * times, n):
            plus, minus = out[begin:begin + n], out[begin + state["rows"] * times:][:n]
            z = plus[:, :, image]
            if begin // times in state["guided"]:
                z = naive(z, minus[:, :, image], s, tau, alpha).to(out.dtype)
            plus[:, :, image] = z
            minus[:, :, image] = z
        return out

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        for kind, module in family.layers(denoiser).values():
            handles.append(module.register_forward_pre_hook(lambda *_, kind=kind: state.update(kind=kind)))
            handles.append(module.register_forward_hook(lambda *_: state.update(kind=None)))
        handles.append(denoiser.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(denoiser.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def length(value, packed) -> int:
    return value[0].shape[packed.dim] if isinstance(value, list) else value.shape[packed.dim]
