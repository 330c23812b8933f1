"""Microversions: which one a request means, and how the reply says so.

Source: OpenStack API SIG guideline "Microversion Specification". A service with microversions reads
`OpenStack-API-Version: <type> X.Y` (compute also its older header); none asked means the minimum.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

_FORM = re.compile(r"([1-9]\d{0,2})\.(0|[1-9]\d{0,3})")


class Version(NamedTuple):
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class BadVersion(Exception):
    """A header that is not a version (400)."""


class VersionNotServed(Exception):
    """A version outside of what the service knows (406)."""


class Versions(Struct, frozen=True, kw_only=True):
    """The range that a service speaks."""

    service: str  # as in the header: "compute", "volume", "placement"
    minimum: Version
    maximum: Version
    legacy_header: str | None = None  # "X-OpenStack-Nova-API-Version"

    def asked(self, headers: Mapping[str, str]) -> Version:
        """The version of a request with `headers` (names in lower case)."""
        text = self._text(headers)
        if text is None:
            return self.minimum
        if text == "latest":
            return self.maximum
        match = _FORM.fullmatch(text)
        if match is None:
            raise BadVersion(
                f"API Version String '{text}' is of invalid format. "
                "It must be of format MajorNum.MinorNum."
            )
        version = Version(int(match[1]), int(match[2]))
        if not self.minimum <= version <= self.maximum:
            raise VersionNotServed(
                f"Version {version} is not supported by the API. "
                f"Minimum is {self.minimum} and maximum is {self.maximum}."
            )
        return version

    def reply_headers(self, version: Version | None) -> dict[str, str]:
        """Of an answer in this version; None: of a refusal of what was asked for."""
        names = ["OpenStack-API-Version", *((self.legacy_header,) if self.legacy_header else ())]
        headers = {"Vary": ", ".join(names)}
        if version is not None:
            headers["OpenStack-API-Version"] = f"{self.service} {version}"
            if self.legacy_header:
                headers[self.legacy_header] = str(version)
        return headers

    def _text(self, headers: Mapping[str, str]) -> str | None:
        for part in headers.get("openstack-api-version", "").split(","):
            service, _, version = part.strip().partition(" ")
            if service.lower() == self.service and version.strip():
                return version.strip().lower()
        if self.legacy_header and (old := headers.get(self.legacy_header.lower())):
            return old.strip().lower()
        return None
