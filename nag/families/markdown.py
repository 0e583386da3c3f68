"""The table of denoiser classes as Markdown, as it stands in nag/families/README.md."""

import re
from pathlib import Path

from .refused import PIPELINES, REFUSED
from .schema import Family
from .table import FAMILIES

SHOWN = 5  # pipelines of a denoiser; of the others their number


def table() -> str:
    """All rows and refusals of `nag/families` as Markdown, with the pipelines that hold them."""
    users = pipelines_by_denoiser()
    lines = [
        f"{len(FAMILIES)} denoiser classes of diffusers have a row:",
        "",
        "| denoiser | in these pipelines | what is special |",
        "|---|---|---|",
        *(row(name, family, users.get(name, [])) for name, family in sorted(FAMILIES.items())),
        "",
        f"{len(REFUSED)} are refused with a sentence:",
        "",
        "| refused | because |",
        "|---|---|",
        *(f"| `{name}` | {reason} |" for name, reason in sorted(REFUSED.items())),
        "",
        f"{len(PIPELINES)} pipelines are, though their denoiser has a row:",
        "",
        "| refused | because |",
        "|---|---|",
        *(f"| `{name}` | {reason} |" for name, reason in sorted(PIPELINES.items())),
    ]
    return "\n".join(lines)


def row(name: str, family: Family, pipelines: list[str]) -> str:
    more = f" and {len(pipelines) - SHOWN} more" if len(pipelines) > SHOWN else ""
    special = ""
    if family.adapter:
        first = " ".join(family.adapter.__doc__.split()).split(". ")[0].split(":")[0]
        special = first.rstrip(".") + "."
    remark = " ".join(f"{special} {family.remark}".split())
    return f"| `{name}` | {', '.join(pipelines[:SHOWN])}{more} | {remark} |"


def pipelines_by_denoiser() -> dict[str, list[str]]:
    """Denoiser class -> the pipelines of diffusers whose source names it as the type of theirs."""
    import diffusers

    users = {}
    for path in sorted((Path(diffusers.__file__).parent / "pipelines").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for pipeline, body in re.findall(
            r"^class (\w+)Pipeline\(.*?def __init__\((.*?)\):\n", source, re.S | re.M
        ):
            if f"{pipeline}Pipeline" in PIPELINES:
                continue
            hints = " ".join(re.findall(r"(?:unet|transformer|prior)\w*: ([^=\n]*)", body))
            for part in set(re.findall(r"\w+", hints)):
                users.setdefault(part, []).append(pipeline)
    return users
