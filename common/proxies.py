"""Decides which requests use a proxy: none to this machine, others as the environment says."""

import ipaddress
import os
import socket
import ssl
import urllib.request
from contextlib import suppress
from http.client import HTTPResponse
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EXCEPTIONS = ("no_proxy", "NO_PROXY")  # libraries and curl read the first of them that is set


def open_url(
    request: str | urllib.request.Request, timeout_s: float, context: ssl.SSLContext | None = None
) -> HTTPResponse:
    """The response to a request over http or https, to be closed by the caller.

    Raises `OSError` (`HTTPError` among them), `http.client.HTTPException` or `ValueError`.
    """
    url = request if isinstance(request, str) else request.full_url
    if is_here(url):
        return open_direct(request, timeout_s, context)
    found = urllib.request.getproxies()
    proxies = {scheme: found.get(scheme) or found.get("all") for scheme in ("http", "https")}
    return _open(request, timeout_s, context, {scheme: proxy for scheme, proxy in proxies.items() if proxy})


def open_direct(
    request: str | urllib.request.Request, timeout_s: float, context: ssl.SSLContext | None = None
) -> HTTPResponse:
    """The same, never through a proxy: for what bears the tokens of this machine's own server."""
    return _open(request, timeout_s, context, {})


def _open(
    request: str | urllib.request.Request,
    timeout_s: float,
    context: ssl.SSLContext | None,
    proxies: dict[str, str],
) -> HTTPResponse:
    handlers = (urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context))
    answer: HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)
    return answer


def is_here(url: str) -> bool:
    """Whether the host of `url` is this machine, as far as that can be told without asking a name server."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or host == socket.gethostname().lower():
        return True
    with suppress(OSError, ValueError):  # a name, or no address at all
        family, *_, place = socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)[0]
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if (mapped or address).is_loopback:
            return True
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(place)  # only an address of this machine can be bound
            return True
    return False


def spare_loopback() -> None:
    """Keep requests of this process and of those that it starts to loopback from any proxy, whichever library
    makes them."""
    named = next((os.environ[key] for key in EXCEPTIONS if os.environ.get(key)), "")
    hosts = [host for host in (part.strip() for part in named.split(",")) if host]
    if "*" in hosts or not any(key.lower().endswith("_proxy") for key in os.environ.keys() - {*EXCEPTIONS}):
        return
    every = ",".join(dict.fromkeys((*hosts, *LOOPBACK)))
    os.environ.update(dict.fromkeys(EXCEPTIONS, every))
