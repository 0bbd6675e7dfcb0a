"""Requests of users with a transaction, and what they do with the objects of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from medtask.server.access.audit_log import record_action
from medtask.server.access.requests import require
from medtask.server.access.roles import Role, User
from medtask.server.api.resources import Row, get_files, get_row
from medtask.server.database.connect import open_reading_session, open_writing_session
from medtask.server.jobs.kind import find_model_reference
from medtask.server.jobs.queue import add_job
from medtask.server.jobs.tables import QUEUED, Job
from medtask.server.objects import OBJECT_KINDS, delete_object, find_active_job, find_working_job
from medtask.server.problems import Conflict, TooManyRequests
from medtask.server.rendering import render_page
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredModel
from medtask.server.storage.task_files import check_model_reference


@dataclass(frozen=True, slots=True)
class UserCall:
    """A request of a user who may make it.

    Attributes:
        session: A transaction; it ends before the response is sent.
    """

    request: Request
    session: Session
    user: User

    @property
    def files(self) -> DataFolder:
        return get_files(self.request)

    def get(self, table: type[Row], number: int) -> Row:
        """The object with an id. Raises NotFound if there is none."""
        return get_row(self.session, table, number)

    def render(
        self, name: str, values: Mapping[str, Any] | None = None, *, reloads: bool = False
    ) -> Response:
        """Render a page, or a part of one that replaces itself while a job runs.

        Args:
            name: The template.
            values: Its values.
            reloads: Whether the browser loads the whole page again, because other parts of it have
                changed too.
        """
        headers = {"HX-Refresh": "true"} if reloads else None
        return render_page(self.request, name, values, headers=headers)

    def record(self, action: str, object_id: object, *, outcome: str = "ok") -> None:
        """Record an action in the audit log, in the transaction of the action."""
        record_action(self.request, self.session, action, str(object_id), outcome=outcome)

    def delete(self, row: Any) -> None:
        """Delete an object with its files, unless a job works on it, and record it.

        Raises:
            Conflict: A job works on it.
        """
        self.refuse_working_job(row)
        delete_object(self.session, self.files, row)
        self.record(f"{OBJECT_KINDS[type(row)].name}.delete", row.id)

    def check_model(self, model: int | str) -> None:
        """Raise NotFound, InputError or UsageError if a model cannot be used by a job."""
        if isinstance(model, int):
            self.get(StoredModel, model)
            find_model_reference(self.session, self.files, model)
        else:
            check_model_reference(model)

    def refuse_active_job(self, row: Any) -> None:
        """Raise Conflict if the last job of an object has not ended."""
        self._refuse(find_active_job(self.session, row), row)

    def refuse_working_job(self, row: Any) -> None:
        """Raise Conflict if a job that has not ended works on an object, or reads it."""
        self._refuse(find_working_job(self.session, row), row)

    def _refuse(self, job: Job | None, row: Any) -> None:
        if job:
            raise Conflict(
                f"job {job.id} works on this {OBJECT_KINDS[type(row)].noun}",
                fix=f"wait until it has ended, or cancel it: POST /api/jobs/{job.id}/cancel",
            )

    def start_job(
        self, kind: str, parameters: Mapping[str, Any], action: str, object_id: int | None = None
    ) -> Job:
        """Add a job to the queue, and record the action.

        Args:
            kind: The kind of the job.
            parameters: Ids of objects, and settings.
            action: The action in the audit log.
            object_id: What it is about; default: the job.

        Raises:
            TooManyRequests: The user has as many waiting jobs as the server allows.
        """
        waiting = self.session.scalars(
            select(func.count()).where(Job.state == QUEUED, Job.created_by == self.user.name)
        ).one()
        if waiting >= self.request.app.state.settings.limits.queue_length:
            raise TooManyRequests(
                f"{waiting} of your jobs wait already",
                fix="wait until some have ended, or cancel them: GET /api/jobs?state=queued",
                retry_after_s=60,
            )
        job = add_job(self.session, kind, parameters, created_by=self.user.name)
        self.record(action, job.id if object_id is None else object_id)
        return job


def _permit(role: Role, open_session: Callable[..., Any]) -> Any:
    """A dependency that returns the call of a user with a role."""

    async def make_call(  # in the event loop: a plain function would wait for a thread
        request: Request,
        user: User = Depends(require(role)),  # noqa: B008
        session: Session = Depends(open_session, scope="function"),  # noqa: B008
    ) -> UserCall:
        return UserCall(request, session, user)

    return Depends(make_call)


ViewerReads = Annotated[UserCall, _permit(Role.VIEWER, open_reading_session)]
ReviewerReads = Annotated[UserCall, _permit(Role.REVIEWER, open_reading_session)]
TrainerReads = Annotated[UserCall, _permit(Role.TRAINER, open_reading_session)]
AdminReads = Annotated[UserCall, _permit(Role.ADMIN, open_reading_session)]
ViewerWrites = Annotated[UserCall, _permit(Role.VIEWER, open_writing_session)]
ReviewerWrites = Annotated[UserCall, _permit(Role.REVIEWER, open_writing_session)]
TrainerWrites = Annotated[UserCall, _permit(Role.TRAINER, open_writing_session)]
AdminWrites = Annotated[UserCall, _permit(Role.ADMIN, open_writing_session)]
