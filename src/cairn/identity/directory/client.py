"""One connection to a directory. Every call blocks: for the threads of `pool` only.

ldap3 is used for the protocol alone: it knows no schema here, follows no referral and gives raw bytes. It is
Python throughout, so that it installs wherever this does: python-ldap and bonsai want a compiler.
Whatever it or the server does wrong comes out as Unavailable with the reason.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ldap3
from ldap3.core import exceptions
from ldap3.utils.conv import escape_filter_chars
from msgspec import Struct

from cairn.core.errors import Unavailable
from cairn.identity.directory.config import Address, DirectoryConfig

CONNECT_S_MAX = 3.0
ANSWER_S_MAX = 8  # without a byte from the server
_PAGED = "1.2.840.113556.1.4.319"  # RFC 2696

_SUCCESS, _TIME_LIMIT, _SIZE_LIMIT, _ADMIN_LIMIT, _NO_SUCH_OBJECT = 0, 3, 4, 11, 32
_WRONG_PASSWORD = {
    32: "no such entry",
    48: "it may not sign in with a password",
    49: "wrong password, or the account is disabled, locked or expired",
    50: "it may not sign in",
    53: "the directory is unwilling: the account may be locked or its password expired",
}

Attributes = Mapping[str, Sequence[bytes]]
"""By name in lower case."""


class Found(Struct, frozen=True, kw_only=True):
    entries: list[tuple[str, Attributes]]  # DN and attributes
    is_whole: bool = True  # the server did not cut the answer
    is_there: bool = True  # the place to search from exists


class Client:
    """Connected and bound as the configured user, or about to be."""

    def __init__(self, config: DirectoryConfig) -> None:
        self._config = config
        self._connection: Any = None

    def connect(self) -> None:
        """Raises Unavailable when no server of the list lets us in."""
        troubles = []
        for address in self._config.addresses:
            try:
                with _told(address):
                    self._connection = self._opened(
                        address, self._config.user, self._config.password
                    )
                    status, result = _outcome(self._connection.bind())
                    if status:
                        return
                    reason = _reason(result)
                    troubles.append(f"{address}: signing in as '{self._config.user}': {reason}")
            except Unavailable as error:
                troubles.append(str(error.because))
            self.close()
        raise _down("; ".join(troubles))

    def search(
        self,
        base: str,
        filter_: str,
        attributes: Sequence[str],
        *,
        limit: int,
        is_base: bool = False,
    ) -> Found:
        """At most `limit` entries below `base`, or `base` itself. Raises Unavailable."""
        scope = ldap3.SUBTREE if self._config.is_subtree else ldap3.LEVEL
        entries: list[tuple[str, Attributes]] = []
        cookie: bytes | None = None
        with _told(self._config.addresses[0]):
            while True:
                page: dict[str, Any] = {}
                if not is_base:
                    page = {"paged_size": self._config.page_size, "paged_cookie": cookie}
                _, result, response, _ = self._connection.search(
                    search_base=base,
                    search_filter=filter_,
                    search_scope=ldap3.BASE if is_base else scope,
                    dereference_aliases=ldap3.DEREF_NEVER,
                    attributes=list(attributes),
                    time_limit=ANSWER_S_MAX,
                    **page,
                )
                entries += _entries(response)
                code = result["result"]
                if code == _NO_SUCH_OBJECT:
                    return Found(entries=[], is_there=False)
                if code in (_TIME_LIMIT, _SIZE_LIMIT, _ADMIN_LIMIT) or len(entries) > limit:
                    return Found(entries=entries[:limit], is_whole=False)
                if code != _SUCCESS:
                    raise _down(f"searching '{base}': {_reason(result)}")
                before, cookie = cookie, _cookie(result)
                if not cookie:
                    return Found(entries=entries)
                if cookie == before and not response:
                    raise _down(f"searching '{base}': it sends empty pages without end")

    def check_password(self, dn: str, password: str) -> str | None:
        """None when `password` is `dn`'s; otherwise why not, for the log. Raises Unavailable.

        On a connection of its own, so that nobody's rights are left on a shared one.
        """
        assert password, (
            "an empty password is no proof: servers take it for nobody's (RFC 4513, 5.1.2)"
        )
        troubles = []
        for address in self._config.addresses:
            try:
                with _told(address):
                    self._connection = self._opened(address, dn, password)
                    status, result = _outcome(self._connection.bind())
            except Unavailable as error:
                troubles.append(str(error.because))
                continue
            finally:
                self.close()
            if status:
                return None
            if result["result"] in _WRONG_PASSWORD:
                return f"{_WRONG_PASSWORD[result['result']]} ({_reason(result)})"
            troubles.append(f"{address}: signing in as a user: {_reason(result)}")
        raise _down("; ".join(troubles))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if self._connection is not None:
                self._connection.strategy.close()
        self._connection = None

    def abort(self) -> None:
        """From another thread: whatever waits for the server fails at once."""
        with contextlib.suppress(Exception):
            self._connection.socket.shutdown(socket.SHUT_RDWR)

    def _opened(self, address: Address, user: str, password: str) -> Any:
        config = self._config
        tls = ldap3.Tls(
            validate=ssl.CERT_REQUIRED if config.verifies else ssl.CERT_NONE,
            ca_certs_file=config.ca_file,
            ca_certs_path=config.ca_folder,
            sni=address.host,
        )
        server = ldap3.Server(
            address.host,
            port=address.port,
            use_ssl=address.is_tls,
            get_info=ldap3.NONE,
            connect_timeout=CONNECT_S_MAX,
            tls=tls,
        )
        connection = ldap3.Connection(
            server,
            user=user or None,
            password=password if user else None,
            authentication=ldap3.SIMPLE if user else ldap3.ANONYMOUS,
            client_strategy=ldap3.SAFE_SYNC,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            auto_encode=False,
            check_names=False,
            read_only=True,
            receive_timeout=ANSWER_S_MAX,
        )
        self._connection = connection  # So that it can be aborted while it connects.
        connection.open(read_server_info=False)
        if config.starts_tls and not address.is_tls:
            connection.start_tls(read_server_info=False)
        return connection


def escaped(value: str) -> str:
    """A value within a filter: RFC 4515, section 3."""
    found = escape_filter_chars(value)
    assert isinstance(found, str)
    return found


def escaped_bytes(value: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in value)


def _outcome(said: Any) -> tuple[bool, Mapping[str, Any]]:
    status, result = said[0], said[1]
    return bool(status), result or {}


def _entries(response: Any) -> Iterator[tuple[str, Attributes]]:
    for entry in response or ():
        if entry.get("type") == "searchResEntry":  # and not a referral
            raw = entry["raw_attributes"]
            yield entry["dn"], {name.lower(): values for name, values in raw.items()}


def _cookie(result: Mapping[str, Any]) -> bytes | None:
    controls = result.get("controls") or {}
    paged = controls.get(_PAGED)
    return paged["value"]["cookie"] if paged else None


def _reason(result: Mapping[str, Any]) -> str:
    text = str(result.get("message") or "").replace("\x00", "").strip()[:200]
    return f"{result.get('description', 'no answer')}{': ' if text else ''}{text}"


def _down(reason: str) -> Unavailable:
    return Unavailable("The domain's directory cannot be asked now.", because=reason)


@contextlib.contextmanager
def _told(address: Address) -> Iterator[None]:
    """Whatever goes wrong with a server, told as one kind of failure. A server that speaks nonsense makes
    the library fail in ways of its own (IndexError, struct.error...), so every Exception counts."""
    try:
        yield
    except Unavailable:
        raise
    except exceptions.LDAPInvalidFilterError as error:
        raise _down(f"ldap.user_filter or ldap.group_filter is no filter: {error}") from error
    except Exception as error:
        raise _down(f"{address}: {type(error).__name__}: {str(error)[:300]}") from error
