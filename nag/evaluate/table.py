"""What was measured, as a Markdown table."""

HEADS = {  # metric -> its head in the table, and how its values are written
    "attribute_rate": ("attribute rate (95 %)", "{:.2f}"),
    "clean": ("clean (95 %)", "{:.2f}"),
    "replaced": ("replaced", "{:.2f}"),
    "added": ("added", "{:.2f}"),
    "keep": ("keep (95 %)", "{:.2f}"),
    "likeness": ("likeness (95 %)", "{:.2f}"),
    "frechet": ("Frechet (95 %)", "{:.0f}"),
    "frechet_pooled": ("pooled", "{:.0f}"),
    "clipped": ("clipped", "{:.2f}"),
    "motion": ("motion", "{:.2f}"),
    "moves": ("moves (95 %)", "{:.2f}"),
    "removed": ("removed (95 %)", "{:.2f}"),
    "presence": ("P(yes) (95 %)", "{:.2f}"),
    "dino": ("DINO (95 %)", "{:.2f}"),
    "lpips": ("LPIPS (95 %)", "{:.2f}"),
    "clip": ("CLIP (95 %)", "{:.2f}"),
    "fid": ("FID", "{:.2f}"),
    "pfid": ("PFID", "{:.2f}"),
    "pickscore": ("PickScore (95 %)", "{:.2f}"),
    "blacked_out": ("blacked out", "{:d}"),
    "seconds": ("s / picture", "{:.3f}"),
}
INTERVALS = {"attribute_rate": "attribute_interval"}
PAIRED = "clean", "keep", "likeness", "frechet", "removed", "dino", "lpips"
PER_CASE = "attribute_rate", "clean", "keep", "likeness", "frechet"
AT_SAME = {"cfg_at_same_rate": "attribute_rate", "cfg_at_same_clean": "clean"}


def table(results: dict) -> str:
    """All columns, every case, what is compared with CFG or another column, and the controls."""
    columns = results["columns"]
    parts = [_whole(results), _cases(columns), *_matched(results)]
    parts += [_same_strength(columns, clean=not results.get("matched")), _paired(columns)]
    parts += [_controls(columns), _tried(results), cut_words(results)]
    return "\n".join("\n".join(lines) + "\n" for lines in parts if lines)


def interval_of(numbers: dict, name: str) -> list[float] | None:
    return numbers.get(INTERVALS.get(name, f"{name}_interval"))


