"""Which addresses are the internet's, and not this machine's, its network's or its cloud's."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

type Address = IPv4Address | IPv6Address

#: All that is assigned to hosts of the internet (RFC 4291). Python calls more of IPv6 global.
UNICAST = IPv6Network("2000::/3")
#: Forms that carry an IPv4 address in their last 32 bits, and lead to it or once did.
CARRIERS = (
    IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 2.5.5.1
    IPv6Network("::ffff:0:0/96"),  # IPv4-mapped, RFC 4291 2.5.5.2
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 7915
    IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
)


def is_public(address: Address) -> bool:
    """Say whether an address is one host of the internet, whatever form it is written in."""
    inner = _carried(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, IPv6Address) and address not in UNICAST:
        return False
    return address.is_global and not address.is_multicast


def literal(host: str) -> Address | None:
    """Give the address that a host is already, also as `2130706433` or `0x7f.1`; None: a name."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        # The C library's resolver reads more spellings than `ipaddress` does.
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_local_name(host: str) -> bool:
    """Say whether a name is always this machine's (RFC 6761)."""
    return host.lower().rstrip(".").rpartition(".")[2] == "localhost"


def _carried(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in CARRIERS):
        return IPv4Address(address.packed[-4:])
    return address.sixtofour
