"""Checks of every request before it reaches a route: host, origin, user, CSRF token, rate, size.

Everything is refused that is not listed here or allowed by a route's `require`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit
from urllib.parse import quote as quote_url

import anyio
from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from medtask.errors import MedtaskError
from medtask.server.access.accounts import find_signed_in_user
from medtask.server.access.api_keys import find_user_of_key, mark_key_as_used
from medtask.server.access.audit_log import AuditEvent, AuditLog
from medtask.server.access.rate import RateLimiter
from medtask.server.access.requests import get_address
from medtask.server.access.roles import User
from medtask.server.access.secrets import make_csrf_token
from medtask.server.database.connect import Database
from medtask.server.problems import BodyTooLarge, NotPermitted, NotSignedIn, respond_to_problem
from medtask.server.rendering import prefers_page
from medtask.server.settings import ServerSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PUBLIC_PATHS = frozenset({"/health", "/sign-in"})
PUBLIC_PREFIXES = ("/static/", "/start/")
# Their bodies may have the size of an upload.
UPLOAD_PATHS = frozenset({"/api/datasets"})
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
_FORM_TYPE = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES = 65_536
_USE_INTERVAL_S = 3600.0

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # With "no-referrer", browsers send forms with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def get_cookie_name(settings: ServerSettings) -> str:
    # Browsers accept the prefix only for cookies that are sent over TLS to one host.
    return "__Host-medtask" if settings.is_encrypted else "medtask_session"


def is_public(path: str) -> bool:
    """Whether a path is answered without an account."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


class AccessGuard:
    """ASGI middleware that refuses requests; it sets ``user`` and ``csrf_token`` of their state."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, database: Database, audit_log: AuditLog
    ) -> None:
        self.app = app
        self._audit_log = audit_log
        self._recorded_uses: dict[str, float] = {}
        self._settings = settings
        self._database = database
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.host, *settings.allowed_hosts}
        self._requests = RateLimiter(settings.limits.requests_per_minute)
        self._sign_ins = RateLimiter(settings.limits.sign_ins_per_minute)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no websockets
        _remove_final_slash(scope)
        body = _BodyLimits(receive, self._settings, scope["path"])
        send = _add_headers(send, self._settings)
        request = Request(scope, body.receive)
        try:
            self._check_origin(request)
            body.check_declared_length(request)
            await self._identify(request, body)
        except MedtaskError as error:
            response = self._refuse(request, error)
            await response(scope, receive, send)
            return
        await self.app(scope, body.receive, send)

    def _check_origin(self, request: Request) -> None:
        """Refuse other host names (DNS rebinding), and changes that another site's page sends."""
        host = request.headers.get("host", "")
        name = urlsplit(f"//{host}").hostname if host else None
        if name not in self._hosts:
            raise NotPermitted(
                "this server does not answer to the host name of the request",
                fix="use the address that the server printed, or start it with --allow-host NAME",
            )
        if request.method in SAFE_METHODS:
            return
        origin = request.headers.get("origin")
        same = origin is None or urlsplit(origin).netloc == host
        site = request.headers.get("sec-fetch-site", "same-origin")
        if not same or site not in {"same-origin", "none"}:
            raise NotPermitted(
                "the request comes from a page of another site",
                fix="send it from this server's own pages, or outside a browser with an API key",
            )

    async def _identify(self, request: Request, body: _BodyLimits) -> None:
        """Find the user, and check rate and CSRF token."""
        state = request.scope.setdefault("state", {})
        token = request.cookies.get(get_cookie_name(self._settings))
        header = request.headers.get("authorization")
        user: User | None = None
        public = is_public(request.url.path)
        if header is not None or token is not None:
            try:
                user = await run_in_threadpool(self._find_user, header, token, get_address(request))
            except NotSignedIn:
                if not public:
                    self._requests.take(f"address {get_address(request)}")
                    raise
        if request.url.path == "/sign-in" and request.method not in SAFE_METHODS:
            self._sign_ins.take(get_address(request))
        self._requests.take(
            f"address {get_address(request)}" if user is None else user.key_id or user.id
        )
        if user is None and not public:
            raise NotSignedIn("this needs an account", fix="sign in, or send an API key")
        state["user"] = user
        if user is not None and header is None and token is not None:
            state["csrf_token"] = make_csrf_token(token)
            if request.method not in SAFE_METHODS:
                await _check_csrf_token(request, body, state["csrf_token"])

    def _find_user(self, header: str | None, token: str | None, address: str) -> User:
        with self._database.read() as session:
            if header is None:
                return find_signed_in_user(session, token or "")
            kind, _, key = header.partition(" ")
            user = find_user_of_key(session, key.strip() if kind.lower() == "bearer" else "")
        if user.key_id is not None:
            self._record_use(user, user.key_id, address)
        return user

    def _record_use(self, user: User, key_id: str, address: str) -> None:
        """Record that a key is used: once an hour, because every request uses one."""
        now = time.monotonic()
        if now - self._recorded_uses.get(key_id, -_USE_INTERVAL_S) < _USE_INTERVAL_S:
            return
        self._recorded_uses[key_id] = now
        with self._database.write() as session:
            mark_key_as_used(session, key_id)
            event = AuditEvent(user.id, user.role.label, "key.use", key_id, address=address)
            self._audit_log.record(session, event)

    def _refuse(self, request: Request, error: MedtaskError) -> Response:
        navigates = request.method == "GET" and prefers_page(request)
        if not isinstance(error, NotSignedIn) or not navigates:
            return respond_to_problem(request, error)
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?next={quote_url(target)}", status_code=303)


