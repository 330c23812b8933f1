"""A domain's configuration over HTTP: `/v3/domains/{id}/config`, its groups and options, and defaults."""

from typing import Any

from msgspec import Struct

from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity import places
from cairn.identity.accounts.security import Security
from cairn.identity.directory import domain_config, domain_config_store
from cairn.identity.directory.domain_options import READABLE_COMPLIANCE, default, refused
from cairn.identity.records import DEFAULT_DOMAIN

COMPLIANCE = "security_compliance"
_BODY_BYTES_MAX = 256 * 1024


class ConfigBody(Struct, frozen=True):
    config: dict[str, Any]


class DomainConfigRoutes:
    def __init__(self, sealer: Sealer, security: Security) -> None:
        self._sealer = sealer
        # What the cloud asks of passwords is for everybody to read.
        values = (security.password_pattern or None, security.password_pattern_says or None)
        self._compliance = dict(zip(READABLE_COMPLIANCE, values, strict=True))

    def routes(self) -> tuple[Route, ...]:
        whole = "/v3/domains/{domain}/config"
        group, option = f"{whole}/{{group}}", f"{whole}/{{group}}/{{option}}"
        rules, defaults = f"{whole}/{COMPLIANCE}", "/v3/domains/config"
        read, readable = (
            "identity:get_domain_config",
            "identity:get_security_compliance_domain_config",
        )
        standard = "identity:get_domain_config_default"
        return (
            Route(method="GET", path=f"{defaults}/default", rule=standard, do=show_default),
            Route(method="GET", path=f"{defaults}/{{group}}/default", rule=standard, do=show_default),
            Route(method="GET", path=f"{defaults}/{{group}}/{{option}}/default", rule=standard,
                  do=show_default),
            Route(method="PUT", path=whole, rule="identity:create_domain_config", do=self._create,
                  body=ConfigBody, body_bytes_max=_BODY_BYTES_MAX),
            Route(method="GET", path=rules, rule=readable, do=self._show_compliance),
            Route(method="GET", path=f"{rules}/{{option}}", rule=readable, do=self._show_compliance),
            *(
                Route(method="GET", path=path, rule=read, do=show)
                for path in (whole, group, option)
            ),
            *(
                Route(method="PATCH", path=path, rule="identity:update_domain_config",
                      do=self._update, body=ConfigBody, body_bytes_max=_BODY_BYTES_MAX)
                for path in (whole, group, option)
            ),
            *(
                Route(method="DELETE", path=path, rule="identity:delete_domain_config",
                      do=self._delete, status=204)
                for path in (whole, group, option)
            ),
        )  # fmt: skip

    def _create(self, tx: Tx, call: Call[ConfigBody]) -> Reply:
        domain = places.domain(tx, call.path["domain"])
        was_there = domain_config.create(tx, self._sealer, domain.id, call.body.config)
        shown = domain_config_store.config_of(tx, domain.id)
        return Reply(body={"config": shown}, status=200 if was_there else 201)

    def _update(self, tx: Tx, call: Call[ConfigBody]) -> dict[str, Any]:
        domain = places.domain(tx, call.path["domain"])
        group, option = _asked(call)
        domain_config.update(tx, self._sealer, domain.id, call.body.config, group, option)
        return {"config": domain_config.show(tx, domain.id)}

    def _delete(self, tx: Tx, call: Call[None]) -> None:
        domain = places.domain(tx, call.path["domain"])
        domain_config.delete(tx, self._sealer, domain.id, *_asked(call))

    def _show_compliance(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        domain = places.domain(tx, call.path["domain"])
        if domain.id != DEFAULT_DOMAIN:
            raise refused(
                "Reading security compliance information for any domain other than the default domain"
                " is not allowed or supported"
            )
        option = call.path.get("option")
        if option is None:
            return {"config": {COMPLIANCE: self._compliance}}
        if option not in READABLE_COMPLIANCE:
            raise refused(
                "Reading security compliance values other than password_regex and"
                " password_regex_description is not allowed"
            )
        return {"config": {option: self._compliance[option]}}


def show(tx: Tx, call: Call[None]) -> dict[str, Any]:
    domain = places.domain(tx, call.path["domain"])
    return {"config": domain_config.show(tx, domain.id, *_asked(call))}


def show_default(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"config": default(*_asked(call))}


def _asked(call: Call[Any]) -> tuple[str | None, str | None]:
    """Group and option of the address."""
    return call.path.get("group"), call.path.get("option")
