"""The routers of all pages."""

from __future__ import annotations

from fastapi import APIRouter

from medtask.server.pages import (
    account_pages,
    datasets,
    jobs,
    leaderboard,
    models,
    review_pages,
    runs,
    sign_in,
    start,
    stylesheet,
    tasks,
)

PAGE_ROUTERS: tuple[APIRouter, ...] = (
    stylesheet.router,
    sign_in.router,
    start.router,
    tasks.router,
    datasets.router,
    models.router,
    runs.router,
    review_pages.router,
    leaderboard.router,
    jobs.router,
    account_pages.router,
)