async def _check_csrf_token(request: Request, body: _BodyLimits, expected: str) -> None:
    given = request.headers.get(CSRF_HEADER, "")
    if not given and request.headers.get("content-type", "").startswith(_FORM_TYPE):
        fields = parse_qs((await body.read_form()).decode("utf-8", "replace"))
        given = fields.get(CSRF_FIELD, [""])[0]
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise NotPermitted(
            "the request has no valid CSRF token",
            fix=f"reload the page; a script sends it as {CSRF_HEADER}, or an API key instead",
        )


class _BodyLimits:
    """Receives the body of a request, within the limits of size and time."""

    def __init__(self, receive: Receive, settings: ServerSettings, path: str) -> None:
        limits = settings.limits
        self._receive = receive
        self._max_bytes = limits.upload_bytes if path in UPLOAD_PATHS else limits.body_bytes
        self._seconds = limits.body_seconds
        self._received = 0
        self._complete = False
        self._replayed: list[Message] = []

    def check_declared_length(self, request: Request) -> None:
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise BodyTooLarge(
                f"the body is longer than {self._max_bytes:,} bytes", fix="send less at once"
            )

    async def receive(self) -> Message:
        if self._replayed:
            return self._replayed.pop(0)
        if self._complete:
            return await self._receive()
        try:
            with anyio.fail_after(self._seconds):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "the body did not arrive in time") from error
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._received > self._max_bytes:
            raise HTTPException(413, f"the body is longer than {self._max_bytes:,} bytes")
        return message

    async def read_form(self) -> bytes:
        """Read a form, and keep it for the route."""
        messages, size = [], 0
        while not self._complete and size <= _MAX_FORM_BYTES:
            message = await self.receive()
            messages.append(message)
            size += len(message.get("body", b""))
        if size > _MAX_FORM_BYTES:
            raise BodyTooLarge(
                f"the form is longer than {_MAX_FORM_BYTES:,} bytes",
                fix=f"send the CSRF token as the header {CSRF_HEADER}",
            )
        self._replayed = messages
        return b"".join(message.get("body", b"") for message in messages)


def _remove_final_slash(scope: AsgiScope) -> None:
    path = scope["path"]
    if len(path) > 1 and path.endswith("/"):
        scope["path"] = path.rstrip("/") or "/"
        if scope.get("raw_path"):
            scope["raw_path"] = scope["raw_path"].rstrip(b"/") or b"/"


def _add_headers(send: Send, settings: ServerSettings) -> Send:
    """Add the headers that a response does not have itself."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if settings.is_encrypted:
                headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        await send(message)

    return send_with_headers
