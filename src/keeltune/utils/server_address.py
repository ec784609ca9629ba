"""Which servers may be asked: how their address is written, and which machines are never connected to."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from keeltune.utils.errors import Problem, UserError, shown

KEY = "KEELTUNE_REFERENCE_KEY"
"""The environment variable that holds the server's key. It is read at each request and kept nowhere."""

_METADATA = frozenset(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")))
"""Where clouds hand out a machine's own credentials; the first of them is link-local anyway."""


def refused_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str, allow_host: str
) -> tuple[str, str, str] | None:
    """Why `host`, which resolves to `address`, is not connected to, as (found, expected, fix); None where it may be."""
    address = getattr(address, "ipv4_mapped", None) or address
    found = f"{host} is {address}"
    if address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA:
        return (
            f"{found}, a link-local, metadata, multicast or unspecified address",
            "an address of this machine, or of a host that was allowed",
            "name the server by an address of its own; this kind is never connected to",
        )
    if not address.is_loopback and allow_host.lower() != host:
        return (
            f"{found}, another machine",
            "an address of this machine (127.0.0.1, ::1, localhost)",
            f'allow that host by name, allow_host="{host}", or forward a local port to it',
        )
    return None


def plain_url(url: str) -> str:
    """The url without a last `/` or `/v1`; a faulty one is refused, and not shown where it may hold a secret."""
    secret = "@" in url or "?" in url
    found = "an address with a user name, a password or a query (not shown)" if secret else shown(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    clean = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if secret or not host or not clean or parts.scheme not in ("http", "https") or "#" in url:
        raise UserError(
            Problem(
                "",
                "reference",
                found,
                "http://host:port or https://host:port, with a path at most, in ASCII",
                f"write only the server's address; a key belongs in the environment variable {KEY}",
            )
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
