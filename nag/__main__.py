"""NAG without a page: `python -m nag compare`, `sweep`, `seeds`, `evaluate` and others."""

import argparse
import errno
import os
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from .commands import asked, bench, check, compare, families, models, preset, rooms, space, votes
from .errors import NAGError
from .evaluate import command as evaluation
from .evaluate import fidelity

# a folder that is gone or closed, a disk that is full
OF_FILES = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class Command(NamedTuple):
    """What it is for, its arguments, and what it does; `run` returns the exit code."""

    purpose: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _drawing(purpose: str, add_arguments: Callable, run: Callable) -> Command:
    """A command with a request besides its own arguments, which `run` gets resolved."""

    def add_all(parser: argparse.ArgumentParser) -> None:
        asked.add_arguments(parser)
        add_arguments(parser)

    return Command(purpose, add_all, lambda options: run(options, *asked.asked(options)))


COMMANDS = {
    "compare": Command(
        "draw one seed without guidance, with CFG and with NAG", compare.add_arguments, compare.run
    ),
    "sweep": _drawing("a grid of pictures over two settings", rooms.add_sweep, rooms.sweep),
    "seeds": _drawing("the same columns on many seeds, counted", rooms.add_seeds, rooms.seeds),
    "xray": _drawing("what NAG does inside a model, layer by step", rooms.add_xray, rooms.xray),
    "votes": Command(
        "count the blind votes that the page has kept", votes.add_arguments, votes.run
    ),
    "bench": _drawing(
        "what guidance costs with a preset on this machine", bench.add_arguments, bench.run
    ),
    "evaluate": Command(
        "count what guidance does to many pictures: rates, distances, plots",
        evaluation.add_arguments,
        evaluation.run,
    ),
    "fidelity": Command(
        "does a pocket model draw what its words say?", fidelity.add_arguments, fidelity.run
    ),
    "models": Command(
        "list the presets: size, licence, and what this machine can run",
        models.add_arguments,
        models.run,
    ),
    "preset": Command(
        "write settings as a preset file, for presets/", preset.add_arguments, preset.run
    ),
    "check": Command(
        "load a preset's model and draw two steps with every kind of guidance",
        check.add_arguments,
        check.run,
    ),
    "space": Command(
        "make a folder that can be uploaded as a Space of Hugging Face",
        space.add_arguments,
        space.run,
    ),
    "families": Command(
        "the table of denoiser classes, as it stands in the README",
        families.add_arguments,
        families.run,
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. -> its exit code; 2 with a sentence where it is refused."""
    parser = argparse.ArgumentParser(prog="python -m nag", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.purpose))
    options = parser.parse_args(_words() if arguments is None else arguments)
    try:
        return COMMANDS[options.command].run(options)
    except NAGError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in OF_FILES:
            raise
        print(f"{error.filename or 'A file'}: {error.strerror}.", file=sys.stderr)
        return 2


def _words() -> list[str]:
    """The command line, also where the locale knows ASCII alone, and with it Python."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    return [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]


def _leave(code: int) -> NoReturn:
    """Ends the process. A thread that still loads a model or draws cannot be stopped at once, and
    Python would end it in the midst of PyTorch's code, which aborts the process."""
    drawing = [one for one in threading.enumerate() if one.name.startswith("sample ")]
    for thread in drawing:
        thread.join(5)
    if any(thread.is_alive() for thread in drawing):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _leave(main())
