"""Addresses as people write them: "host", "host:port", "::1", "[::1]:port"."""


def split(address: str, port: int) -> tuple[str, int]:
    """Host and port; `port` where the address names none. Raises ValueError: the port is no number."""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, int(rest[1:]) if rest.startswith(":") else port
    if address.count(":") == 1:
        host, _, given = address.partition(":")
        return host, int(given)
    return address, port


def joined(host: str, port: int) -> str:
    """The one form that holds both."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether the address, or the name of it, leads back to the machine itself."""
    return host in ("localhost", "::1") or host.startswith("127.")
