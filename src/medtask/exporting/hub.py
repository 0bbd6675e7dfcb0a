"""Export to a repository of the Hugging Face Hub; nothing is sent before the model was compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medtask.engines.base import Engine
from medtask.engines.model_metadata import METADATA_FILE
from medtask.engines.registry import load_model
from medtask.errors import EngineError, MedtaskError, UsageError
from medtask.exporting.merged import write_merged
from medtask.exporting.source import CausalModel, ExportSource
from medtask.exporting.targets import ExportRequest
from medtask.exporting.trained_copy import copy_trained
from medtask.privacy import OFFLINE_VARIABLES, is_offline

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`: first it is checked whether the model may be sent at all."""
    _check_permission(request)
    if request.source.engine == "hf":
        with CausalModel(request.source) as model:
            write_merged(model, draft)
    else:
        _copy_trained(request.source, draft)
    return ()


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`: the comparison of answers reads all that this target writes."""
    return []


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`."""
    is_language_model = not (draft / METADATA_FILE).is_file()
    return load_model(str(draft), dtype="float32" if is_language_model else "auto")


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`: send the published folder, with its card and its hashes.

    Raises:
        EngineError: The Hub refuses it, or cannot be reached; the folder stays where it is.
    """
    from huggingface_hub import HfApi, get_token

    api, repository = HfApi(token=get_token() or False), request.register
    try:
        api.create_repo(repository, private=not request.public, exist_ok=True)
        if not request.public and not api.model_info(repository).private:
            raise UsageError(
                f"{repository} is public, and the model was to be private; nothing was sent",
                fix=f"add --public, or name another repository; the export is in {path}",
            )
        commit: Any = api.upload_folder(
            repo_id=repository,
            folder_path=path,
            commit_message=f"Model exported by medtask: {request.name}",
        )
    except MedtaskError:
        raise
    except Exception as error:  # errors of the Hub, of the transport and of the file system
        status = getattr(getattr(error, "response", None), "status_code", "")
        raise EngineError(
            f"the export was written to {path}, but not sent to {repository}: "
            f"{type(error).__name__} {status}".rstrip(),
            fix=f"`hf auth login` (or set HF_TOKEN), then `hf upload {repository} {path}`",
        ) from None
    visible = "public" if request.public else "private"
    return (f"sent to the Hub as {repository} ({visible}): {commit.commit_url}",)


def _check_permission(request: ExportRequest) -> None:
    """Raise UsageError unless the model may be sent to another machine."""
    if not _REPOSITORY.fullmatch(request.register):
        raise UsageError(
            "--to hub needs the name of a repository", fix="add --register ORGANISATION/NAME"
        )
    if is_offline():
        raise UsageError(
            "nothing is sent from this machine, because it is set to be offline",
            fix=f"unset {', '.join(OFFLINE_VARIABLES)} for this command",
        )
    phi = request.source.phi
    if phi != "no" and not request.acknowledge_phi:
        learnt = "learnt" if phi == "yes" else "may have learnt"
        raise UsageError(
            f"{request.source.name} {learnt} from texts of patients, and can repeat parts of them",
            fix="keep it on your own machines; where your institution allows it to be sent, add "
            "--acknowledge-phi",
        )


def _copy_trained(source: ExportSource, folder: Path) -> None:
    if source.metadata is None or source.folder is None:
        raise UsageError(
            f"{source.reference} was not trained here, so there is nothing new to send",
            fix="train a model from it, or name a language model",
        )
    copy_trained(source.folder, folder)
