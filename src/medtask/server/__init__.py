"""The server: API, pages, review, jobs and accounts."""
