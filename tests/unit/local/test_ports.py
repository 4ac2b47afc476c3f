"""Ports that are free, stay ours, and are nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from apibase.local.errors import StackError
from apibase.local.ports import LOOPBACK, PortPool


@pytest.fixture
def pool() -> Iterator[PortPool]:
    pool = PortPool()
    yield pool
    pool.close()


def listen(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((LOOPBACK, port))
    except OSError:
        server.close()
        raise
    server.listen()
    return server


def test_a_held_port_is_refused_to_others_and_answers_nobody(pool: PortPool) -> None:
    port = pool.take()
    with pytest.raises(OSError, match="in use"):
        listen(port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, port), 1)


def test_a_released_port_can_be_listened_on_but_not_taken_again(pool: PortPool) -> None:
    port = pool.take()
    pool.release(port)
    with listen(port):
        pass
    with pytest.raises(StackError, match=f"port {port}, wanted by orders"):
        pool.take_fixed(port, "orders")


def test_two_pools_with_the_same_luck_never_get_the_same_port() -> None:
    first, second = PortPool(seed=1), PortPool(seed=1)
    try:
        ports = [pool.take() for _ in range(40) for pool in (first, second)]
        first.release(*ports)
        second.release(*ports)
        ports += [pool.take() for _ in range(40) for pool in (first, second)]
        assert len(set(ports)) == len(ports)
    finally:
        first.close()
        second.close()


def test_a_port_that_something_listens_on_is_not_taken(pool: PortPool) -> None:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        with pytest.raises(StackError, match="in use"):
            pool.take_fixed(server.getsockname()[1], "orders")


def test_a_closed_pool_has_given_everything_back() -> None:
    first = PortPool()
    port = first.take()
    first.close()
    second = PortPool()
    assert second.take_fixed(port, "orders") == port
    second.close()
