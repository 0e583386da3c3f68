"""What goes wrong, in sentences for people.

A `NAGError` says what we got and what would work, and is shown as it is wherever it happens: under
a column, in the API's answer, on the command line. Every other error is unexpected: people are told
that, and where the log is; only the log gets the error's text, which may name a machine's folders.
"""

import sys
from collections.abc import Iterator

LOG = "the log, in the terminal where this was started"
IN_PARTS = (
    "with context parallelism every device has a part of the text and of the picture, so the two "
    "texts cannot be told apart. Load it without ContextParallelConfig; models whose image attends "
    "the whole text in layers of its own, as Wan's does, are guided with it."
)


class NAGError(Exception):
    """A sentence for people: what we got, and what would work."""


class NAGValueError(NAGError, ValueError):
    """Something that was given cannot be used."""


class NAGRuntimeError(NAGError, RuntimeError):
    """Something that shows only while a pipeline runs."""


class Refused(NAGValueError):
    """A request of the page, the API or the command line that cannot be run."""


class Stopped(Exception):
    """Raised inside a pipeline to end it."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from, and so on."""
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the CPU or of a GPU was too small."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    # torch has a class for GPUs only: the CPU's and Apple's allocators say it in words
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def unexpected(error: BaseException, run_id: str, what: str = "This column") -> str:
    """The sentence for an error that nobody foresaw: without its text, which stands in the log."""
    return (
        f"{what} ended with an unexpected error ({type(error).__name__}). "
        f"Run {run_id} in {LOG}, has the details."
    )
