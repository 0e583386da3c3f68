"""`--model FILE`: one file of weights, the preset's own model for all else."""

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from nag import presets
from nag.engine import loading
from nag.engine.engine import Engine
from nag.errors import Refused
from nag.evaluate import draw

PORTRAIT = presets.load_all()["pocket-portrait"]


def preset(model, pipeline: str, file) -> presets.Preset:
    """A preset of a folder, with one file in place of its weights."""
    own = PORTRAIT.model_copy(
        update={
            "model": str(model),
            "pipeline": pipeline,
            "arguments": {},
            "ranges": {},
            "multiple": 8,
        }
    )
    return own.with_model(str(file))


@pytest.fixture
def folder(tmp_path):
    def save(name: str):
        tiny.pipeline(name).save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def weights_of(module) -> dict:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def test_a_denoiser_in_one_file_takes_the_place_of_the_models_own(folder, tmp_path):
    other = {
        name: tensor * 0.5 for name, tensor in weights_of(tiny.pipeline("flux").transformer).items()
    }
    save_file(other, tmp_path / "mine.safetensors")
    mine = preset(folder("flux"), "DiffusionPipeline", tmp_path / "mine.safetensors")
    assert mine.title.startswith("mine.safetensors (settings of ")
    loaded = loading.load(mine)
    torch.testing.assert_close(weights_of(loaded.pipe.transformer), other)
    torch.testing.assert_close(weights_of(loaded.pipe.vae), weights_of(tiny.pipeline("flux").vae))


# a tiny Stable Diffusion's parts as its first checkpoints named them; in order, each to all names
RESNET = {
    ".norm1": ".in_layers.0",
    ".conv1": ".in_layers.2",
    ".time_emb_proj": ".emb_layers.1",
    ".norm2": ".out_layers.0",
    ".conv2": ".out_layers.3",
    ".conv_shortcut": ".skip_connection",
}
UNET = {
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0": "output_blocks.1.2",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE = {
    "encoder.down_blocks.": "encoder.down.",
    "decoder.up_blocks.0.": "decoder.up.1.",
    "decoder.up_blocks.1.": "decoder.up.0.",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    ".group_norm": ".norm",
    ".to_q": ".q",
    ".to_k": ".k",
    ".to_v": ".v",
    ".to_out.0": ".proj_out",
    ".resnets.": ".block.",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}


def renamed(weights: dict, names: dict, prefix: str) -> dict:
    """Weights under other names; attention of the VAE was a convolution of one pixel."""
    found = {}
    for name, tensor in weights.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        square = "attn_1" in name and tensor.ndim == 2
        found[prefix + name] = tensor[..., None, None] if square else tensor
    return found


def first_names(pipe) -> dict:
    """A tiny Stable Diffusion as one checkpoint of all parts."""
    unet = {}
    for name, tensor in renamed(weights_of(pipe.unet), UNET, "model.diffusion_model.").items():
        of_resnet = "block" in name and "transformer_blocks" not in name
        unet |= renamed({name: tensor}, RESNET if of_resnet else {}, "")
    text = renamed(weights_of(pipe.text_encoder), {}, "cond_stage_model.transformer.text_model.")
    return unet | text | renamed(weights_of(pipe.vae), VAE, "first_stage_model.")


def test_a_whole_checkpoint_in_one_file(folder, tmp_path):
    pipe = tiny.pipeline("sd")
    whole = {name: tensor * 0.5 for name, tensor in first_names(pipe).items()}
    save_file(whole, tmp_path / "whole.safetensors")
    file = tmp_path / "whole.safetensors"
    loaded = loading.load(preset(folder("sd"), "StableDiffusionPipeline", file))
    for part in ("unet", "vae", "text_encoder"):
        ours = weights_of(getattr(pipe, part))
        halves = {name: tensor * 0.5 for name, tensor in ours.items()}
        torch.testing.assert_close(weights_of(getattr(loaded.pipe, part)), halves)


