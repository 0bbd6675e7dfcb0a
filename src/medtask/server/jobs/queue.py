"""The queue of jobs in the database: leases, heartbeats and fencing tokens.

A worker leases a job for some seconds and renews the lease while it works. A job whose lease ran
out is leased again, by any worker. Every lease has a higher token, and every write of a worker
names its token: a worker that was suspended past its lease can write nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from medtask.server.database.base import get_utc_now
from medtask.server.database.connect import Database
from medtask.server.jobs.messages import make_problem
from medtask.server.jobs.tables import (
    CANCELLED,
    ENDED_STATES,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Job,
    JobLine,
)

DEFAULT_LEASE_S = 30.0
MAX_LINE_LENGTH = 2000
_CANCELLED_BEFORE_START = "cancelled before it was started"


# Writes to other tables in the transaction that ends a job; returns what its result gets.
Publisher = Callable[[Session], Mapping[str, Any] | None]


class LeaseLost(Exception):
    """Another worker has the job, or it has ended: nothing may be written any more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job until the lease runs out."""

    job_id: int
    token: int
    kind: str
    parameters: Mapping[str, Any]
    created_by: str


def read_database_time(session: Session) -> datetime:
    """The time by the database's clock, which all workers share."""
    if session.get_bind().dialect.name == "postgresql":
        now: datetime = session.scalars(select(func.clock_timestamp())).one()
        return now.astimezone(UTC)
    return get_utc_now()


def add_job(
    session: Session, kind: str, parameters: Mapping[str, Any], *, created_by: str = ""
) -> Job:
    """Add a job to the queue; it is started once the session is committed."""
    now = read_database_time(session)
    job = Job(
        kind=kind,
        parameters=dict(parameters),
        state=QUEUED,
        created_by=created_by,
        created_at=now,
        available_at=now,
    )
    session.add(job)
    session.flush()
    return job


def request_cancel(session: Session, job: Job) -> None:
    """Cancel a queued job, or ask the worker of a running one to stop."""
    session.execute(
        update(Job)
        .where(Job.id == job.id, Job.state == QUEUED)
        .values(
            state=CANCELLED,
            cancel_requested=True,
            ended_at=read_database_time(session),
            problem=make_problem("Cancelled", _CANCELLED_BEFORE_START, "start it again"),
        )
    )
    session.execute(
        update(Job).where(Job.id == job.id, Job.state == RUNNING).values(cancel_requested=True)
    )
    session.flush()
    session.refresh(job)


