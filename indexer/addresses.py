"""Which addresses may be fetched from: those of the public internet, and where allowed those of private networks.

A name that somebody else controls can resolve to any address, among them those that only this machine can reach: its
own services, the office network, a cloud's metadata at 169.254.169.254. What decides is the address, never the name.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address as those without IPv4 see it
# Private networks, those of carriers and overlay networks (RFC 6598), IPv6's unique local ones, and this machine.
_PRIVATE = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"),
    )
)


def parse_address(text: str) -> Address:
    """Return an IP address, one of IPv4 that is written in IPv6 as itself. Raises `ValueError`."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, and leads to no other through a tunnel."""
    if isinstance(address, IPv6Address):
        tunnelled = address.sixtofour or (address.teredo or (None, None))[1]
        if address.is_site_local or tunnelled is not None:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def refusal(address: Address, *, private: bool) -> str:
    """Say what an address is that nothing is fetched from, "" where it may be.

    `private` allows private networks and this machine, and never link-local addresses, where clouds keep credentials.
    """
    if is_public(address):
        return ""
    inside = any(address.version == network.version and address in network for network in _PRIVATE)
    if inside and private:
        return ""
    return "a private address; allow such with --allow-urls private" if inside else "no public address"
