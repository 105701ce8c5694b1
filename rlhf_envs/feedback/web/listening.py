"""Open the port of a server, find the addresses under which people reach it, and keep it from pausing."""

from __future__ import annotations

import contextlib
import errno
import gc
import ipaddress
import socket

__all__ = ["is_loopback", "keep_loaded", "listen", "page_addresses"]

# Documentation networks. A datagram socket that is "connected" to one tells its own address, and sends nothing.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_ANY = ("0.0.0.0", "::")


def keep_loaded() -> None:
    """Keep Python's collector from all that is loaded so far: to search it holds up every request for 0.1 to 0.3 s."""
    gc.collect()
    gc.freeze()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        ValueError: the port is taken or not allowed, or the host is no address of this machine. The message says what
            to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol: asyncio sets TCP_NODELAY only on what it is told to be TCP. Without it a body that follows its
    # headers waits 40 ms, until the client has confirmed the headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        remedies = {
            errno.EADDRINUSE: f"port={port} is taken: another program listens there, perhaps an earlier start of this "
            "command. End it, or choose another port; 0 takes a free one",
            errno.EACCES: f"port={port} is for the system's own programs: choose one above 1023, behind a proxy",
            errno.EADDRNOTAVAIL: f"host={host!r} is no address of this machine: give 127.0.0.1, or 0.0.0.0 for all",
        }
        unknown = isinstance(error, socket.gaierror)
        name = f"host={host!r} is no name or address that this machine knows: give 127.0.0.1, or 0.0.0.0 for all"
        reason = name if unknown else remedies.get(error.errno or 0, f"host={host!r} and port={port}: {error}")
        raise ValueError(reason) from error
    listener.set_inheritable(True)
    return listener


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def page_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a page that listens on a host and port, the ones for other machines first.

    A host that stands for all addresses of the machine (0.0.0.0, ::) gives the address towards the network, the
    addresses of the machine's name, and localhost.
    """
    if host not in _ANY:
        return [_url("localhost" if host == "127.0.0.1" else host, port)]
    families = {socket.AF_INET} if host == "0.0.0.0" else {socket.AF_INET, socket.AF_INET6}
    found = [address for family, elsewhere in _ELSEWHERE if family in families if (address := _own(family, elsewhere))]
    with contextlib.suppress(OSError):  # the resolver may not know the machine's own name
        named = socket.getaddrinfo(socket.gethostname(), port, type=socket.SOCK_STREAM)
        found += [str(entry[4][0]) for entry in named if entry[0] in families]
    usable = [address for address in dict.fromkeys(found) if _is_for_others(address)]
    return [*(_url(address, port) for address in usable), _url("localhost", port)]


def _own(family: socket.AddressFamily, elsewhere: str) -> str | None:
    """Return the address from which this machine would send to another; None without a network."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _is_for_others(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
