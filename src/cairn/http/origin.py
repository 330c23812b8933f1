"""Where a request comes from, and under which address the client knows this API.

Links in answers carry the address that the client wrote. Of a client itself only `Host` is believed, and
only in the form of a name or address with a port: it gets its own words back. What proxies say instead
(the client's address, scheme, name, a prefix) is believed from those alone that the operator has named.
Source: RFC 7239; RFC 9112, 3.2; for X-Forwarded-* the usage of HAProxy, nginx and oslo.middleware.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from cairn.core.errors import Invalid

Spoken = Literal["x-forwarded", "forwarded"]
"""Which of the two families of headers the proxies write; the other one is any client's own."""

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_PAIR = re.compile(r'([a-z]+)=(?:"([^"]*)"|([^";,\s]*))', re.IGNORECASE)


class Origin(NamedTuple):
    base_url: str  # "https://cloud.example:8443", with the proxy's prefix
    peer: str  # the client's address


class Origins:
    """Knows the proxies."""

    def __init__(
        self,
        proxies: Sequence[str] = (),
        *,
        spoken: Spoken = "x-forwarded",
        public_url: str = "",
    ) -> None:
        self._proxies = networks(proxies)
        self._spoken = spoken
        self._public_url = public_url.rstrip("/")
        self.is_proxy = lru_cache(maxsize=4096)(self._is_proxy)
        self._base = lru_cache(maxsize=1024)(_base_url)

    def of(
        self, headers: Mapping[str, str], *, scheme: str, server: Callable[[], str], peer: str
    ) -> Origin:
        """`server`: its own name, for clients of HTTP/1.0. Raises Invalid for a host that is none."""
        prefix = ""
        host = headers.get("host") or server()
        if self._proxies and self.is_proxy(peer):
            said = self._said(headers)
            peer = self._client(said.get("for", ""), peer)
            scheme = said.get("proto", scheme).lower()
            host = said.get("host", host)
            prefix = said.get("prefix", "").rstrip("/")
        return Origin(self._public_url or self._base(scheme, host, prefix), peer)

    def _is_proxy(self, address: str) -> bool:
        try:
            known = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(known in network for network in self._proxies)

    def _said(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What the proxy says, by Forwarded's words. Of a list, its own entry is the last."""
        if self._spoken == "forwarded":
            elements = headers.get("forwarded", "").split(",")
            said = {k.lower(): quoted or bare for k, quoted, bare in _PAIR.findall(elements[-1])}
            chain = [
                quoted or bare
                for element in elements
                for k, quoted, bare in _PAIR.findall(element)
                if k.lower() == "for"
            ]
            return {k: v for k, v in said.items() if v} | {"for": ",".join(chain)}
        found = {
            word: headers.get(f"x-forwarded-{word}", "").rpartition(",")[2].strip()
            for word in ("proto", "host", "prefix")
        }
        chain_text = headers.get("x-forwarded-for", "")
        return {k: v for k, v in found.items() if v} | {"for": chain_text}

    def _client(self, chain: str, peer: str) -> str:
        """The last address of the chain that is no proxy of ours: what stands before it may be invented."""
        for entry in reversed(chain.split(",")):
            address = _bare(entry.strip())
            if address is None:
                return peer
            peer = address
            if not self.is_proxy(address):
                break
        return peer


def networks(texts: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Raises Invalid that names the one that is no address."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError as error:
            raise Invalid(f"'{text}' is no address and no network in CIDR: {error}") from error
    return tuple(found)


def _base_url(scheme: str, host: str, prefix: str) -> str:
    if scheme not in ("http", "https"):
        raise Invalid("The scheme that the request was forwarded with is neither http nor https.")
    if not _HOST.fullmatch(host):
        raise Invalid("The request's host is no name or address with an optional port.")
    if not _PREFIX.fullmatch(prefix):
        raise Invalid("The prefix that the request was forwarded with is no path.")
    return f"{scheme}://{host}{prefix}"


def _bare(text: str) -> str | None:
    """An address without its port; None when it is none ("unknown", "_hidden")."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None
