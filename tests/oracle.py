"""NAG the way the authors run it: the batch doubled, positive rows first, negative rows behind. Slow, obvious, and nobody's code but this."""

import contextlib

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


@contextlib.contextmanager
def text_seen(pipe, into: list):
    """Collects the text input of every denoiser call."""
    def note(module, args, kwargs):
        into.append((kwargs["encoder_hidden_states"].clone(), kwargs.get("encoder_attention_mask")))
    handle = families.denoiser_of(pipe).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def doubled(pipe, positive, negative, negative_mask, monkeypatch, s, tau, alpha):
    """`pipe` guided by doubling the batch. `positive` and `negative`: text inputs of the denoiser, (n, T, D), of equal shape."""
    family, denoiser = families.find(pipe), families.denoiser_of(pipe)
    state, handles, sdpa = {}, [], F.scaled_dot_product_attention

    def double(value):
        if isinstance(value, dict):
            return {k: double(v) for k, v in value.items()}
        batched = isinstance(value, torch.Tensor) and value.ndim and len(value) == state["rows"]
        return torch.cat([value, value]) if batched else value

    def before(module, args, kwargs):
        text = kwargs["encoder_hidden_states"]
        n, state["rows"] = len(positive), len(text)
        state["guided"] = [i for i in range(0, len(text), n) if torch.equal(text[i:i + n], positive)]
        if not state["guided"]:
            return None
        args, kwargs = tuple(double(a) for a in args), {
            k: v if k in ("img_ids", "txt_ids") else double(v) for k, v in kwargs.items()}
        kwargs["encoder_hidden_states"] = torch.cat([text, negative.repeat(len(text) // n, 1, 1)])
        if negative_mask is not None:
            mask = kwargs["encoder_attention_mask"][:state["rows"]]
            kwargs["encoder_attention_mask"] = torch.cat([mask, negative_mask.repeat(len(text) // n, 1)])
        return args, kwargs

    def after(module, args, output):
        if not state["guided"]:
            return None
        state["guided"] = []
        return (output[0][:state["rows"]],)

    def attention(query, key, value, *args, **options):
        out = sdpa(query, key, value, *args, **options)
        if not state.get("guided") or not state.get("inside"):
            return out
        out, n, text = out.clone(), len(positive), positive.shape[1]
        image = slice(None)
        if family.attention == "joint":
            image = slice(text, None) if family.order == "text, image" else slice(0, out.shape[2] - text)
        for first in range(0, state["rows"], n):
            plus = slice(first, first + n)
            minus = slice(first + state["rows"], first + state["rows"] + n)
            if first in state["guided"]:
                guided = naive(out[plus, :, image], out[minus, :, image], s, tau, alpha).to(out.dtype)
                out[plus, :, image] = guided
                out[minus, :, image] = guided
            else:
                out[minus, :, image] = out[plus, :, image]
        return out

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        for module in family.modules(denoiser).values():
            handles.append(module.register_forward_pre_hook(lambda *_: state.update(inside=True)))
            handles.append(module.register_forward_hook(lambda *_: state.update(inside=False)))
        handles.append(denoiser.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(denoiser.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
