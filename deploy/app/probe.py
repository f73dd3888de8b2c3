"""`python -m deploy.app.probe`: exit status 0 where the app wants requests, for containers' health checks."""

import argparse
import http.client
import ssl
from collections.abc import Sequence
from contextlib import closing

from common.commands import run, say

PATIENCE_S = 5


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.app.probe", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="of this machine; default: %(default)s")
    parser.add_argument("--tls", action="store_true", help="the app has a certificate, whoever's it is")
    options = parser.parse_args(argv)
    connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=PATIENCE_S)
    if options.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
        connection = http.client.HTTPSConnection(
            "127.0.0.1", options.port, timeout=PATIENCE_S, context=context
        )
    try:
        with closing(connection):
            connection.request("GET", "/ready")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        say(f"not ready: {error}")
        return 1
    if status != 200:
        say(f"not ready: {status}")
    return int(status != 200)


if __name__ == "__main__":
    run(main)
