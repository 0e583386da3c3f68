"""Measures pictures of the pocket models, whose every label is known, by their own classifier.

attribute_rate   share of pictures that show what the negative prompt names, with its 95 % Wilson
                 interval
keep             share of the other attributes that are as in the un-guided picture of the same seed
frechet          Frechet distance, in 32 principal components of the classifier's features, to
                 renders of the same roles *without* the attribute; these went through the VAE, so
                 that its own loss is not counted as damage. Each case is compared with its own
                 references, and the mean of the cases is taken, with its 95 % bootstrap interval.
                 Compare equal counts only
frechet_pooled   the same of all cases together: what a hat on a cowboy costs is hidden there by the
                 hats of the other references
clipped          share of colour values at 0 or 255: a burnt picture has more than the un-guided one

Of a video, features and readings are means over its frames, and its references are rendered clips.
"""

import functools
import hashlib
import json
import random
from pathlib import Path

from nag.engine import loading
from nag.errors import Refused
from nag.media import meter
from nag.pocket import clips, data

from . import draw
from .statistics import Frechet, around, wilson

COMPONENTS = 32
# renders for each case, and held-out renders on which the classifier is tried and the components
# are found; clips take 20 times as long
REFERENCES, KNOWN = 256, 600
CLIP_REFERENCES, KNOWN_CLIPS = 64, 160
# attribute, value, roles to tune on, roles to report on. Reported roles, seeds and wording are
# never looked at in tuning.
CASES = {
    "hat": ("head", "hat", ("detective",), ("cowboy", "explorer")),
    "glasses": ("eyewear", "glasses", ("scientist", "librarian"), ("AI researcher", "professor")),
    "sunglasses": ("eyewear", "sunglasses", ("movie star",), ("spy", "rock star")),
    "mask": ("mask", "mask", ("nurse",), ("surgeon",)),
    "beard": ("facial hair", "beard", ("viking",), ("lumberjack", "wizard")),
}


def check(frechet: bool) -> None:
    """Raises `Refused` where references cannot be rendered."""
    try:
        import dicebear  # noqa: F401
        import dicebear_styles  # noqa: F401
        import resvg_py  # noqa: F401
    except ImportError:
        if frechet:
            raise Refused(
                "The Frechet distance needs rendered references: pip install '.[evaluate]' "
                "(dicebear-core, dicebear-styles, "
                "resvg-py), or leave it out by --metrics attribute keep."
            ) from None


class Yardstick:
    """The classifier, and what distances are measured to: rendered once and kept in `folder`."""

    def __init__(
        self, painter: draw.Painter, folder: Path, cases: list[str], tuning: bool, size: int
    ):
        self.painter, self.folder, self.cases, self.tuning, self.size = (
            painter,
            folder,
            cases,
            tuning,
            size,
        )
        self.meter = meter.Meter.load(loading.PROJECT / painter.preset.meter)
        self.names = list(self.meter.attributes)
        self.of_video = bool(painter.preset.fps)
        self.count, self.known = (
            (CLIP_REFERENCES, KNOWN_CLIPS) if self.of_video else (REFERENCES, KNOWN)
        )

    @functools.cached_property
    def references(self) -> dict:
        """{"mean" (256,), "basis" (256, 32), "accuracy" (attributes,), case: (references, 32)} as
        tensors.
        """
        import torch
        from safetensors.torch import load_file, save_file

        drawn = [
            Path(module.__file__).read_text(encoding="utf-8")
            for module in ((data, clips) if self.of_video else (data,))
        ]
        parts = [
            draw.contents(loading.PROJECT / self.painter.preset.meter),
            self.painter.identity["weights"],
            self.painter.preset.model_name,
            self.cases,
            self.tuning,
            self.size,
            self.count,
            self.known,
            COMPONENTS,
            CASES,
            *drawn,
        ]
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        path = self.folder / f"references-{name}.safetensors"
        if path.exists():
            return load_file(path)
        rng = random.Random(99)
        sample = clips.sample_clip if self.of_video else data.sample_person
        known = [sample(rng) for _ in range(self.known)]
        labels, features = look(self.meter, self._renders(known))
        truth = torch.tensor(
            [data.encode_labels(one.person if self.of_video else one) for one in known]
        )
        found = {"accuracy": (labels == truth).float().mean(0), "mean": features.mean(0)}
        found["basis"] = (
            torch.linalg.svd(features - found["mean"], full_matrices=False)
            .Vh[:COMPONENTS]
            .mT.contiguous()
        )
        for case in self.cases:
            attribute, value, *roles = CASES[case]
            roles = roles[not self.tuning]
            without = [
                one
                for role in roles
                for one in (clips if self.of_video else data).references(
                    role, (attribute, value), self.count // len(roles)
                )
            ]
            found[case] = (look(self.meter, self._renders(without))[1] - found["mean"]) @ found[
                "basis"
            ]
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
        return found

    def _renders(self, drawn):
        render, together = (clips if self.of_video else data).render, 4 if self.of_video else 32
        return renders(self.painter.loaded.pipe.vae, drawn, render, self.size, together)

    def measure(
        self, pictures, columns: dict[str, list[Path]], plain: dict[str, str], metrics
    ) -> dict[str, dict]:
        """{column: its numbers}.

        `columns` has every column's files, in the order of `pictures`; `plain` the un-guided column
        of each.
        """
        import torch

        rows_of = {
            case: [i for i, picture in enumerate(pictures) if picture.case == case]
            for case in self.cases
        }
        index = torch.tensor([self.names.index(CASES[picture.case][0]) for picture in pictures])
        wanted = torch.tensor(
            [
                self.meter.attributes[CASES[picture.case][0]].index(CASES[picture.case][1])
                for picture in pictures
            ]
        )
        others = torch.arange(len(self.names)) != index[:, None]  # (n, attributes)
        seen = {key: _files(self.meter, paths) for key, paths in columns.items()}
        numbers = {}
        for key, (labels, features, clipped) in seen.items():
            shown = labels.gather(1, index[:, None])[:, 0] == wanted
            kept = labels == seen[plain[key]][0] if key in plain else None
            numbers[key] = self._shares(range(len(pictures)), shown, kept, others, metrics)
            cases = {
                case: self._shares(rows, shown, kept, others, metrics)
                for case, rows in rows_of.items()
            }
            if "frechet" in metrics:
                numbers[key] |= self._distances(features, rows_of, cases)
            if "clipped" in metrics:
                numbers[key]["clipped"] = clipped
            numbers[key]["cases"] = cases
        return numbers

    def _shares(self, rows, shown, kept, others, metrics) -> dict:
        rows, found = list(rows), {}
        if "attribute" in metrics:
            hits = int(shown[rows].sum())
            found |= {
                "attribute_rate": hits / len(rows),
                "attribute_interval": wilson(hits, len(rows)),
            }
        if "keep" in metrics and kept is not None:
            found["keep"] = float(kept[rows][others[rows]].float().mean())
        return found | {"count": len(rows)}

    def _distances(self, features, rows_of: dict[str, list[int]], cases: dict[str, dict]) -> dict:
        """Of all pictures; each case's own is put into `cases`."""
        import torch

        near = (features - self.references["mean"]) @ self.references["basis"]  # (n, 32)
        distances, resampled = [], []
        for case, rows in rows_of.items():
            if len(rows) > 1:  # one picture has no spread
                frechet = Frechet(self.references[case])
                distances.append(float(frechet(near[rows])))
                resampled.append(frechet.resampled(near[rows]))
                cases[case]["frechet"] = distances[-1]
        if not distances:
            return {}
        mean = sum(distances) / len(distances)
        pooled = Frechet(torch.cat([self.references[case] for case in rows_of]))
        return {
            "frechet": mean,
            "frechet_interval": around(mean, torch.stack(resampled).mean(0)),
            "frechet_pooled": float(pooled(near)),
        }

    @property
    def accuracy(self) -> dict[str, float]:
        return dict(
            zip(
                self.names,
                (round(share, 4) for share in self.references["accuracy"].tolist()),
                strict=True,
            )
        )