def _rows(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _whole(results: dict) -> list[str]:
    columns = results["columns"]
    metrics = [name for name in HEADS if any(name in numbers for numbers in columns.values())]
    rows = [[key, *(_cell(one, name) for name in metrics)] for key, one in columns.items()]
    several = len(results.get("chance", {})) > 1
    for key, levels in results.get("chance", {}).items():
        name = f"another seed, {key}" if several else "another seed"
        rows.append([name, *(_cell(levels, metric) for metric in metrics)])
    if results.get("floor") is not None:
        levels = {"frechet": results["floor"]}
        rows.append(["true renders", *(_cell(levels, metric) for metric in metrics)])
    return _rows(["column", *(HEADS[name][0] for name in metrics)], rows)


def _cases(columns: dict[str, dict]) -> list[str]:
    """Attribute rate and what else was measured of every case, in one cell."""
    cases = list(next(iter(columns.values())).get("cases", {}))
    metrics = [name for name in PER_CASE if any(name in one for one in columns.values())]
    if not cases or not metrics:
        return []
    heads = ", ".join(HEADS[name][0].removesuffix(" (95 %)") for name in metrics)
    rows = [
        [key, *(_listed(one, metrics) for one in numbers["cases"].values())]
        for key, numbers in columns.items()
    ]
    return _rows([heads, *cases], rows)


def _matched(results: dict) -> list[list[str]]:
    """What each method keeps at equal clean removal; and the same less NAG's."""
    tables = []
    clean, keep, likeness = results.get("matched_as", ("clean", "keep", "likeness"))
    for steps, methods in results.get("matched", {}).items():
        levels = list(dict.fromkeys(at for one in methods.values() for at in one["at"]))
        levels.sort(key=float)
        if not levels or sum(one["settings"] for one in methods.values()) < 2:
            continue
        heads = [f"at {clean} {float(at):.2f}" for at in levels]
        rows = [
            [f"{name} ({one['settings']})", *(_kept(one["at"].get(at)) for at in levels)]
            for name, one in methods.items()
        ]
        first = f"{keep} (95 %), {likeness}, {steps} steps (settings tried)"
        tables.append(_rows([first, *heads], rows))
        rows = [
            [f"{name} less nag", *(_kept(one["less"].get(at), "+") for at in levels)]
            for name, one in methods.items()
            if one["less"]
        ]
        if rows:
            tables.append(_rows([f"difference in {keep} (95 %), {likeness}", *heads], rows))
    return tables


def _kept(found: dict | None, sign: str = "") -> str:
    """One cell: what is kept, with its interval where there is one, and the likeness."""
    if not found:
        return "not reached"
    (keep, low, high), (likeness, *_) = found["keep"], found["likeness"]
    between = " to " if sign else "-"
    ends = "" if low is None else f" ({low:{sign}.2f}{between}{high:{sign}.2f})"
    return f"{keep:{sign}.2f}{ends}, {likeness:{sign}.2f}"


def _same_strength(columns: dict[str, dict], clean: bool) -> list[str]:
    """clean: also at equal clean removal, which `_matched` has of all methods."""
    rows = []
    metrics = "keep", "likeness", "frechet"
    for key, numbers in columns.items():
        for same, measure in AT_SAME.items():
            if same in numbers and (clean or measure != "clean"):
                here = f"{HEADS[measure][0].removesuffix(' (95 %)')} {numbers[measure]:.2f}"
                rows.append([key, here, _listed(numbers, metrics), _at(numbers[same], measure)])
    heads = ["column", "at", ", ".join(HEADS[m][0].removesuffix(" (95 %)") for m in metrics)]
    return _rows([*heads, "CFG's there"], rows) if rows else []


def _at(found: dict, measure: str) -> str:
    if "lowest_rate" in found:
        return f"CFG never got below {found['lowest_rate']:.2f}"
    if "highest_rate" in found:
        what = "left more than" if measure == "attribute_rate" else "came above"
        return f"CFG never {what} {found['highest_rate']:.2f}"
    return _listed(found, ("keep", "likeness", "frechet"))


def _paired(columns: dict[str, dict]) -> list[str]:
    """Differences to another column, picture by picture, with their 95 % intervals."""
    found = {key: one["paired"] for key, one in columns.items() if "paired" in one}
    metrics = [name for name in PAIRED if any(name in one for one in found.values())]
    if not metrics:
        return []
    rows = []
    for key, one in found.items():
        cells = [_difference(one, name) for name in metrics]
        rows.append([f"{key} less {one['against']}", *cells])
    heads = [HEADS[name][0].removesuffix(" (95 %)") for name in metrics]
    return _rows(["paired difference (95 %)", *heads], rows)


def _difference(found: dict, name: str) -> str:
    if name not in found:
        return ""
    signed = HEADS[name][1].replace("{:", "{:+")
    value, low, high = (signed.format(number) for number in found[name])
    p = found.get(f"{name}_p")
    return f"{value} ({low} to {high})" + ("" if p is None else f", p {_p(p)}")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"= {value:.3f}".replace("0.", ".", 1)


def _controls(columns: dict[str, dict]) -> list[str]:
    """Under negatives that have nothing to do."""
    found = {key: one["controls"] for key, one in columns.items() if one.get("controls")}
    kinds = list(dict.fromkeys(kind for one in found.values() for kind in one))
    if not kinds:
        return []
    all_of = [of_kind for one in found.values() for of_kind in one.values()]
    wanted = "keep", "likeness", "added", "dino", "lpips"
    metrics = [name for name in wanted if any(name in one for one in all_of)]
    rows = [
        [key, *(_listed(one.get(kind, {}), metrics) for kind in kinds)]
        for key, one in found.items()
    ]
    counts = {
        kind: next(one[kind]["count"] for one in found.values() if kind in one) for kind in kinds
    }
    heads = [f"{kind} negative ({counts[kind]})" for kind in kinds]
    return _rows([", ".join(metrics), *heads], rows)


def _tried(results: dict) -> list[str]:
    tried = results.get("settings", {}).get("tried")
    if not tried:
        return []
    return [
        "Settings of each method in this table: "
        + ", ".join(f"{k} {n}" for k, n in tried.items())
        + "."
    ]


def cut_words(results: dict) -> list[str]:
    """Prompts of which not every word was read, in sentences."""
    found, lines = results.get("cut") or {}, []
    if words := found.get("words"):
        text, count = next(iter(words.items()))
        lines.append(
            f"{len(words)} of {found['texts']} prompts are longer than the model's text encoders "
            f"read: {sum(words.values())} words at their ends were cut, of the first {count} "
            f'("{text}").'
        )
    if part := max((one.get("clip_cut", 0) for one in results["columns"].values()), default=0):
        lines.append(
            f"{part} captions are longer than the model of CLIP Score reads, and were judged by "
            "their beginning."
        )
    return lines


def _listed(numbers: dict, names) -> str:
    return ", ".join(HEADS[name][1].format(numbers[name]) for name in names if name in numbers)


def _cell(numbers: dict, name: str) -> str:
    if name not in numbers:
        return ""
    text, interval = HEADS[name][1].format(numbers[name]), interval_of(numbers, name)
    if interval is None:
        return text
    return f"{text} ({'-'.join(HEADS[name][1].format(end) for end in interval)})"
