"""What ended a column, a run or the loading of a model, as a sentence for people.

Without paths and without the errors' own texts: these may name folders of the machine, and stand
in the log.
"""

import errno
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from .. import private
from ..errors import LOG, NAGError, causes, out_of_memory, unexpected
from ..home import HOME
from ..presets import Preset
from .run import Run

log = logging.getLogger("nag")
POCKET = "choose a pocket preset: those are here"


def of_column(error: Exception, run: Run, keys: tuple[str, ...]) -> str:
    """Why the columns of one call failed, and what to do; what nobody foresaw is logged."""
    request = run.request
    if isinstance(error, NAGError):
        sentence = str(error)
    elif out_of_memory(error):
        sentence = (
            f"Out of memory at {request.width} x {request.height}. A smaller size helps; "
            "with CFG the batch is twice as large."
        )
    elif isinstance(error, NameError) and error.name == "ftfy":  # diffusers imports it if it can
        sentence = "This pipeline needs one more package on this machine: pip install ftfy."
    else:
        log.error("run %s, column %s", run.id, ", ".join(keys), exc_info=error)
        return unexpected(error, run.id)
    log.info("run %s, column %s: %s", run.id, ", ".join(keys), sentence, exc_info=error)
    return sentence


def of_run(error: BaseException, run_id: str) -> str:
    """Why a whole run ended."""
    return str(error) if isinstance(error, NAGError) else unexpected(error, run_id, "This run")


def of_loading(error: Exception, preset: Preset, instead: str = POCKET) -> str:
    """Why a model does not load, and what to do, or `instead`; what nobody foresaw is logged."""
    sentence = next(_foreseen(list(causes(error)), preset, instead), None)
    if sentence is not None:
        log.info("preset %s", preset.name, exc_info=error)
        return sentence
    log.error("preset %s", preset.name, exc_info=error)
    kind = type(error).__name__
    if isinstance(error, (OSError, ValueError)):
        return (
            f"{preset.model_name} does not load as a diffusers pipeline ({kind}): a file may be "
            f"missing or damaged. Preset {preset.name} in {LOG}, has the details."
        )
    return (
        f"{preset.title} failed to load with an unexpected error ({kind}). "
        f"Preset {preset.name} in {LOG}, has the details."
    )


def _foreseen(chain: list[BaseException], preset: Preset, instead: str) -> Iterator[str]:
    """The sentences that fit an error and its causes, the most telling first."""
    yield from _packages(chain, preset)
    yield from _hub(chain, preset, instead)
    yield from _machine(chain, preset)
    yield from _files(chain, preset)


def _packages(chain: list[BaseException], preset: Preset) -> Iterator[str]:
    names = [name for error in chain for name in private.packages_named(error)]
    if names:
        needed = " ".join(dict.fromkeys(names))
        yield f"{preset.title} needs one more package on this machine: pip install {needed}."


def _hub(chain: list[BaseException], preset: Preset, instead: str) -> Iterator[str]:
    """What the hub refused, or that it cannot be reached."""
    from huggingface_hub import errors

    def among(*kinds: type) -> list[BaseException]:
        return [error for error in chain if isinstance(error, kinds)]

    status = [error.response.status_code for error in among(errors.HfHubHTTPError)]
    if among(errors.RevisionNotFoundError):
        yield (
            f"{preset.title}: revision {preset.revision} is no longer on the hub; take another one "
            f"into presets/{preset.name}.json."
        )
    missing = among(errors.RepositoryNotFoundError)
    if missing and not among(errors.GatedRepoError):
        yield f"{preset.model_name} is neither a folder here nor a repository on the hub."
    if among(errors.GatedRepoError) or {401, 403} & set(status):
        yield (
            f"{preset.title} asks for a licence: accept it at "
            f"https://huggingface.co/{preset.model}, then set the environment variable HF_TOKEN to "
            "your token and start again."
        )
    if busy := [code for code in status if code == 429 or code >= 500]:
        yield f"The hub could not answer ({busy[0]}) for {preset.title}: try again later."
    if among(errors.LocalEntryNotFoundError, ConnectionError) or any(map(_not_reached, chain)):
        yield (
            f"{preset.title} is not on this machine and the hub cannot be reached. Connect once "
            f"(about {preset.fetched_gb:.0f} GB are fetched), or {instead}."
        )


def _not_reached(error: BaseException) -> bool:
    """Whether a host could not be found or did not answer. huggingface_hub has changed the package
    that it asks by, and its errors are known by their name alone."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, (socket.gaierror, TimeoutError)) or "TransportError" in names


def _machine(chain: list[BaseException], preset: Preset) -> Iterator[str]:
    full = (errno.ENOSPC, errno.EDQUOT)
    if any(isinstance(error, OSError) and error.errno in full for error in chain):
        yield (
            f"The disk is full: {preset.title} needs about {preset.fetched_gb:.0f} GB. Free some, "
            "or set HF_HOME to a larger disk."
        )
    if any(map(out_of_memory, chain)):
        yield f"Not enough memory for {preset.title} (about {preset.size_gb:.0f} GB)."


def _files(chain: list[BaseException], preset: Preset) -> Iterator[str]:
    """What is wrong with the model's files, where that can be said without their folder."""
    from safetensors import SafetensorError

    source, folder = preset.model_name, HOME / preset.model
    if preset.local and not (folder / "model_index.json").is_file():
        yield f"{source} does not load as a diffusers pipeline: it has no model_index.json."
    broken = next(_broken_weights(folder), None) if preset.local else None
    if broken:
        yield f"{source} does not load: its file {broken} is damaged. Fetch it again."
    if any(isinstance(error, SafetensorError) for error in chain):
        yield f"{source} does not load: a file of its weights is damaged. Fetch it again."
    if any(isinstance(error, json.JSONDecodeError) for error in chain):
        yield f"{source} does not load: one of its JSON files is damaged. Fetch it again."


def _broken_weights(folder: Path) -> Iterator[str]:
    """Weight files of a model that cannot be opened, named within its folder."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError):
            yield file.relative_to(folder).as_posix()
