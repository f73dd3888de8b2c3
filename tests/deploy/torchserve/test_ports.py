"""Ports that servers are given before they listen."""

import socket
from pathlib import Path

import pytest

from deploy.torchserve import server
from deploy.torchserve.server import free_ports

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL = 32_768


def lowest_of_connections() -> int:
    return int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 0


@pytest.mark.skipif(lowest_of_connections() < USUAL, reason="outgoing connections take other ports here")
def test_no_outgoing_connection_can_take_a_port_before_its_server_has_it() -> None:
    """TorchServe failed to bind once: a client's connection had been given the port in between."""
    assert all(port < lowest_of_connections() for port in free_ports(50))


def test_ports_are_all_different_and_none_is_one_that_somebody_listens_at(monkeypatch) -> None:
    (taken, *free) = free_ports(6)
    monkeypatch.setattr(server, "OWN_PORTS", [taken, *free])
    with socket.create_server(("127.0.0.1", taken)):
        assert sorted(free_ports(5)) == sorted(free)