class JobQueue:
    """The queue as a worker uses it. Every method is one transaction.

    Args:
        database: The database.
        worker: The name of the worker, such as "host:pid".
        lease_s: Seconds for which a job is leased.
    """

    def __init__(
        self, database: Database, worker: str, *, lease_s: float = DEFAULT_LEASE_S
    ) -> None:
        self.database = database
        self.worker = worker
        self.lease_s = lease_s

    def lease(self) -> Lease | None:
        """Lease the oldest job that is queued or whose lease ran out; None if there is none."""
        with self.database.read() as session:  # an idle worker does not block writers
            if session.scalar(_select_free(read_database_time(session))) is None:
                return None
        with self.database.write() as session:
            now = read_database_time(session)
            oldest = _select_free(now).with_for_update(skip_locked=True)
            # The condition is repeated: on PostgreSQL another worker can commit between both.
            row = session.execute(
                update(Job)
                .where(Job.id == oldest.scalar_subquery(), _is_free(now))
                .values(
                    state=RUNNING,
                    token=Job.token + 1,
                    worker=self.worker,
                    started_at=func.coalesce(Job.started_at, now),
                    heartbeat_at=now,
                    lease_until=now + timedelta(seconds=self.lease_s),
                )
                .returning(Job.id, Job.token, Job.kind, Job.parameters, Job.created_by)
                .execution_options(synchronize_session=False)
            ).first()
        return None if row is None else Lease(*row)

    def renew(self, lease: Lease) -> None:
        """Renew a lease. Raises LeaseLost if another worker has the job."""
        with self.database.write() as session:
            now = read_database_time(session)
            self._write(
                session,
                lease,
                heartbeat_at=now,
                lease_until=now + timedelta(seconds=self.lease_s),
            )

    def is_cancelled(self, lease: Lease) -> bool:
        """Whether the job shall stop. Raises LeaseLost if another worker has the job."""
        with self.database.read() as session:
            found = session.execute(select(Job.cancel_requested).where(*_own(lease))).first()
        if found is None:
            raise LeaseLost
        return bool(found[0])

    def write_progress(
        self, lease: Lease, progress: Mapping[str, Any] | None, lines: Sequence[str]
    ) -> None:
        """Store the last progress and add lines to the log. Raises LeaseLost as `renew` does."""
        with self.database.write() as session:
            values = {} if progress is None else {"progress": dict(progress)}
            self._write(session, lease, **values, worker=self.worker)
            now = read_database_time(session)
            session.add_all(
                JobLine(job_id=lease.job_id, written_at=now, text=line[:MAX_LINE_LENGTH])
                for line in lines
            )

    @contextmanager
    def _end(self, lease: Lease, state: str, **values: Any) -> Iterator[Session]:
        """End the job; what the block writes is committed together with it, or not at all."""
        with self.database.write() as session:
            self._write(
                session,
                lease,
                state=state,
                ended_at=read_database_time(session),
                lease_until=None,
                **values,
            )
            yield session

    def succeed(self, lease: Lease, result: Mapping[str, Any], publish: Publisher) -> None:
        """End the job with a result."""
        with self._end(lease, SUCCEEDED, result=dict(result), problem=None) as session:
            _publish(session, lease, result, publish)

    def fail(
        self,
        lease: Lease,
        problem: Mapping[str, str],
        publish: Publisher,
        *,
        cancelled: bool = False,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """End the job without success, with the reason and what there is of a result."""
        state = CANCELLED if cancelled else FAILED
        values = {"problem": dict(problem), "result": None if result is None else dict(result)}
        with self._end(lease, state, **values) as session:
            _publish(session, lease, result or {}, publish)

    def release(self, lease: Lease, *, delay_s: float = 0.0, crashed: bool = False) -> None:
        """Put the job back into the queue."""
        with self.database.write() as session:
            now = read_database_time(session)
            self._write(
                session,
                lease,
                state=QUEUED,
                worker="",
                lease_until=None,
                available_at=now + timedelta(seconds=delay_s),
                crashes=Job.crashes + int(crashed),
            )

    def count_crashes(self, lease: Lease) -> int:
        """The number of processes of this job that ended without a result."""
        with self.database.read() as session:
            return session.scalars(select(Job.crashes).where(Job.id == lease.job_id)).one()

    def _write(self, session: Session, lease: Lease, **values: Any) -> None:
        written = session.execute(
            update(Job)
            .where(*_own(lease))
            .values(**values)
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        ).first()
        if written is None:
            raise LeaseLost


def _publish(session: Session, lease: Lease, result: Mapping[str, Any], publish: Publisher) -> None:
    if added := publish(session):
        session.execute(
            update(Job).where(Job.id == lease.job_id).values(result={**result, **added})
        )


def _is_free(now: datetime) -> ColumnElement[bool]:
    return or_(
        and_(Job.state == QUEUED, Job.available_at <= now),
        and_(Job.state == RUNNING, Job.lease_until < now),
    )


def _select_free(now: datetime) -> Select[int]:
    return select(Job.id).where(_is_free(now)).order_by(Job.id).limit(1)


def _own(lease: Lease) -> tuple[Any, ...]:
    return (Job.id == lease.job_id, Job.token == lease.token, Job.state == RUNNING)


def is_ended(job: Job) -> bool:
    """Whether the job has succeeded, failed or been cancelled."""
    return job.state in ENDED_STATES
