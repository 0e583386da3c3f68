"""NAG the way the authors run it: the batch doubled, positive rows first, negative rows behind.
Slow, obvious, and nobody's code but this."""

import contextlib
import functools
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
    return (
        dict(
            zip(list(inspect.signature(type(denoiser).forward).parameters)[1:], args, strict=False)
        )
        | kwargs
    )


@contextlib.contextmanager
def text_seen(pipe, into: list):
    """Collects the text inputs of every denoiser call, by argument."""
    family = families.find(pipe)

    def note(module, args, kwargs):
        given = arguments_of(module, args, kwargs)
        into.append({p.argument: given.get(p.argument) for p in family.inputs})

    handles = [
        denoiser.register_forward_pre_hook(note, with_kwargs=True)
        for denoiser in families.denoisers_of(pipe)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def doubled(pipe, positive: dict, negative: dict, monkeypatch, s, tau, alpha):
    """`pipe` guided by doubling the batch. `positive` and `negative`: text inputs of the denoiser
    by argument, n rows of equal shape."""
    family, denoisers = families.find(pipe), families.denoisers_of(pipe)
    state, handles, sdpa = {"guided": []}, [], F.scaled_dot_product_attention
    first, case = family.inputs[0].argument, getattr(pipe, "case", None)
    ids = [p.argument for p in family.inputs if p.kind == "ids"]
    batch = {p.argument: p.batch for p in family.inputs}

    def twice(value):
        if isinstance(value, dict):
            return {
                k: list(map(twice, v)) if isinstance(v, list) else twice(v)
                for k, v in value.items()
            }  # one tensor per IP-Adapter
        if isinstance(value, list) and len(value) == state["rows"]:
            return value * 2
        if isinstance(value, list):
            return [twice(v) for v in value]
        batched = (
            isinstance(value, torch.Tensor)
            and value.ndim
            and len(value) in (state["rows"], state["each"])
        )
        return torch.cat([value, value]) if batched else value

    def again(name, value, minus):
        """A text input with the negative's rows behind."""
        times = state["rows"] // len(positive[first])
        if value is None or (name in ids and value.ndim == 2):
            return value
        if isinstance(value, dict):
            return {key: again(key, value[key], minus[key]) for key in value}
        if isinstance(value, list) and name == "text_encoder_layers":
            return [again(None, *layers) for layers in zip(value, minus, strict=True)]
        if isinstance(value, tuple):  # (text, picture)
            return again(name, value[0], minus[0] if isinstance(minus, tuple) else minus), *map(
                twice, value[1:]
            )
        if isinstance(value, list):
            return value + minus * times
        rows = batch.get(name, 0)
        return torch.cat([value, torch.cat([minus] * times, rows)], rows)

    def same(a, b):
        if isinstance(a, list):
            return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))
        return a.shape == b.shape and torch.equal(a, b)

    def before(module, args, kwargs):
        given = arguments_of(module, args, kwargs)
        text, n = given[first], len(positive[first])
        text = text[0] if isinstance(text, tuple) else text
        state["rows"] = len(text)
        state["each"] = len(given[family.each]) if family.each else state["rows"]
        state["guided"] = [
            i for i in range(0, len(text), n) if same(text[i : i + n], positive[first])
        ]
        if not state["guided"]:
            return None
        state["kept"] = given.get("num_ref_tokens", 0)
        minus = (
            case.deliver(negative, given["hidden_states"][:n])
            if case and "hidden_states" in given
            else negative
        )
        texts = {
            name: again(name, given[name], minus[name])
            for name in minus
            if name in given and name != "hidden_states"
        }
        listed = {
            name[:-2]: [twice(v) for v in given[name[:-2]]]
            for name in family.rows
            if name.endswith("[]")
        }
        if case and case.moved:
            state["starts"] = texts[family.companion("mask").argument].sum(1).tolist()
        fixed = {
            k: v
            for k, v in given.items()
            if (k.startswith("indices") and v.ndim == 1)
            or k
            in ("img_ids", "image_rotary_emb", "num_frames", "height", "width", "text_rope_pos")
        }
        return (), {k: twice(v) for k, v in given.items()} | fixed | listed | texts

    def halved(output):
        if isinstance(output, tuple):
            return tuple(map(halved, output))
        return output[: state["each"]] if isinstance(output, (torch.Tensor, list)) else output

    def after(module, args, output):
        if not state["guided"]:
            return None
        state["guided"] = []
        return halved(output)

    def attention(query, key, value, *args, **options):
        out = sdpa(query, key, value, *args, **options)
        kind = state.get("kind")
        if not state["guided"] or not kind or kind == "text":
            return out
        lengths = (
            case.lengths(positive)
            if case and case.lengths
            else [length(positive[p.argument], p) for p in family.texts]
        )
        pieces, _ = ((case and case.spans) or family.pieces)(
            kind, [(n, 0) for n in lengths], key.shape[2]
        )
        texts = sum(n for _, n in pieces)
        kept = key.shape[2] - query.shape[2]
        alone = kind == "joint" and kept == texts != state["kept"]  # queries of the image alone
        if kind == "injected":
            kind, (pieces, _) = (
                "joint",
                family.pieces("joint", [(n, 0) for n in lengths], query.shape[2]),
            )
        elif (kind.startswith("cross") and key.shape[2] != texts) or (
            kind == "joint" and kept != state["kept"] and not alone
        ):
            return out
        image = torch.ones(len(out), out.shape[2], dtype=torch.bool)
        if kind == "joint" and "starts" in state:
            count = out.shape[2] - max(state["starts"])
            image = torch.stack(
                [
                    torch.arange(out.shape[2]).sub(start).div(count, rounding_mode="floor") == 0
                    for start in state["starts"]
                ]
            )
        elif kind == "joint" and not alone:
            for start, count in pieces:
                image[:, start : start + count] = False
        return blend(out, image)

    def blend(out, image):
        """out: (B, H, N, D). image: (B, N), which of the tokens are guided."""
        out, times = out.clone(), len(out) // (2 * state["rows"])
        n = len(positive[first])
        for row in range(state["rows"] * times):
            other = row + state["rows"] * times
            z = out[row, :, image[row]]
            if row // times // n * n in state["guided"]:
                z = naive(z[None], out[other, :, image[other]][None], s, tau, alpha)[0].to(
                    out.dtype
                )
            out[row, :, image[row]] = z
            out[other, :, image[other]] = z
        return out

    def shared(module, args, output, tokens):
        if state["guided"]:
            output[state["rows"] :, tokens] = output[: state["rows"], tokens]

    def rows_alone(module, args):
        """The formula before the output projection: attention ran row by row, and this sees the
        rows together again."""
        if not state["guided"]:
            return None
        return blend(args[0][:, None], torch.ones(args[0].shape[:2], dtype=torch.bool))[
            :, 0
        ], *args[1:]

    def pooled(module, args, output):
        """What is pooled from the text is the positive's for both."""
        if not state["guided"]:
            return None
        first = output[0] if isinstance(output, tuple) else output
        first = torch.cat([first[: len(first) // 2]] * 2)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    with monkeypatch.context() as patch:
        for path in case.pooled if case else ():
            handles.append(denoisers[0].get_submodule(path).register_forward_hook(pooled))
        for path, tokens in case.shared.items() if case else ():
            handles.append(
                denoisers[0]
                .get_submodule(path)
                .register_forward_hook(functools.partial(shared, tokens=tokens))
            )
        if case and case.alone:
            handles += [
                module.to_out[0].register_forward_pre_hook(rows_alone)
                for _, module in family.layers(denoisers[0]).values()
            ]
        else:
            patch.setattr(F, "scaled_dot_product_attention", attention)
        for one in denoisers:
            for kind, module in family.layers(one).values():
                handles.append(
                    module.register_forward_pre_hook(lambda *_, kind=kind: state.update(kind=kind))
                )
                handles.append(module.register_forward_hook(lambda *_: state.update(kind=None)))
            handles.append(one.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(one.register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def length(value, packed) -> int:
    if value is None:
        return 0
    return value[0].shape[packed.dim] if isinstance(value, list) else value.shape[packed.dim]