def test_a_gguf_denoiser_is_guided_like_any_other(folder, tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "mine.gguf", "flux")
    for name, tensor in weights_of(tiny.pipeline("flux").transformer).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    mine = preset(folder("flux"), "FluxPipeline", tmp_path / "mine.gguf")
    _, request = presets.resolve(
        {
            "preset": mine.name,
            "num_inference_steps": 1,
            "width": 32,
            "height": 32,
            "guidance": ["none", "nag"],
        },
        {mine.name: mine},
    )
    for run, _, _ in Engine(previews=False).run(mine, request):  # noqa: B007
        pass
    assert [column.state for column in run.columns] == ["done", "done"], run.columns
    assert run.columns[1].guided_steps == 1
    assert run.columns[0].image.tobytes() != run.columns[1].image.tobytes()


def test_a_gguf_without_its_package_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.is_gguf_available", lambda: False)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    with pytest.raises(Refused, match=r"mine.gguf needs one more package .* pip install gguf"):
        loading.load(preset(folder("flux"), "FluxPipeline", tmp_path / "mine.gguf"))


def test_files_that_cannot_be_loaded_are_told_why(folder, tmp_path):
    for name, words in (("no.safetensors", "There is no file"), ("a.gguf", "There is no file")):
        with pytest.raises(Refused, match=words):
            PORTRAIT.with_model(str(tmp_path / name))
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    with pytest.raises(
        Refused, match=r"old.ckpt is none of .safetensors, .gguf: other files may hold code"
    ):
        PORTRAIT.with_model(str(tmp_path / "old.ckpt"))
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    with pytest.raises(Refused, match=r"broken.safetensors is not a safetensors file"):
        loading.load(
            preset(folder("sd"), "StableDiffusionPipeline", tmp_path / "broken.safetensors")
        )
    save_file({"proj.weight": torch.zeros(1)}, tmp_path / "one.safetensors")
    with pytest.raises(Refused, match=r"one.safetensors is one denoiser, and .* has 2"):
        loading.load(preset(folder("wan2.2"), "WanPipeline", tmp_path / "one.safetensors"))
    with pytest.raises(
        Refused, match=r"diffusers loads no single file of a LatteTransformer3DModel"
    ):
        loading.load(preset(folder("latte"), "LattePipeline", tmp_path / "one.safetensors"))
    pipe = tiny.pipeline("sd")
    save_file({"vae.x": torch.zeros(1)} | weights_of(pipe.unet), tmp_path / "most.safetensors")
    with pytest.raises(
        Refused, match=r"most.safetensors lacks a part: Failed to load CLIPTextModel"
    ):
        loading.load(preset(folder("sd"), "StableDiffusionPipeline", tmp_path / "most.safetensors"))
    save_file({"vae.weight": torch.zeros(1)}, tmp_path / "all.safetensors")
    with pytest.raises(Refused, match=r"all.safetensors has all parts of a pipeline in one file"):
        loading.load(preset(folder("latte"), "LattePipeline", tmp_path / "all.safetensors"))


def test_an_evaluation_of_another_file_uses_no_picture_of_the_first(tmp_path):
    found = []
    for number in range(2):
        save_file({"proj.weight": torch.full((1,), float(number))}, tmp_path / "a.safetensors")
        mine = PORTRAIT.with_model(str(tmp_path / "a.safetensors"))
        found.append(draw.Painter(mine, tmp_path / "out").identity)
    assert found[0] != found[1] != draw.Painter(PORTRAIT, tmp_path / "out").identity
    assert str(tmp_path) not in str(found)


def test_the_command_line_compares_with_a_file(tmp_path, capsys):
    """pocket-joint's own denoiser, saved as one file, draws pocket-joint's own pictures."""
    from PIL import Image

    from nag.__main__ import main

    denoiser = FluxTransformer2DModel.from_pretrained(
        presets.FOLDER.parent / "assets/pocket-joint/transformer"
    )
    save_file(weights_of(denoiser), tmp_path / "own.safetensors")
    command = ["compare", "--preset", "pocket-joint", "--set", 'guidance=["nag"]', "--out"]
    assert main([*command, str(tmp_path / "preset")]) == 0
    assert (
        main([*command, str(tmp_path / "file"), "--model", str(tmp_path / "own.safetensors")]) == 0
    )
    pictures = [Image.open(tmp_path / folder / "nag.png") for folder in ("preset", "file")]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert main([*command, str(tmp_path / "none"), "--model", str(tmp_path / "no.gguf")]) == 2
    assert "There is no file" in capsys.readouterr().err
