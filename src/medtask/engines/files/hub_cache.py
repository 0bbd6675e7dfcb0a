"""Models of the Hugging Face Hub: copies in the cache of this machine, and downloads."""

from __future__ import annotations

from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal

from medtask.errors import MissingExtra, ModelNotFound
from medtask.privacy import OFFLINE_VARIABLES, EgressError

# Code (*.py) and pickles (*.bin, *.pt) are never downloaded.
_ALLOW_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt"]
_IGNORE_PATTERNS = ["original/*", "onnx/*", "openvino/*", "consolidated*"]
_HUB_SECONDS = 5.0  # the wait for the first answer of the Hub


def find_cached_model(repo: str, revision: str | None) -> Path | None:
    """The folder of a model in the Hub's cache, which may lack files; raises MissingExtra."""
    try:
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise MissingExtra(
            "transformers is not installed here", fix="pip install 'medtask[hf]'"
        ) from None
    try:
        return _fetch_snapshot(repo, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def download_model(repo: str, revision: str | None) -> Path:
    """Download a model's weights and settings into the Hub's cache.

    Raises:
        ModelNotFound: The Hub has no such model, refuses it, or cannot be reached.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    token = get_token()  # sent only here, for a model that the user named
    try:
        _request_repository(repo, revision, token or False)
        return _fetch_snapshot(repo, revision, token=token or False)
    except GatedRepoError:
        lacks = (
            "this machine's token has no access to it"
            if token
            else "this machine has no token for it"
        )
        raise ModelNotFound(
            f"{repo} is gated and {lacks}",
            fix="accept the terms on the model's page, then `hf auth login` (or set HF_TOKEN)",
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFound(
            f"{repo} has no revision {revision!r}", fix="name a branch, tag or commit of that model"
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"there is no model {repo} on the Hub, or it is private",
            fix="check the name; for a private model `hf auth login` (or set HF_TOKEN)",
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFound(
            f"{repo} is not on this machine and the Hub could not be reached "
            f"({type(error).__name__})",
            fix=(
                "fetch it on a machine with network (`hf download`), copy the folder here and "
                f"name it; HF_ENDPOINT names a mirror; {OFFLINE_VARIABLES[0]}=1 stops the attempts"
            ),
        ) from None


def _fetch_snapshot(repo: str, revision: str | None, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    folder: str = snapshot_download(
        repo,
        revision=revision,
        allow_patterns=_ALLOW_PATTERNS,
        ignore_patterns=_IGNORE_PATTERNS,
        **options,
    )
    return Path(folder)


def _request_repository(repo: str, revision: str | None, token: str | Literal[False]) -> None:
    """Request the Hub's entry of a model.

    The time limits of huggingface_hub do not include the search for the Hub's address, which
    takes 20 s or more if no name server answers. A thread cannot be stopped: this one is left
    behind, and does not keep the process from ending.

    Raises:
        EgressError: The network is blocked.
        HfHubHTTPError: The Hub refused the request.
        ConnectionError: The Hub could not be reached.
        TimeoutError: It did not answer within `_HUB_SECONDS`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    outcome: Queue[Exception | None] = Queue()

    def request() -> None:
        try:
            HfApi().model_info(repo, revision=revision, token=token, timeout=_HUB_SECONDS)
        except (HfHubHTTPError, EgressError) as error:
            outcome.put(error)
        except Exception as error:  # of the HTTP library, whose errors are not OSError
            outcome.put(ConnectionError(str(error)))
        else:
            outcome.put(None)

    Thread(target=request, daemon=True).start()
    try:
        error = outcome.get(timeout=_HUB_SECONDS)
    except Empty:
        raise TimeoutError(f"no answer within {_HUB_SECONDS} s") from None
    if error:
        raise error
