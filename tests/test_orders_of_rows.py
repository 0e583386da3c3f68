"""What the recognition of rows takes for granted of diffusers' pipelines, read from their source: a
pipeline of a new release that does otherwise is named by the failing test."""

import re
from pathlib import Path

import diffusers

SOURCES = Path(diffusers.__file__).parent / "pipelines"
CLASS = re.compile(r"^class (\w+Pipeline\w*)\(.*?(?=^class |\Z)", re.S | re.M)
JOINED = re.compile(r"(?:cat|concat)\(\s*\[([^\]]*)\]")
CALL = re.compile(
    r"(?:self\.(?:transformer(?:_2)?|unet|prior)|current_model|transformer)\((.*?)\n\s*\)", re.S
)
NOT_TEXTS = re.compile(r"pool|image|clip_prompt|prompt_2")
TEXT = re.compile(r"(?:encoder_hidden_states(?:_t5)?|cap_feats|clip_text|text_bth)=\s*([^,\n]+)")


def pipelines():
    """(name, source) of every pipeline class."""
    for path in sorted(SOURCES.rglob("pipeline_*.py")):
        for found in CLASS.finditer(path.read_text(encoding="utf-8")):
            yield found[1], found[0]


def is_cfgs(name: str) -> bool:
    return "neg" in name or "uncond" in name


def orders(source: str) -> set:
    """How a pipeline puts texts behind one another: for each whether it is CFG's."""
    found = set()
    for names in JOINED.findall(source):
        names = [name.strip() for name in names.split(",") if name.strip()]
        texts = any("prompt_embeds" in n or "text_embed" in n for n in names)
        if len(names) > 1 and texts and not NOT_TEXTS.search(" ".join(names)):
            found.add(tuple(map(is_cfgs, names)))
    return {order for order in found if any(order)}


# (CFG's first) is diffusers' order. `Family.cfg_order` says so of Lumina-Next and Stable Cascade;
# Wuerstchen has no row; the others are three, and are asked of `encode_prompt` or refused.
OTHERS = {
    "LuminaPipeline": {(False, True)},
    "StableCascadePriorPipeline": {(False, True)},
    "WuerstchenDecoderPipeline": {(False, True)},
    "WuerstchenPriorPipeline": {(False, True)},
    "StableDiffusionInstructPix2PixPipeline": {(False, True, True)},
    "StableDiffusionXLInstructPix2PixPipeline": {(False, True, True)},
    "StableDiffusionPipelineSafe": {(True, False, False), (True, False)},
    "SemanticStableDiffusionPipeline": {(True, False, False), (True, False)},
}


def test_cfgs_rows_stand_before_the_prompts():
    found = {name: orders(source) for name, source in pipelines()}
    assert sum(bool(order) for order in found.values()) > 100
    odd = {name: order for name, order in found.items() if order and order != {(True, False)}}
    odd.pop("JoyImageEditPlusPipeline", None)  # joins the tokens of one text
    assert odd == OTHERS


def test_of_two_calls_the_prompts_is_the_first():
    seen = 0
    for name, source in pipelines():
        texts = [match[1] for call in CALL.findall(source) if (match := TEXT.search(call))]
        if any(map(is_cfgs, texts)) and not all(map(is_cfgs, texts)):
            seen += 1
            assert not is_cfgs(texts[0]), f"{name} runs CFG's text first: {texts}"
    assert seen > 40
