"""Whether anybody listens at a cluster's address, said soon: engines themselves wait minutes."""

from __future__ import annotations

import re
import socket

from manifests.errors import EngineError

# Seconds for a connection; and from the question to what the cluster has to say, so that together
# with the start of an interpreter it stays below 30.
CONNECT_WITHIN = 5.0
ANSWER_WITHIN = 20.0
_HOST_AND_PORT = re.compile(r"(?:[a-z0-9+]+://)*(?P<host>\[[^]]+\]|[^:/,]+):(?P<port>\d+)")


def require_listener(address: str) -> None:
    """Refuse an address with a host and a port at which nobody listens.

    Raises:
        EngineError: Nobody does.
    """
    match = _HOST_AND_PORT.match(address)
    if match is None:
        return
    try:
        host = match["host"].strip("[]")
        socket.create_connection((host, int(match["port"])), CONNECT_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise unreachable(address, str(error)) from error


def unreachable(address: str, found: str) -> EngineError:
    """The fault of an address at which there is no such cluster."""
    return EngineError(
        f"--engine-address {address}",
        expected="a cluster that answers there",
        found=found,
        remedy="correct the address, or begin the cluster",
    )
