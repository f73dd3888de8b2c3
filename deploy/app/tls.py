"""TLS of the app: a certificate and its key, and connections that count from before the handshake on."""

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.app.connections import HEAD_S, Admission, Connection
from handler.errors import UserError, first_line, refusals

SHUTDOWN_S = 5  # for a client to say goodbye


@dataclass(frozen=True)
class Pair:
    """Files in PEM."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        return tls_context(self.certificate, self.key)


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and later; raises `UserError` where the two cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        with refusals("the file for TLS cannot be read", path, "Give --tls-certificate and --tls-key"):
            path.open("rb").close()
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as error:
        pair = f"{certificate}, {key}"
        if error.reason == "KEY_VALUES_MISMATCH":
            remedy = "Give the certificate that was made with this key, before those of its issuers"
            raise UserError("the key is not that of the certificate", seen=pair, remedy=remedy) from error
        remedy = "Give both in PEM: -----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----"
        what = "the certificate or the key is not valid PEM"
        raise UserError(what, seen=f"{pair}: {error.reason or first_line(error)}", remedy=remedy) from error
    return context


def _no_password(key: Path) -> str:
    remedy = f"Decrypt it, into a file that you alone may read: openssl pkey -in {key} -out plain.pem"
    raise UserError("the key is encrypted", seen=key, remedy=remedy)


class SecureConnection(Connection):
    """A connection with a handshake first, bounded as a head is: asyncio alone would count none until its
    end, and wait a minute for each."""

    def __init__(self, admission: Admission, context: ssl.SSLContext, **given: Any) -> None:
        super().__init__(admission, **given)
        self._context = context

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # TCP's
        """Called twice: before the handshake, with the plain transport, and after it."""
        if transport.get_extra_info("sslcontext") is not None:
            HttpToolsProtocol.connection_made(self, transport)
            return
        self.transport = transport
        self.enter(transport)
        ended = self.loop.create_future()
        ended.add_done_callback(self._shook_hands)
        # Not loop.start_tls, a coroutine: the client's first bytes may be read before it begins.
        secured = SSLProtocol(
            self.loop,
            self,
            self._context,
            ended,
            server_side=True,
            ssl_handshake_timeout=HEAD_S,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        transport.set_protocol(secured)
        secured.connection_made(transport)

    def _shook_hands(self, ended: asyncio.Future[None]) -> None:
        failed = ended.cancelled() or ended.exception() is not None
        if failed or self.transport.get_extra_info("sslcontext") is None:  # nor is `connection_lost` called
            self.admission.leave(self)
