"""Settings out of text: ours, AUTOMATIC1111's line, ComfyUI's graphs, a link, a preset file.

What is read is only ever handed to the validator. Names that we have no setting for are left out.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import Refused
from ..presets import load_all
from ..request import Request

LONGEST = 100_000  # characters of one text that are looked at
NOTHING = (
    "This text carries no settings: paste a link to this page, the settings of a picture saved "
    "here, A1111's parameters, ComfyUI's graph (JSON), or a preset file."
)
A1111 = {  # their names of what we can take over
    "Steps": "num_inference_steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "NAG scale": "nag_scale",
    "NAG tau": "nag_tau",
    "NAG alpha": "nag_alpha",
    "NAG until": "nag_end",
}
COMFYUI = {  # inputs of nodes; the first name that some node has counts
    "seed": ("seed", "noise_seed"),
    "num_inference_steps": ("steps",),
    "guidance_scale": ("cfg",),
    "nag_scale": ("nag_scale",),
    "nag_tau": ("nag_tau",),
    "nag_alpha": ("nag_alpha",),
    "width": ("width",),
    "height": ("height",),
}
TEXTS = ("text", "t5xxl", "clip_l", "text_g", "prompt", "string", "value")
WIDGETS = {  # the order in which ComfyUI's editor writes a node's values; None: not of use here
    "KSampler": ("seed", None, "steps", "cfg"),
    "KSamplerAdvanced": (None, "noise_seed", None, "steps", "cfg"),
    "KSamplerWithNAG": ("seed", None, "steps", "cfg", "nag_scale", "nag_tau", "nag_alpha"),
    "RandomNoise": ("noise_seed",),
    "BasicScheduler": (None, "steps"),
    "CFGGuider": ("cfg",),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "CLIPTextEncode": ("text",),
}


def tried(reader: Callable[[str], dict], text: str) -> dict:
    """What a reader makes of a text, or {} where the text is not of its kind."""
    try:
        return reader(text)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return {}


def pasted(text: str) -> dict:
    """Text of whatever kind -> settings. Raises `Refused` where it has none."""
    text = text.strip()
    if len(text) > LONGEST:
        raise Refused(f"This text has {len(text):,} characters; settings have at most {LONGEST:,}.")
    if text.startswith(("{", "[")):
        found = tried(of_json, text)
    elif re.match(r"https?://\S+$|\?\S+$", text):
        found = tried(link, text)
    elif re.search(r"^Negative prompt:|^Steps: \d", text, re.MULTILINE):
        found = tried(a1111, text)
    else:
        found = {}
    if not found:
        raise Refused(NOTHING)
    return found


def ours(text: str) -> dict:
    """The record inside our pictures, or run.json."""
    return dict(json.loads(text)["settings"])


def of_json(text: str) -> dict:
    """Ours, a graph of ComfyUI, or settings that stand flat: a preset file, a call of the API."""
    content = json.loads(text)
    if isinstance(content.get("settings"), dict):
        return dict(content["settings"])
    graph = content.get("prompt") if isinstance(content.get("prompt"), dict) else content
    if "nodes" in graph or any("class_type" in n for n in graph.values() if isinstance(n, dict)):
        return comfyui(json.dumps(graph))
    theirs = {"steps": "num_inference_steps", "cfg_scale": "guidance_scale"}
    named = {theirs.get(name, name): value for name, value in content.items()}
    settings = {name: value for name, value in named.items() if name in Request.model_fields}
    return of_model(content.get("model")) | settings if settings else {}


def link(text: str) -> dict:
    """The part of an address behind the question mark."""
    words = ("preset", "prompt", "negative_prompt")
    return {
        name: value if name in words else json.loads(value)
        for name, value in parse_qsl(urlsplit(text).query)
        if name in Request.model_fields
    }


def a1111(text: str) -> dict:
    """Words, a line "Negative prompt: ...", then "Steps: 4, Seed: 1, ...": what can be read."""
    words, _, last = text.rpartition("\n")
    if not re.match(r"Steps: \d+", last):
        words, last = text, ""
    prompt, _, negative = f"\n{words}".partition("\nNegative prompt:")
    settings = {"prompt": prompt.strip(), "negative_prompt": negative.strip()}
    for part in last.split(","):
        name, _, value = part.strip().partition(": ")
        if name in A1111 and re.fullmatch(r"-?\d*\.?\d+", value):
            settings[A1111[name]] = float(value) if "." in value else int(value)
    if size := re.search(r"\bSize: (\d+)x(\d+)", last):
        settings |= {"width": int(size[1]), "height": int(size[2])}
    if model := re.search(r"\bModel: ([^,]+)", last):
        settings |= of_model(model[1])
    return settings


def of_model(name: object) -> dict:
    """{"preset": the first one with that model}, or {} where there is none."""
    known = (one.name for one in load_all().values() if one.model_name == name)
    first = next(known, None)
    return {"preset": first} if first else {}


def comfyui(text: str) -> dict:
    """A graph as it is run, or as the editor saves it: numbers, and the texts that lead to the
    sampler. Where there is a text for NAG, it is the negative one."""
    nodes = json.loads(text)
    if isinstance(nodes.get("nodes"), list):
        nodes = _run_form(nodes)
    nodes = {key: node for key, node in nodes.items() if isinstance(node.get("inputs"), dict)}
    settings = {}
    for name, inputs in COMFYUI.items():
        number = next(filter(_is_number, _values(nodes, inputs)), None)
        if number is not None:
            settings[name] = number
    for name, inputs in (
        ("prompt", ("positive", "conditioning")),
        ("negative_prompt", ("nag_negative", "negative")),
    ):
        seen = set()
        texts = (_text(nodes, value, seen) for value in _values(nodes, inputs))
        words = next((one for one in texts if one is not None), None)
        if words is not None:
            settings[name] = words
    return settings if "prompt" in settings or "seed" in settings else {}


def _values(nodes: dict, inputs: tuple[str, ...]) -> Iterator[Any]:
    """Of all nodes' inputs with these names, the first name first; links to numbers followed."""
    for name in inputs:
        for node in nodes.values():
            value = node["inputs"].get(name)
            yield value
            if isinstance(value, list) and value and (source := nodes.get(str(value[0]))):
                yield from (source["inputs"].get(one) for one in ("value", "int", "seed"))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(nodes: dict, value: object, seen: set[str]) -> str | None:
    """The words at the other end of a link, through whatever stands between. No node is looked at
    twice, and none out of `seen`, from which no words were reached before."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            return one
        key = str(one[0]) if isinstance(one, list) and one else ""
        if key not in nodes or key in seen:
            continue
        seen.add(key)
        if "ZeroOut" in nodes[key].get("class_type", ""):
            return ""  # no words at all, whatever leads there
        inputs = nodes[key]["inputs"]
        own = [inputs[name] for name in TEXTS if name in inputs]
        links = [one for one in inputs.values() if isinstance(one, list)]
        waiting += reversed([*own, *links])
    return None


def _run_form(saved: dict) -> dict:
    """What the editor saves -> {number: {"class_type", "inputs"}}, as a graph is run."""
    sources = {one[0]: [str(one[1]), one[2]] for one in saved.get("links", [])}
    nodes = {}
    for node in saved["nodes"]:
        names = WIDGETS.get(node["type"], ())
        values = node.get("widgets_values") or []
        inputs = {n: v for n, v in zip(names, values, strict=False) if n} if names else {}
        for one in node.get("inputs") or []:
            if one.get("link") in sources:
                inputs[one["name"]] = sources[one["link"]]
        nodes[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return nodes
