"""What visitors bring and take: uploads and finished pictures, in one folder with a cap.

It is Gradio's folder too (`GRADIO_TEMP_DIR`), so that finished pictures are served from where they
were written; a file elsewhere would be copied for every value that names it.
"""

import atexit
import contextlib
import errno
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gradio.data_classes import FileData

from ..engine.run import Column, Run
from ..errors import NAGRuntimeError, Refused
from ..media import metadata

KEEP = 3600  # seconds that a file stays after its last use
ROOM = 256 * 2**20  # bytes of all uploads, and as many again of finished pictures
SMALLEST = 2**15  # bytes that every file counts for, so that there are not too many of them
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a disk that has no room
ELSEWHERE = (
    "A start picture is a file that was uploaded here: POST it to /gradio_api/upload, then give "
    "the path that this answers."
)


class Folder:
    """Files that come and go: none unused for `seconds`, at most `room` bytes of what was uploaded
    and of what was drawn. The folder is made when it is needed, and again if it is gone."""

    def __init__(self, path: Path, room: int = ROOM, seconds: float = KEEP) -> None:
        self.path, self.drawn, self.room, self.seconds = path, path / "drawn", room, seconds
        self.owner, self.sweeping = os.getpid(), threading.Lock()

    def write(self, name: str, content: Callable[[Path], object]) -> Path:
        """The finished file of that name; `content(path)` writes it where it is not there yet.

        Raises `NAGRuntimeError` where the disk is full, or cannot be written.
        """
        path = self.drawn / name
        part = self.drawn / f".{secrets.token_hex(4)}-{name}"
        try:
            if path.exists():
                os.utime(path)
                return path
            self._clear(self.drawn.glob("*"))
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.drawn.mkdir(exist_ok=True)
            content(part)
            part.replace(path)
        except OSError as error:
            raise NAGRuntimeError(not_written(name, error)) from error
        finally:  # whatever ended it, half a file is none
            with contextlib.suppress(OSError):
                part.unlink()
        return path

    def sweep(self) -> None:
        """Makes room for an upload; returns at once where another one is doing that."""
        if self.sweeping.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self.sweeping.release()

    def _sweep(self) -> None:
        found = [(Path(folder), names) for folder, _, names in os.walk(self.path)]
        found = [(folder, names) for folder, names in found if folder != self.drawn]
        self._clear(folder / name for folder, names in found for name in names)
        for folder, _ in found[1:]:  # Gradio makes one for each upload
            if time.time() - _used(folder)[0] > 60:
                with contextlib.suppress(OSError):  # there is something in it
                    folder.rmdir()

    def _clear(self, files: Iterable[Path]) -> None:
        """Removes those that are too old, then the oldest of those that are too much."""
        taken = 0
        for used, size, file in sorted(((*_used(file), file) for file in files), reverse=True):
            taken += max(size, SMALLEST)
            if taken > self.room or time.time() - used > self.seconds:
                file.unlink(missing_ok=True)

    def uploaded(self, path: str) -> Path:
        """The file that a visitor uploaded, by the path that the upload answered; it is not opened.

        Raises `Refused` for every other path: a start picture is nothing else of this machine.
        """
        try:
            file = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):  # zero bytes, circles of links
            raise Refused(ELSEWHERE) from None
        home, drawn = self.path.resolve(), self.drawn.resolve()
        if not file.is_relative_to(home) or file.is_relative_to(drawn):
            raise Refused(ELSEWHERE)
        if not file.is_file():
            raise Refused("The start picture is no longer here: upload it again.")
        with contextlib.suppress(OSError):
            os.utime(file)  # it is in use
        return file

    def remove(self) -> None:
        """At the end of the process that made it, not of one that was forked from it."""
        if os.getpid() == self.owner:
            shutil.rmtree(self.path, ignore_errors=True)


def not_written(name: str, error: OSError) -> str:
    """The sentence for a file that could not be written, without its folder."""
    if error.errno in FULL:
        return f"{name} could not be written: the disk of this server is full."
    return f"{name} could not be written on this server ({error.strerror or 'no reason given'})."


def save(run: Run, column: Column) -> dict:
    """A finished picture as PNG (level 1: four times faster, a tenth larger), as Gradio's FileData.

    It is named after the run that drew it: shown again, it is the file that is there already.
    """
    name = f"{column.run or run.id}-{column.key}.png"
    info = metadata.png_info(run.preset, run.request, column.key)

    def write(path: Path) -> None:
        column.image.save(path, "PNG", compress_level=1, pnginfo=info)

    return file_data(FOLDER.write(name, write), "image/png")


def save_video(run: Run, column: Column) -> dict:
    """A finished video as MP4, as Gradio's FileData."""
    name = f"{column.run or run.id}-{column.key}.mp4"
    return file_data(FOLDER.write(name, lambda path: path.write_bytes(column.video)), "video/mp4")


def file_data(path: Path, kind: str) -> dict:
    """A file of `FOLDER` as Gradio's FileData. kind: its media type."""
    return FileData(path=str(path), mime_type=kind, orig_name=path.name).model_dump()


def _used(path: Path) -> tuple[float, int]:
    """When a file was last written or served anew (seconds since 1970), and its bytes."""
    try:
        found = path.stat()
    except OSError:  # gone meanwhile
        return time.time(), 0
    return found.st_mtime, found.st_size


def _parent() -> Path:
    try:
        return Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    except FileNotFoundError:
        raise NAGRuntimeError(
            "No folder for temporary files can be written: its disk may be full. "
            "Name one that has room in the environment variable TMPDIR."
        ) from None


FOLDER = Folder(_parent() / f"nag-side-by-side-{secrets.token_hex(8)}")
os.environ["GRADIO_TEMP_DIR"] = str(FOLDER.path)  # before a component asks Gradio for its folder
atexit.register(FOLDER.remove)
