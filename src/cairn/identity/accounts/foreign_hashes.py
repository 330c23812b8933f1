"""Password hashes that Keystone makes or has made: whether a password made one of them.

bcrypt, bcrypt over HMAC-SHA-256, scrypt and PBKDF2 with SHA-512, in the texts of passlib; formats from
passlib's documentation ("Modular Crypt Format", and each hash's own page). What is malformed, or so dear
that it would hold a thread for minutes, is a wrong password.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping

import bcrypt

_BCRYPT_BYTES_MAX = 72  # bcrypt reads no more, and what makes its hashes cuts there as well
_BCRYPT_ROUNDS_MAX = 20
_PBKDF2_ROUNDS_MAX = 10_000_000
_SCRYPT_BYTES_MAX = 1 << 30
_CRYPT_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def is_foreign(hash_: str) -> bool:
    return _verifier(hash_) is not None


def verify(hash_: str, password: str) -> bool:
    found = _verifier(hash_)
    if found is None:
        return False
    try:
        return found(hash_, password.encode())
    except (ValueError, KeyError, IndexError, MemoryError, OverflowError):
        return False


def _verifier(hash_: str) -> Callable[[str, bytes], bool] | None:
    return next((check for start, check in _KINDS.items() if hash_.startswith(start)), None)


def _bcrypt(hash_: str, password: bytes) -> bool:
    _require_bearable(int(hash_.split("$")[2]))
    return bcrypt.checkpw(password[:_BCRYPT_BYTES_MAX], hash_.encode())


def _bcrypt_sha256(hash_: str, password: bytes) -> bool:
    """`$bcrypt-sha256$v=2,t=2b,r=12$salt$digest`, and of earlier releases `$bcrypt-sha256$2b,12$...`."""
    _, _, options, salt, digest = hash_.split("$")
    if "=" in options:
        known = _options(options)
        kind, rounds = known["t"], int(known["r"])
        inner = hmac.digest(salt.encode(), password, "sha256")
    else:
        kind, _, count = options.partition(",")
        rounds = int(count)
        inner = hashlib.sha256(password).digest()
    _require_bearable(rounds)
    whole = f"${kind}${rounds:02d}${salt}{digest}"
    return bcrypt.checkpw(base64.b64encode(inner), whole.encode())


def _pbkdf2_sha512(hash_: str, password: bytes) -> bool:
    """`$pbkdf2-sha512$25000$salt$digest`"""
    _, _, count, salt, digest = hash_.split("$")
    rounds = int(count)
    if not 1 <= rounds <= _PBKDF2_ROUNDS_MAX:
        raise ValueError(count)
    wanted = _base64(digest)
    made = hashlib.pbkdf2_hmac("sha512", password, _base64(salt), rounds, len(wanted))
    return bool(wanted) and hmac.compare_digest(made, wanted)


def _scrypt(hash_: str, password: bytes) -> bool:
    """`$scrypt$ln=16,r=8,p=1$salt$digest`"""
    _, _, options, salt, digest = hash_.split("$")
    known = _options(options)
    return _scrypt_is(
        password,
        _base64(salt),
        _base64(digest),
        log_n=int(known["ln"]),
        r=int(known["r"]),
        p=int(known["p"]),
    )


def _scrypt_7(hash_: str, password: bytes) -> bool:
    """`$7$`, one character of log2(N), five each of r and p, the salt as it is, `$`, the digest."""
    settings, _, digest = hash_.removeprefix("$7$").partition("$")
    return _scrypt_is(
        password,
        settings[11:].encode(),
        _crypt_bytes(digest),
        log_n=_crypt_number(settings[:1]),
        r=_crypt_number(settings[1:6]),
        p=_crypt_number(settings[6:11]),
    )


def _scrypt_is(password: bytes, salt: bytes, wanted: bytes, *, log_n: int, r: int, p: int) -> bool:
    if not (1 <= log_n <= 24 and 1 <= r <= 64 and 1 <= p <= 64 and wanted):
        raise ValueError("out of what can be borne")
    memory = 128 * r * ((1 << log_n) + p + 2)
    if memory > _SCRYPT_BYTES_MAX:
        raise ValueError("out of what can be borne")
    made = hashlib.scrypt(
        password, salt=salt, n=1 << log_n, r=r, p=p, maxmem=memory + (1 << 20), dklen=len(wanted)
    )
    return hmac.compare_digest(made, wanted)


def _require_bearable(rounds: int) -> None:
    if not 4 <= rounds <= _BCRYPT_ROUNDS_MAX:
        raise ValueError(rounds)


def _options(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(","))


def _base64(text: str) -> bytes:
    """Base64 without its padding, "." for "+"."""
    return base64.b64decode(text.replace(".", "+") + "=" * (-len(text) % 4), validate=True)


def _crypt_number(text: str) -> int:
    """Six bits a character, the lowest first."""
    return sum(_CRYPT_ALPHABET.index(c) << (6 * place) for place, c in enumerate(text))


def _crypt_bytes(text: str) -> bytes:
    """Four characters are three bytes, the lowest first."""
    data = b""
    for start in range(0, len(text), 4):
        group = text[start : start + 4]
        data += _crypt_number(group).to_bytes(3, "little")[: len(group) * 6 // 8]
    return data


_KINDS: Mapping[str, Callable[[str, bytes], bool]] = {
    "$bcrypt-sha256$": _bcrypt_sha256,
    "$pbkdf2-sha512$": _pbkdf2_sha512,
    "$scrypt$": _scrypt,
    "$7$": _scrypt_7,
    "$2": _bcrypt,
}
