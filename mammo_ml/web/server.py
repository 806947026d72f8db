"""Start the lesion locator's server on the champions of a workspace."""

import asyncio
import ipaddress
import logging
import os
import sys
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.registry import NAMES
from mammo_ml.tracking import quiet_mlflow
from mammo_ml.web.app import Service, create_app
from mammo_ml.web.guards import LOG, LOOPBACK
from mammo_ml.web.models import champion_of, load_classifier, load_locator
from mammo_ml.web.sandbox import Sandbox
from mammo_ml.web.slots import Slot

TOKEN_VARIABLE = "MAMMO_TOKEN"
SHORTEST_TOKEN = 16
HEADER_S = 10.0
CONNECTIONS = 256
BANNER = """\
{locator}
{classifier}

  the page      http://{shown}/
  for programs  http://{shown}/docs

Research use only. Nothing that is sent is kept. Ctrl-C ends it.
"""
MAKE_TOKEN = "Make one: python -c 'import secrets; print(secrets.token_urlsafe())' > token.txt"


class PatientHttp(H11Protocol):
    """uvicorn's protocol, which would wait for ever for a request's headers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, and end it where no request has come in time."""
        super().connection_made(transport)
        self.loop.call_later(HEADER_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if getattr(self, "cycle", None) is None and not self.transport.is_closing():
            self.transport.close()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_of(token_file: Path | None, host: str) -> str:
    """The token that is asked for: of the file, else of the variable MAMMO_TOKEN; empty where none is needed.

    Raises:
        BadInputError: when it is short or cannot be read, or there is none though others can reach the server.
    """
    if token_file is not None:
        where = str(token_file)
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise BadInputError(where, [f"cannot be read: {error}"], MAKE_TOKEN) from None
    else:
        where, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token and (token_file is not None or not is_loopback(host)):
        problem = "is empty" if token_file else f"is not set, and others can reach a server on {host}"
        raise BadInputError(where, [problem], f"{MAKE_TOKEN}, then --token-file token.txt.")
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise BadInputError(where, [f"a token has at least {SHORTEST_TOKEN} plain characters"], MAKE_TOKEN)
    return token


def service_of(workspace: Path, hosts: tuple[str, ...] = (), token: str = "", poll_s: float = 5.0) -> Service:
    """What the server works with, its champions loaded.

    Raises:
        MammoError: when there is no locator that may be served, with the reason.
    """
    quiet_mlflow()
    locator_name, classifier_name = NAMES["locator"], NAMES["classifier"]
    locator = Slot(
        locator_name, partial(champion_of, locator_name, workspace), partial(load_locator, locator_name, workspace)
    )
    classifier = Slot(
        classifier_name,
        partial(champion_of, classifier_name, workspace),
        partial(load_classifier, classifier_name, workspace),
    )
    locator.refresh()
    if locator.model is None:
        raise MammoError(f"the server cannot start: {locator.fault}")
    classifier.refresh()
    return Service(locator, classifier, Sandbox(), hosts, token, poll_s)


def serve(
    workspace: Path, host: str, port: int, token_file: Path | None = None, allow_hosts: tuple[str, ...] = ()
) -> None:
    """Serve the champions until it is interrupted.

    Args:
        workspace: the project's folder.
        host: address to listen on; any but this machine's own needs a token.
        port: on it.
        token_file: holds the token.
        allow_hosts: names the server may be addressed by, besides its own.

    Raises:
        BadInputError: when a token is missing.
        MammoError: when there is no locator that may be served, or the address is taken.
    """
    token = token_of(token_file, host)
    hosts = (*LOOPBACK, host, *allow_hosts) if is_loopback(host) or allow_hosts else ()
    service = service_of(workspace, hosts, token)
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    LOG.setLevel(logging.INFO)
    shown = f"{f'[{host}]' if ':' in host else host}:{port}"
    lines = {slot.name: _line(slot) for slot in (service.locator, service.classifier)}
    print(
        BANNER.format(shown=shown, locator=lines[NAMES["locator"]], classifier=lines[NAMES["classifier"]]), flush=True
    )
    config = uvicorn.Config(
        create_app(service),
        host=host,
        port=port,
        http=PatientHttp,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=30,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit:
        raise MammoError(f"the server could not start on {shown}; is the port taken? Choose one with --port.") from None
    except KeyboardInterrupt:
        return


def _line(slot: Slot) -> str:  # type: ignore[type-arg]
    if slot.model is None:
        return f"{slot.name}: none answers. {slot.fault}"
    return f"{slot.name} version {slot.model.number}: its files are those that were registered, signed with our key."
