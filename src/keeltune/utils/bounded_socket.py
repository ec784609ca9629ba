"""A socket that is read under a deadline and an allowance of bytes, whatever the other side does."""

from __future__ import annotations

import io
import socket
import time
from typing import Any


class TooLarge(Exception):
    """More bytes came than were allowed."""


class BoundedReader(io.RawIOBase):
    """The reading side of a connected socket: one deadline and one allowance of bytes for all that comes.

    A time-out of a socket starts again with every byte, so that alone it lets a slow drip go on for ever.
    """

    def __init__(self, sock: socket.socket, deadline: float, allowed: int):
        self.sock = sock
        self.deadline = deadline
        self.allowed = allowed

    def makefile(self, mode: str) -> io.BufferedReader:
        """What `HTTPResponse` asks of a socket."""
        return io.BufferedReader(self, 1 << 16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.sock.settimeout(seconds_left(self.deadline))
        count = self.sock.recv_into(buffer)
        self.allowed -= count
        if self.allowed < 0:
            raise TooLarge
        return count


def seconds_left(deadline: float) -> float:
    """Seconds until `deadline`, a time of `time.monotonic`; TimeoutError where it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
