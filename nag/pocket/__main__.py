"""`python -m nag.pocket STAGE`: a stage resumes where it stopped and is skipped when it is done.

    data        render the pictures (40,000; needs dicebear-core dicebear-styles resvg-py)
    vae text classifier encode unet distill control second
                pocket-portrait: one training stage each, in this order
    t5 joint joint-distill joint-control
                pocket-joint, which needs data and encode too
    clips video-encode video-text video video-distill
                pocket-video, which needs data and encode too
    all         the whole recipe
    export      the finished models as diffusers pipelines in assets/
    results     the pictures that the page shows at load, drawn by the exported pipeline (--preset)
    film        the moving picture of the README: assets/alpha.webp

A run that has no VAE, text encoder or classifier of its own takes those of assets/pocket-portrait.
"""

import argparse
from pathlib import Path

RECIPE = {  # stage -> steps; what the shipped weights were trained with
    "data": 40_000,
    "vae": 4_500,
    "text": 500,
    "classifier": 800,
    "encode": 0,
    "unet": 3_800,
    "distill": 650,
    "control": 250,
    "second": 800,
    "t5": 500,
    "joint": 1_200,
    "joint-distill": 500,
    "joint-control": 250,
    "clips": 4_000,
    "video-encode": 4_000,
    "video-text": 250,
    "video": 900,
    "video-distill": 180,
}


def stage(name: str, run: Path, steps: int, compile: bool = False) -> None:
    """One stage of the recipe, with so many steps (or pictures, or clips)."""
    from . import clips, data, joint, reader, second, text, vae, video
    from .portrait import Portrait
    from .train import distill, train_teacher

    match name:
        case "data":
            data.build(run / "data", steps)
        case "vae":
            vae.train_vae(run, steps)
        case "text":
            text.train_text(run, steps)
        case "classifier":
            reader.train_classifier(run, steps)
        case "encode":
            vae.encode_pictures(run, steps)
        case "unet":
            train_teacher(run, steps, Portrait(run), compile)
        case "distill":
            distill(run, steps, Portrait(run), compile=compile)
        case "control":
            distill(run, steps, Portrait(run), guidance=1.0, name="control", compile=compile)
        case "second":
            second.train_second(run, steps)
        case "t5":
            joint.train_t5(run, steps)
        case "joint":
            train_teacher(run, steps, joint.Joint(run), compile)
        case "joint-distill":
            distill(run, steps, joint.Joint(run), name="joint-student", compile=compile)
        case "joint-control":
            source = joint.Joint(run)
            distill(run, steps, source, guidance=1.0, name="joint-control", compile=compile)
        case "clips":
            clips.build(run / "clips", steps)
        case "video-text":
            video.train_text(run, steps)
        case "video-encode":
            video.encode_clips(run, steps)
        case "video":
            train_teacher(run, steps, video.Video(run), compile)
        case "video-distill":
            distill(run, steps, video.FewSteps(run), name="video-student", compile=compile)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nag.pocket",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("stage", choices=[*RECIPE, "all", "export", "results", "film"])
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs"),
        help="folder of data and checkpoints (git-ignored)",
    )
    parser.add_argument(
        "--steps", type=int, help="training steps, or pictures for `data`, instead of the recipe's"
    )
    parser.add_argument("--preset", default="pocket-portrait", help="of `results`")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the denoisers: a fifth faster, after two minutes",
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    if arguments.stage == "export":
        from .export import export

        return export(arguments.run)
    if arguments.stage == "results":
        from .export import results

        return results(arguments.preset)
    if arguments.stage == "film":
        from .export import ASSETS
        from .film import film

        return film(ASSETS / "alpha.webp")
    for name in RECIPE if arguments.stage == "all" else [arguments.stage]:
        stage(
            name,
            arguments.run,
            RECIPE[name] if arguments.steps is None else arguments.steps,
            arguments.compile,
        )


if __name__ == "__main__":
    main()
