"""Pages that work offline: a template of assets/, filled."""

import json

from ..home import ASSETS

STYLES = {"TOKENS": "tokens.css", "REPORT_CSS": "report.css"}  # of assets/page/, in all of them


def filled(folder: str, told: dict, **parts: str) -> str:
    """assets/<folder>/report.html with `parts` where it says @NAME@, and `told`, what the browser
    is told, at @TOLD@."""
    page = (ASSETS / folder / "report.html").read_text("utf-8")
    parts |= {name: (ASSETS / "page" / one).read_text("utf-8") for name, one in STYLES.items()}
    # last, and no text of a visitor can end the script element that carries it
    parts["TOLD"] = json.dumps(told).replace("<", "\\u003c")
    for name, part in parts.items():
        page = page.replace(f"@{name}@", part, 1)
    return page
