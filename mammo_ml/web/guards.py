"""Who may ask: the name the server is addressed by, the page a browser asks from, the token. And what is logged."""

import hmac
import json
import logging
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mammo_ml.web.refusals import RequestError

LOG = logging.getLogger("mammo_ml.web")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEEDS_TOKEN = ("/v1/", "/openapi.json")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger's page writes styles into its elements
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
KNOWN = ("/", "/health", "/docs", "/openapi.json", "/v1/locate", "/v1/classify", "/v1/view", "/v1/model")


class Guards:
    """Outermost layer of the application.

    Args:
        app: what is guarded.
        hosts: names the server may be addressed by; empty: any, for a server that asks for a token.
        token: that requests below `NEEDS_TOKEN` must bear; empty: none.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str) -> None:
        self._app, self._hosts, self._token = app, frozenset(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before anything of it is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0
        path, headers = str(scope["path"]), Headers(scope=scope)
        policy = DOCS_POLICY if path == "/docs" else POLICY
        scope["has_token"] = self._has_token(headers)

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = MutableHeaders(scope=message)
                own["Content-Security-Policy"] = policy
                own["X-Content-Type-Options"] = "nosniff"
                own["Referrer-Policy"] = "no-referrer"
                own.setdefault("Cache-Control", "no-cache" if path.startswith("/static/") else "no-store")
            await send(message)

        try:
            refusal = self._refusal(path, headers, bool(scope["has_token"]))
            if refusal is None:
                await self._app(scope, receive, guarded)
            else:
                await _refuse(refusal, guarded)
        except Exception as error:  # of any type, and without its text, which may quote a film
            LOG.error("a request failed: %s in %s", type(error).__name__, _place(error))
            if not status:
                await _refuse(RequestError(500, "the server failed on this request", "Please report it."), guarded)
        finally:
            # neither query nor headers, where names may stand
            shown = path if path in KNOWN else "(static)" if path.startswith("/static/") else "(another path)"
            LOG.info("%s %s %d %.2f s", scope["method"], shown, status, time.monotonic() - begin)

    def _refusal(self, path: str, headers: Headers, has_token: bool) -> RequestError | None:
        host = headers.get("host", "")
        if self._hosts and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return RequestError(
                403, "the server is not known by this name", "Start it with --allow-host and that name."
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return RequestError(403, "pages of another site may not ask", "Open the server's own page.")
        if path.startswith(NEEDS_TOKEN) and not has_token:
            return RequestError(401, "a token is needed", "Send the header 'Authorization: Bearer TOKEN'.")
        return None

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, told = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(told.strip().encode(), self._token.encode())
        return not self._token or (scheme.lower() == "bearer" and right)


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "an unknown place"


async def _refuse(refusal: RequestError, send: Send) -> None:
    body = json.dumps(refusal.content).encode()
    more = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    if refusal.status == 401:
        more.append((b"www-authenticate", b"Bearer"))
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *more]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