def renders(vae, drawn, render=data.render, size: int = data.SIZE, together: int = 32):
    """Renders of people, or of clips, as the VAE gives them back -> a list of frames (PIL images)
    for each.
    """
    import numpy as np
    import torch
    from PIL import Image

    one, pictures = next(vae.parameters()), []
    with torch.inference_mode():
        for start in range(0, len(drawn), together):
            exact = np.stack(
                [np.asarray(render(each, size)) for each in drawn[start : start + together]]
            )
            different, places = clips.distinct(
                exact.reshape(-1, *exact.shape[-3:])
            )  # in many clips most of the frames are the same
            pixels = (torch.from_numpy(different).float() / 127.5 - 1).to(one).movedim(-1, -3)
            decoded = vae.decode(vae.encode(pixels).latents).sample
            decoded = (
                ((decoded.float().cpu().clamp(-1, 1) + 1) * 127.5)
                .round()
                .byte()
                .movedim(-3, -1)
                .numpy()[places]
            )
            decoded = decoded.reshape(len(exact), -1, *exact.shape[-3:])
            pictures += [[Image.fromarray(frame) for frame in frames] for frames in decoded]
    return pictures


def look(reader, pictures):
    """Lists of frames -> labels (n, attributes), features (n, 256): of a video, the mean over its
    frames.
    """
    import torch

    labels, features = [], []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            part = pictures[start : start + 64]
            counts = [len(frames) for frames in part]
            near = reader.model.features(
                torch.stack([reader._tensor(frame) for frames in part for frame in frames])
            )
            chances = [head(near).softmax(-1) for head in reader.model.heads]
            labels.append(
                torch.stack(
                    [
                        torch.stack([rows.mean(0) for rows in head.split(counts)]).argmax(-1)
                        for head in chances
                    ],
                    1,
                )
            )
            features.append(torch.stack([rows.mean(0) for rows in near.split(counts)]))
    return torch.cat(labels), torch.cat(features)


def _files(reader, paths: list[Path]):
    """-> labels, features, and the share of colour values at either end."""
    import numpy as np
    import torch

    labels, features, ends = [], [], []
    for start in range(0, len(paths), 64):
        pictures = [draw.read(path)[0] for path in paths[start : start + 64]]
        found = look(reader, pictures)
        labels.append(found[0])
        features.append(found[1])
        ends += [
            float(np.mean([np.isin(np.asarray(frame), (0, 255)).mean() for frame in frames]))
            for frames in pictures
        ]
    return torch.cat(labels), torch.cat(features), float(np.mean(ends))
