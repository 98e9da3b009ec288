"""An exported policy over HTTP, with a limit on what one request may cost. The JSON is that of MLflow's scoring server.

Bodies are read at the same time, and parsed and answered one after the other: only one is unpacked in memory at a time.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from awac_pl.errors import AwacError, first_line

#: Open connections, beyond which a server answers 503. Each may hold one body.
MAX_CONNECTIONS = 512
#: Content types that are taken; JSON is always UTF-8.
_JSON = ("application/json", "application/json;charset=utf-8")
_KINDS = {float: "a number", str: "text", bool: "true or false", type(None): "null", list: "a list", dict: "an object"}


def listen(host: str, port: int) -> socket.socket:
    """A socket for a server.

    Args:
        host: name or address.
        port: 0 for a free one.

    Raises:
        AwacError: the address is not of this computer, or in use.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise AwacError(f"--host {host} --port {port}: cannot be listened on ({first_line(error)})") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit it; else an answer takes 40 ms
    return listener


class _Server(uvicorn.Server):
    """Leaves signals to the command, which says how it was stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(
    act: Callable[[np.ndarray], np.ndarray], size: int, *, max_body_bytes: int, body_seconds: float
) -> uvicorn.Server:
    """A server of ``POST /invocations`` and ``GET /ping``; ``run(sockets=[…])`` starts it.

    A request is ``{"inputs": …}`` or ``{"instances": …}`` with one observation ``[O]`` or a list of them, ``[N, O]``. The
    answer is ``{"predictions": …}`` with the actions ``[A]`` or ``[N, A]``; or a status of 4xx with ``error_code`` and one
    line in ``message``.

    Args:
        act: observations ``[N, O]`` float64 to actions ``[N, A]``; raises an AwacError for values that it does not take.
        size: O.
        max_body_bytes: of a request; a larger one is refused with 413, without being read.
        body_seconds: in which a body must have come; 408 is the answer otherwise.
    """

    async def invocations(request: Request) -> JSONResponse:
        try:
            async with asyncio.timeout(body_seconds):
                body = await _read_body(request, max_body_bytes)
        except TimeoutError:
            raise HTTPException(408, f"the body took more than {body_seconds:g} s", {"Connection": "close"}) from None
        value = _read_json(body)
        rows = value if any(isinstance(row, list) for row in value) or not value else [value]
        actions = act(_observations(rows, size)).tolist()
        return JSONResponse({"predictions": actions if rows is value else actions[0]})

    async def ping(request: Request) -> PlainTextResponse:
        return PlainTextResponse("\n")

    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, AwacError, ClientDisconnect), _refuse)
    routes = [Route("/invocations", invocations, methods=["POST"]), Route("/ping", ping), Route("/health", ping)]
    return _Server(
        uvicorn.Config(
            Starlette(routes=routes, exception_handlers=handlers),
            http="h11",  # bounds the headers, too
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    status, message = getattr(error, "status_code", 400), getattr(error, "detail", None) or first_line(error)
    content = {"error_code": HTTPStatus(status).name, "message": message}
    return JSONResponse(content, status, getattr(error, "headers", None))


async def _read_body(request: Request, limit: int) -> bytes:
    """The bytes as they come: a length that is declared wrongly, or not at all, does not get around the limit."""
    kind = request.headers.get("content-type", "")
    if kind.replace(" ", "").replace('"', "").lower() not in _JSON:
        raise HTTPException(415, f"the content type is '{kind}'; this server takes application/json in UTF-8")
    too_large = HTTPException(413, f"the body is larger than {limit:,} bytes; send fewer observations at a time")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _read_json(body: bytes) -> list:
    """The list under the one key of the body."""
    try:
        content = json.loads(body.decode(), parse_int=float)  # thousands of digits become infinity
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON; nested deeply
        raise HTTPException(400, f"the body is no JSON in UTF-8 ({first_line(error)})") from error
    value = content.popitem() if isinstance(content, dict) and len(content) == 1 else (None, None)
    if value[0] not in ("inputs", "instances") or not isinstance(value[1], list):
        raise HTTPException(400, 'the body must be {"inputs": […]}, with one observation or a list of observations')
    return value[1]


def _observations(rows: list, size: int) -> np.ndarray:
    """``[N, O]``. Types are checked first: numpy would give each value as much memory as the longest text among them."""
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != size:
            given = f"has {len(row)} values" if isinstance(row, list) else f"is {_KINDS[type(row)]}"
            raise HTTPException(400, f"observation {index} {given}, the policy takes {size} numbers")
        for position, value in enumerate(row):
            if type(value) is not float:
                raise HTTPException(400, f"observation {index}: value {position} is {_KINDS[type(value)]}, not a number")
    return np.array(rows, dtype=np.float64).reshape(-1, size)
