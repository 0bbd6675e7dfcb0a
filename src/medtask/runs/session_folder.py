"""The folder of a session: found or created, locked, and checked to belong to this work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtask.display import format_count
from medtask.engines.base import Engine
from medtask.errors import RunLocked, StorageError
from medtask.prediction.predictor import check_engines, load_pass_engines
from medtask.prediction.prompt_versions import match_prompts
from medtask.runs.batch_sizes import apply_batch_size
from medtask.runs.folder import create_run_folder, find_runs, open_run_folder, open_runs_folder
from medtask.runs.ledger import Ledger
from medtask.runs.lock import lock_run
from medtask.runs.manifest import (
    continue_manifest,
    create_manifest,
    identify_model,
    identify_task,
    read_manifest,
    refuse_mismatch,
    write_manifest,
)
from medtask.runs.session_request import SessionRequest
from medtask.runs.table_change import (
    MOVE_MARK,
    TableChange,
    explain_refusal,
    find_table_change,
    ignore_table,
    move_answers,
    record_table_change,
)

_MAX_COMPARED_RUNS = 3  # their ledgers are compared with the table, newest first


@dataclass(frozen=True, slots=True)
class SessionFolder:
    """The locked folder of a session, and its models.

    Attributes:
        path: The folder.
        request: The request, with the prompts that its models were trained on.
        engine: The model.
        pass_engines: The models of further passes, by their references.
        identity: The facts that were compared with those of the folder.
        change: How the table differs from that of the run; None if it does not.
        hint: A note about an earlier run whose answers could be used; "" without one.
    """

    path: Path
    request: SessionRequest
    engine: Engine
    pass_engines: Mapping[str, Engine]
    identity: Mapping[str, str]
    change: TableChange | None = None
    hint: str = ""


def open_session_folder(
    request: SessionRequest, model: Engine | Callable[[], Engine], stack: ExitStack
) -> SessionFolder:
    """Open the folder and load the models; ``stack`` closes and unlocks them."""
    hint = ""
    if request.out is not None:
        # Loading a model can take minutes, so the folder is locked and checked first.
        folder = open_run_folder(request.out, new_run=request.new_run)
        stack.enter_context(lock_run(folder, force=request.force_lock))
        change = _check_folder(request, folder, _identify(request))
        request, engine, pass_engines = _load_engines(request, model, stack)
        identity = _identify(request) | identify_model(engine, pass_engines)
        compared = ignore_table(identity, identity) if change else identity
        refuse_mismatch(folder, compared, request.mismatch_fix)
        return SessionFolder(folder, request, engine, pass_engines, identity, change)
    runs_folder = open_runs_folder(request.task)
    request, engine, pass_engines = _load_engines(request, model, stack)
    identity = _identify(request) | identify_model(engine, pass_engines)
    found, change = None, None
    if not request.new_run:
        found, change, hint = _find_run(request, runs_folder, identity, stack)
    if found is None:
        folder = create_run_folder(runs_folder)
        stack.enter_context(lock_run(folder))
    else:
        folder = found
    return SessionFolder(folder, request, engine, pass_engines, identity, change, hint)


def open_manifest(opened: SessionFolder) -> tuple[dict[str, Any], Mapping[str, int]]:
    """Write this session's manifest, and return it with the counts of the session before.

    It is written at once, to mark the folder as belonging to this run.
    """
    request, before = opened.request, read_manifest(opened.path) or {}
    engines = (opened.engine, opened.pass_engines)
    batch = apply_batch_size(request.task, opened.engine, before or None)
    manifest = create_manifest(*engines, opened.identity) | dict(request.manifest_facts) | batch
    if before:
        continue_manifest(manifest, before)
    if opened.change:
        record_table_change(manifest, before, opened.change)
        if opened.change.must_move:
            manifest[MOVE_MARK] = True
    write_manifest(opened.path, manifest)
    return manifest, {} if opened.change else before.get("counts", {})


def apply_table_change(opened: SessionFolder, ledger: Ledger, manifest: dict[str, Any]) -> None:
    """Move the answers to the rows of a changed table. A killed move is done again."""
    if opened.change and opened.change.must_move:
        move_answers(ledger, opened.request)
        del manifest[MOVE_MARK]
        write_manifest(opened.path, manifest)


def _find_run(
    request: SessionRequest, runs_folder: Path, identity: Mapping[str, str], stack: ExitStack
) -> tuple[Path | None, TableChange | None, str]:
    """Find and lock the run to resume; ``stack`` unlocks it.

    Returns:
        The run, the change of its table, and a hint about another run whose answers could be used.
    """
    same = find_runs(runs_folder, lambda facts: (facts, identity))
    if same:
        stack.enter_context(lock_run(same[0], force=request.force_lock))
        return same[0], _check_folder(request, same[0], identity), ""
    if request.read_table is None:
        return None, None, ""
    similar = find_runs(
        runs_folder,
        lambda facts: (ignore_table(facts, identity), ignore_table(identity, identity)),
    )
    hint = ""
    for folder in similar[:_MAX_COMPARED_RUNS]:
        with ExitStack() as lock, suppress(StorageError):  # such a run cannot be resumed
            in_use = _try_lock(folder, request, lock)
            change = find_table_change(request, folder, identity, read_only=bool(in_use))
            if change is None or explain_refusal(folder, change, request, identity):
                continue
            is_same_file = change.keeps_most and (
                _get_source(read_manifest(folder) or {}) == _get_source(request.manifest_facts)
            )
            if change.keeps_all or is_same_file:
                if in_use:
                    raise in_use
                stack.enter_context(lock.pop_all())
                return folder, change, ""
            found = change.comparison
            hint = hint or (
                f"{found.kept:,} of the {format_count(found.rows, 'row')} have an answer in "
                f"{folder}: with --out {folder} that run gets this table, and they are not asked "
                "again"
            )
    return None, None, hint


def _try_lock(folder: Path, request: SessionRequest, stack: ExitStack) -> RunLocked | None:
    """Lock a folder, or return the error if another process uses it."""
    try:
        stack.enter_context(lock_run(folder, force=request.force_lock))
    except RunLocked as error:
        return error
    return None


def _get_source(manifest: Mapping[str, Any]) -> str:
    """The name of the table's file."""
    return Path(str(manifest.get("data", {}).get("source"))).name


