"""Sends one HTTP call to a checked address, with a deadline and a size limit.

`ServerUnavailable`, `RequestTimeout`, `ServerBusy` and `InvalidResponse` may be retried;
`RequestRejected` may not. Errors that end a run (a wrong key, a redirect) are a UsageError or an
EngineError. No exception contains text of a request or a response: at most a status and an error
code that is a single word.
"""

from __future__ import annotations

import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio
import httpcore2

from medtask.engines.http.endpoint import Endpoint
from medtask.errors import EngineError, UsageError

T = TypeVar("T")

MAX_BODY_BYTES = 32 * 1024 * 1024
_CONNECT_S = 10.0
_IDLE_S = 4.0  # uvicorn closes idle connections after 5 s, and a call sent at that moment is lost
_TOO_LONG_MESSAGE = re.compile(
    r"context[ _-]?(length|size|window|limit)|maximum "
    r"(context|input|prompt|sequence)|(prompt|input|request) (is )?too (long|large)"
    r"|too many (input )?tokens|exceed\w* the (available |model'?s? )?context|input length "
    r"exceeds|exceed_context_size|tokens. must be <=",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,48}")
# A UUID, because llama-cpp-python's server rejects any other x-request-id; its first bytes,
# "medtas", distinguish it from the ids of servers.
_REQUEST_ID_PREFIX = b"medtas"
_REQUEST_ID = re.compile(r"6d656474-6173-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class RetryableError(Exception):
    """A failed call that may be retried. ``wait_s``: seconds to wait, if the server requests it."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class ServerUnavailable(RetryableError):
    """The server, or the connection to it, failed."""


class RequestTimeout(RetryableError):
    """No complete answer arrived before the deadline."""


class ServerBusy(RetryableError):
    """The server requests fewer calls."""


class InvalidResponse(RetryableError):
    """The answer is not valid for this request. ``reason`` contains no text of a record."""


class RequestRejected(EngineError):
    """The server rejects this request permanently. ``too_long``: because of its length."""

    def __init__(self, status: int, code: str | None, *, too_long: bool = False) -> None:
        super().__init__(
            f"the server refused a request: HTTP {status}" + (f" ({code})" if code else ""),
            fix=(
                "see the server's log for its message, which is not repeated here because it may "
                "hold text of a record"
            ),
        )
        self.status, self.code, self.too_long = status, code, too_long

    @property
    def reason(self) -> str:
        return f"refused by the server: HTTP {self.status}" + (
            f" ({self.code})" if self.code else ""
        )


def open_pool(endpoint: Endpoint, connections: int) -> httpcore2.AsyncConnectionPool:
    """A connection pool for one server. httpcore2 has no proxies, cookies, redirects or .netrc.

    Certificates are checked against the system's authorities, or those of SSL_CERT_FILE.
    """
    context = httpcore2.default_ssl_context() if endpoint.url.startswith("https://") else None
    return httpcore2.AsyncConnectionPool(
        ssl_context=context,
        max_connections=connections,
        keepalive_expiry=_IDLE_S,
        network_backend=_PinnedBackend(endpoint),
    )


class _PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects only to the endpoint's checked addresses, regardless of a request's host."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tcp = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        for address in self._endpoint.addresses[:-1]:
            try:
                return await self._tcp.connect_tcp(
                    address, self._endpoint.port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue  # localhost is ::1 and 127.0.0.1; most servers listen on one of them
        last = self._endpoint.addresses[-1]
        return await self._tcp.connect_tcp(
            last, self._endpoint.port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


async def send_request(
    pool: httpcore2.AsyncConnectionPool,
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any] | None,
    deadline_s: float,
) -> Any:
    """Return the JSON value of the response to a POST of ``body``, or to a GET if it is None."""
    request_id = _make_request_id()
    async with _open_response(pool, endpoint, path, body, deadline_s, request_id) as response:
        value = _parse_json(await _read_body(response), response)
    if isinstance(value, dict):
        _check_request_id(request_id, value.get("id"), response)
    return value


async def stream_events(
    pool: httpcore2.AsyncConnectionPool,
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    deadline_s: float,
    on_event: Callable[[Any], None],
) -> None:
    """POST ``body`` and pass each JSON value of the response to ``on_event``: server-sent events,
    or one value per line.
    """
    request_id = _make_request_id()
    async with _open_response(pool, endpoint, path, body, deadline_s, request_id) as response:
        is_event_stream = _get_header(response, "content-type").startswith("text/event-stream")
        async for line in _iter_lines(response):
            if is_event_stream and not line.startswith(b"data:"):
                continue  # names, ids and comments of events
            text = line.removeprefix(b"data:").strip() if is_event_stream else line.strip()
            if is_event_stream and text == b"[DONE]":
                return
            if text:
                value = _parse_json(text, response)
                if isinstance(value, dict):
                    _check_request_id(request_id, value.get("id"), response)
                on_event(value)


@asynccontextmanager
async def _open_response(
    pool: httpcore2.AsyncConnectionPool,
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any] | None,
    deadline_s: float,
    request_id: str,
) -> AsyncIterator[httpcore2.Response]:
    """Yield a 2xx response with an unread body; the deadline applies to the whole block."""
    url = endpoint.build_url(path)
    headers = {
        "host": url.partition("://")[2].partition("/")[0],
        "user-agent": "medtask",
        "accept": "application/json, text/event-stream, application/x-ndjson",
        "accept-encoding": "identity",
        "x-request-id": request_id,  # random; vLLM and others use it as the id of their answer
        **endpoint.build_auth_headers(),
    }
    content = None
    if body is not None:
        # In ASCII: half of a surrogate pair is not valid UTF-8.
        content = json.dumps(body, allow_nan=False).encode()
        headers["content-type"] = "application/json"
    timeouts = {"timeout": {"connect": min(_CONNECT_S, deadline_s)}}
    try:
        with anyio.fail_after(deadline_s):
            verb = "GET" if body is None else "POST"
            async with pool.stream(
                verb, url, headers=list(headers.items()), content=content, extensions=timeouts
            ) as response:
                if not 200 <= response.status < 300:
                    raise _classify_status(response, await _read_body(response), endpoint)
                yield response
    except (TimeoutError, httpcore2.TimeoutException):
        raise RequestTimeout(f"no complete answer within {deadline_s:g} seconds") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise _classify_connection_error(error, endpoint) from None


def _classify_status(response: httpcore2.Response, content: bytes, endpoint: Endpoint) -> Exception:
    """The exception for a status other than 2xx."""
    status = response.status
    code, too_long = _parse_error(content)
    label = f"HTTP {status}" + (f" ({code})" if code else "")
    if status < 400:
        return UsageError(
            f"the server redirects (HTTP {status}), which is not followed",
            fix="name the new address",
        )
    if status in {401, 403}:
        name = endpoint.api_key_variable
        state = "set" if endpoint.build_auth_headers() else "not set"
        fix = (
            f"put the server's key into the environment variable {name} (it is {state})"
            if name
            else "check which access the server requires"
        )
        return EngineError(f"the server denies access: {label}", fix=fix)
    if status == 402 or code == "insufficient_quota":
        return EngineError(
            f"the account has no quota left: {label}",
            fix="raise the quota with the provider, then run the same command again",
        )
    if too_long or status == 413:
        return RequestRejected(status, code, too_long=True)
    if status in {429, 529}:
        return ServerBusy(label, wait_s=_parse_retry_after(response))
    if status in {408, 409, 425} or (status >= 500 and status not in {501, 505}):
        return ServerUnavailable(label, wait_s=_parse_retry_after(response))
    return RequestRejected(status, code)


def _parse_error(content: bytes) -> tuple[str | None, bool]:
    """(error code, whether the prompt was too long), from the body of a response."""
    text = content[:65536].decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None, False
    error = value.get("error", value) if isinstance(value, dict) else value
    too_long = _TOO_LONG_MESSAGE.search(json.dumps(error)) is not None
    words = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
    return next(
        (word for word in words if isinstance(word, str) and _CODE.fullmatch(word)), None
    ), too_long


def _parse_retry_after(response: httpcore2.Response) -> float | None:
    """Seconds of the header Retry-After (RFC 9110, 10.2.3: a number or a date), or of OpenAI's more
    precise retry-after-ms.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = _get_header(response, name)
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            return float(text) * unit
    try:
        then = parsedate_to_datetime(_get_header(response, "retry-after"))
        # Relative to the server's clock if it is given: the local one may be wrong.
        date = _get_header(response, "date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _classify_connection_error(error: Exception, endpoint: Endpoint) -> Exception:
    """The exception for a failed connection, without the library's message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return EngineError(
                f"the certificate of {endpoint.host} cannot be trusted (code {cause.verify_code})",
                fix=(
                    "if your institution has its own certificate authority, name its file in "
                    "SSL_CERT_FILE"
                ),
            )
        if isinstance(cause, ssl.SSLError):
            return ServerUnavailable("the encrypted connection could not be made")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore2.ConnectError):
        return ServerUnavailable("no connection could be made")
    return ServerUnavailable("the connection broke off")


async def _read_body(response: httpcore2.Response) -> bytes:
    return b"".join([part async for part in _iter_chunks(response)])


async def _iter_lines(response: httpcore2.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for part in _iter_chunks(response):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    yield rest


async def _iter_chunks(response: httpcore2.Response) -> AsyncIterator[bytes]:
    size = 0
    if _get_header(response, "content-encoding") not in {"", "identity"}:
        raise InvalidResponse("it is compressed, which was not requested")
    async for part in response.aiter_stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise InvalidResponse(f"it is larger than {MAX_BODY_BYTES // 2**20} MB")
        yield part


def _parse_json(content: bytes, response: httpcore2.Response) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        kind = (
            "HTML"
            if "html" in _get_header(response, "content-type") or content.lstrip()[:1] == b"<"
            else "not complete JSON"
        )
        raise InvalidResponse(f"it is {kind}") from None


def _get_header(response: httpcore2.Response, name: str) -> str:
    return next(
        (
            value.decode("latin-1").strip().lower()
            for key, value in response.headers
            if key.lower() == name.encode()
        ),
        "",
    )


def _make_request_id() -> str:
    random_bytes = uuid.uuid4().bytes[len(_REQUEST_ID_PREFIX) :]
    return str(uuid.UUID(bytes=_REQUEST_ID_PREFIX + random_bytes, version=4))


def _check_request_id(request_id: str, response_id: object, response: httpcore2.Response) -> None:
    """Raise InvalidResponse if the answer has the id of another request."""
    found = _REQUEST_ID.findall(f"{response_id} {_get_header(response, 'x-request-id')}")
    if any(other != request_id for other in found):
        raise InvalidResponse("it belongs to another request")


def apply_parser(value: Any, parse: Callable[[Any], T]) -> T:
    """Return the parsed value; InvalidResponse if its structure is not as expected."""
    try:
        return parse(value)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise InvalidResponse("its structure differs from the documented API") from None
