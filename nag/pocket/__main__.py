"""`python -m nag.pocket STAGE`: a stage resumes where it stopped and is skipped when it is done.

    data        render the pictures (40,000, for a GPU 80,000)
    vae text classifier encode unet distill control second
                pocket-portrait: one training stage each, in this order
    t5 joint joint-distill joint-control
                pocket-joint, which needs data and encode too
    video-text video-habits video video-classifier
                pocket-video, from this run's pocket-portrait or the one that ships; its classifier
                needs data
    all         the whole recipe
    export      the finished models as diffusers pipelines in assets/
    film        the moving picture of the README: assets/alpha.webp

After `export`, `python -m nag.page.samples` draws what the page shows at load.

`joint --further` goes on with the teacher that ships in place of a new one, and `joint-distill`
begins with what that gives; `video --further` goes on with the pocket-video that ships. So a model
that ships is trained further in another session.

`data` needs dicebear-core, dicebear-styles and resvg-py. A run that has no VAE, text encoder or
classifier of its own takes those of assets/pocket-portrait, and the T5 of assets/pocket-joint; one
that has no portrait of its own, the text encoder of assets/pocket-video too.
"""

import argparse
from pathlib import Path

RECIPE = {  # stage -> steps, in batches for a processor
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
    "video-text": 250,
    "video-habits": 150,
    "video": 1_870,
    "video-classifier": 350,
}
# in batches for a GPU; by `--seconds` on lent ones the models that ship got so many: the portrait,
# but for its second stage, which was trained on a processor, and the joint model in two sessions
# (490, then about 1,400 by `joint --further`)
ON_A_GPU = {
    "data": 80_000,
    "text": 1_500,
    "unet": 520,
    "distill": 110,
    "second": 250,
    "t5": 1_500,
    "joint": 1_900,
    "joint-distill": 230,
}


def stage(
    name: str,
    run: Path,
    steps: int,
    compile: bool = False,
    seconds: float | None = None,
    size: int | None = None,
    further: bool = False,
) -> None:
    """One stage of the recipe, with so many steps (or pictures).

    seconds, size: of a denoiser's training, as of `loop.fit`, and rows of its batches.
    further: `joint` and `video` begin with the model that ships.
    """
    from . import data, joint, motion_words, reader, second, text, vae, video
    from .portrait import Portrait
    from .train import distill, train_teacher

    how = {"compile": compile, "seconds": seconds, "size": size}
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
            train_teacher(run, steps, Portrait(run), **how)
        case "distill":
            distill(run, steps, Portrait(run), **how)
        case "control":
            distill(run, steps, Portrait(run), guidance=1.0, name="control", **how)
        case "second":
            second.train_second(run, steps, seconds=seconds)
        case "t5":
            joint.train_t5(run, steps)
        case "joint":
            begin = joint.shipped_teacher if further else None
            train_teacher(run, steps, joint.Joint(run), begin=begin, **how)
        case "joint-distill":
            distill(run, steps, joint.Joint(run), name="joint-student", **how)
        case "joint-control":
            source = joint.Joint(run)
            distill(run, steps, source, guidance=1.0, name="joint-control", **how)
        case "video-text":
            motion_words.train_text(run, steps)
        case "video-habits":
            motion_words.train_habits(run, steps)
        case "video":
            video.train_video(run, steps, **how, further=further)
        case "video-classifier":
            reader.train_moved(run, steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nag.pocket",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("stage", choices=[*RECIPE, "all", "export", "film"])
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs"),
        help="folder of data and checkpoints (git-ignored)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="training steps, or pictures of `data`, instead of the recipe's",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the denoisers: a fifth faster, after two minutes",
    )
    parser.add_argument(
        "--seconds", type=float, help="ends a denoiser's stage by the clock: a GPU that is lent"
    )
    parser.add_argument("--batch", type=int, help="rows of a denoiser's batch, not the usual ones")
    parser.add_argument(
        "--further",
        action="store_true",
        help="`joint`, `video`: train the model that ships further",
    )
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    if arguments.further and arguments.stage not in ("joint", "video"):
        parser.error(f"--further is of the stages joint and video, not of {arguments.stage}.")
    if arguments.stage == "export":
        from .export import export

        return export(arguments.run)
    if arguments.stage == "film":
        from .export import ASSETS
        from .film import film

        return film(ASSETS / "alpha.webp")
    import torch

    usual = RECIPE | (ON_A_GPU if torch.cuda.is_available() else {})
    for name in RECIPE if arguments.stage == "all" else [arguments.stage]:
        stage(
            name,
            arguments.run,
            usual[name] if arguments.steps is None else arguments.steps,
            arguments.compile,
            arguments.seconds,
            arguments.batch,
            arguments.further,
        )


if __name__ == "__main__":
    main()
