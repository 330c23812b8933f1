"""The policy of all services as it is in force: the tables, where each rule comes from, reading them anew."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn.core import log
from cairn.core.errors import Invalid, NotFound
from cairn.db.engine import Tx
from cairn.http import overrides
from cairn.http.call import Call
from cairn.http.overrides import Overrides
from cairn.http.policy import SHARED, Policy
from cairn.http.routes import Route, Service

POLICY: Mapping[str, str] = {"cairn:policy:show": "rule:admin"}
_log = log.get("policy")


class Policies:
    """A compiled table of each service. Raises Invalid when an operator's file is wrong."""

    def __init__(self, services: Sequence[Service], folder: Path | None = None) -> None:
        self._services = tuple(services)
        self._folder = folder
        self._overrides = self._load()
        self.tables: Mapping[str, Policy] = {
            s.name: Policy(self._overrides.table(s)) for s in self._services
        }

    def reload(self) -> None:
        """Read the operator's files again. Wrong ones are told, and all stays as it was."""
        try:
            found = self._load()
        except Invalid as error:
            _log.error("policy not read again", error=error.message)
            return
        for service in self._services:
            self.tables[service.name].replace(found.table(service))
        self._overrides = found
        _log.info("policy read again", overrides=sum(map(len, found.by_service.values())))

    def shown(self, service: Service) -> list[dict[str, Any]]:
        """Every rule of a service: what it says, what it says by default, and who says so."""
        own = self._overrides.by_service.get(service.name, {})
        defaults = {**SHARED, **service.policy}
        fields = overrides.Fields(service)
        asked: dict[str, list[str]] = {}
        for route in service.routes:
            if route.rule is not None:
                path = f"{route.method} {service.root}{route.path}"
                asked.setdefault(route.rule, []).append(path)
        return [
            {
                "service": service.name,
                "rule": rule,
                "check": own[rule].text if rule in own else defaults[rule],
                "default": defaults.get(rule),
                "source": own[rule].place if rule in own else "default",
                "routes": asked.get(rule, []),
                "fields": sorted(fields.of(rule)) if rule in defaults else [],
            }
            for rule in sorted({*defaults, *own})
        ]

    def list_all(self, service: str | None = None) -> list[dict[str, Any]]:
        """Of every service, or of one by name or type. Raises NotFound."""
        if service is None:
            return [row for one in self._services for row in self.shown(one)]
        found = overrides.service_named(service, self._services)
        if found is None:
            names = ", ".join(s.name for s in self._services)
            raise NotFound(f"There is no service '{service[:60]}'; there are {names}.")
        return self.shown(found)

    def _load(self) -> Overrides:
        found = overrides.load(self._folder, self._services)
        for warning in found.warnings:
            _log.warning("policy", warning=warning)
        return found


def routes(policies: Callable[[], Policies]) -> tuple[Route, ...]:
    """The operator's view of it; part of the operator's API."""

    def show(tx: Tx, call: Call[None]) -> Any:
        return {"rules": policies().list_all(call.query.get("service"))}

    return (Route(method="GET", path="/cairn/v1/policy", rule="cairn:policy:show", do=show),)
