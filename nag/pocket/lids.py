"""Closed eyes, painted over the open ones of a portrait, drawn by hand or by a model.

Who blinks keeps the face that they have. The drawings know closed eyes only as another face, with a
mouth and a brow of its own.
"""

import torch

from . import data

# in pixels of a picture of data.SIZE
EYES = (74.5, 66.0), (95.0, 66.0)  # across and down
SMALL, ROUND = 6.3, 9.2  # what the skin covers: of small eyes, and of round ones with whites
EDGE = 102.2  # where the face ends
SKIN = (82, 89), (63, 70)  # between the eyes: columns, rows
DARK = -0.95  # the lid's line


def closed(pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) from -1 to 1, of one portrait each -> the same with closed eyes. One behind dark
    glasses, a patch or hair stays as it is."""
    y, x = (data.SIZE * (torch.arange(n) + 0.5) / n for n in pictures.shape[2:])
    y, x = torch.meshgrid(y.to(pictures), x.to(pictures), indexing="ij")
    (left, right), (top, bottom) = SKIN
    between = (x > left) & (x < right) & (y > top) & (y < bottom)
    # the lighter ones: frames of glasses may cross it
    skin = pictures[..., between].float().quantile(0.75, -1).to(pictures)[..., None, None]
    out = pictures
    for across, down in EYES:
        dx, dy = x - across, y - down
        far = (dx.square() + dy.square()).sqrt()
        inside = pictures[..., far < 5]
        white = (inside.amin(1) > 0.6).float().mean(-1) > 0.25  # in all colours, as no skin is
        hidden = (inside.mean(1) < -0.5).float().mean(-1) > 0.6
        seen = (~hidden)[:, None, None, None]
        reach = torch.where(white, ROUND, SMALL)[:, None, None, None].to(pictures)
        cover = (reach - far + 0.5).clamp(0, 1) * (EDGE - x + 0.5).clamp(0, 1) * seen
        out = torch.lerp(out, skin, cover)
        sags = 1 + 2.2 * (1 - (dx / 5.5).square())
        line = (1.6 - (dy - sags).abs()).clamp(0, 1) * (6.2 - dx.abs()).clamp(0, 1) * seen
        out = torch.lerp(out, torch.full_like(out, DARK), line)
    return out