def _check_folder(
    request: SessionRequest, folder: Path, identity: Mapping[str, str]
) -> TableChange | None:
    """The change of the table. Raises RunMismatch if the folder belongs to other work."""
    change = find_table_change(request, folder, identity)
    if change is None:
        refuse_mismatch(folder, identity, request.mismatch_fix)
    elif refusal := explain_refusal(folder, change, request, identity):
        raise refusal
    return change


def _load_engines(
    request: SessionRequest, model: Engine | Callable[[], Engine], stack: ExitStack
) -> tuple[SessionRequest, Engine, dict[str, Engine]]:
    """The request with the prompts of its models, the model, and those of further passes.

    ``stack`` closes the models that are loaded here.
    """
    engine = model if isinstance(model, Engine) else stack.enter_context(closing(model()))
    if request.pass_engines is None:
        pass_engines = load_pass_engines(request.task, allow_remote=request.allow_remote)
        for pass_engine in pass_engines.values():
            stack.callback(pass_engine.close)
    else:
        pass_engines = dict(request.pass_engines)
    if request.check_model:
        request.check_model(engine)
    check_engines(request.task, engine, pass_engines)
    matched = match_prompts(request.task, engine, pass_engines)
    return replace(request, task=matched), engine, pass_engines


def _identify(request: SessionRequest) -> dict[str, str]:
    return identify_task(request.task, request.data_digest) | dict(request.identity_facts)
