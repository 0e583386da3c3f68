"""Where the files beside the code are: presets/ and assets/."""

from pathlib import Path

_CODE = Path(__file__).resolve().parent
# beside nag/ in a checkout, and inside of it where setup.py has put them
HOME = _CODE.parent if (_CODE.parent / "presets").is_dir() else _CODE / "_home"
PRESETS, ASSETS = HOME / "presets", HOME / "assets"
