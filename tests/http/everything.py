"""One cloud with something of each kind in it, and ways to ask every route of every service.

What the generated tests need and cannot find in the route tables is here as data: what to make, which id
fills which path variable, and a good body for each route that has one.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect
from msgspec import Struct
from sqlalchemy import select

from cairn.app import Cloud, CloudOptions
from cairn.core.clock import FakeClock
from cairn.core.ids import NodeId, ProjectId, SeededRandomness, VolumeId
from cairn.db.columns import metadata
from cairn.db.engine import Database, Tx
from cairn.http.routes import Route, Service
from cairn.identity import bootstrap, places
from cairn.identity.records import DEFAULT_DOMAIN, Project
from cairn.volume import service as volume
from tests.callers import CALLERS, P1, P2, Api
from tests.http.lending import lend
from tests.volume.hosts import host

UNKNOWN = "00000000-0000-4000-8000-00000000dead"
HOST = NodeId("h1")
NEWEST = {"OpenStack-API-Version": "compute 2.96"}
NEWEST_VOLUME = {"OpenStack-API-Version": "volume 3.70"}
P3 = "3" * 32
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb0081Yn8coLiUq6NR7aksVfqEzdKBwX4mY9EowQvKY"

_IDENTITY, _VOLUME, _IMAGE = "/identity/v3", "/volume/v3", "/image/v2"
_FEDERATION = f"{_IDENTITY}/OS-FEDERATION"
_NETWORK, _COMPUTE = "/network/v2.0", "/compute/v2.1"

MAPPING_RULES = [
    {"local": [{"user": {"name": "u"}}], "remote": [{"type": "sub", "any_one_of": ["s"]}]}
]
# Nothing listens there: whoever asks the provider hears that it cannot be asked.
OIDC_CLIENT = {"issuer": "http://127.0.0.1:9", "client_id": "c", "client_secret": "s"}
SERVICE_PROVIDER = {"auth_url": "https://c/v3", "sp_url": "https://c/sp", "enabled": True}


class Make(Struct, frozen=True):
    """One thing to make: who posts what where. It fills path variables that follow its collection's name."""

    path: str
    body: Any
    who: str = "alice"
    key: str = ""  # under which it is kept; "": the last word of the path
    id_field: str = "id"
    method: str = "POST"


THINGS = (
    Make(f"{_IDENTITY}/domains", {"domain": {"name": "d"}}, "admin"),
    Make(f"{_IDENTITY}/projects", {"project": {"name": "p", "tags": ["t"]}}, "admin"),
    Make(f"{_IDENTITY}/users", {"user": {"name": "u"}}, "admin"),
    Make(f"{_IDENTITY}/groups", {"group": {"name": "g"}}, "admin"),
    Make(f"{_IDENTITY}/roles", {"role": {"name": "r"}}, "admin"),
    Make(f"{_IDENTITY}/roles", {"role": {"name": "i"}}, "admin", key="implies"),
    Make(f"{_FEDERATION}/mappings/m", {"mapping": {"rules": MAPPING_RULES}}, "admin",
         key="mappings", method="PUT"),
    Make(f"{_FEDERATION}/identity_providers/i", {"identity_provider": {"enabled": True}}, "admin",
         key="identity_providers", method="PUT"),
    Make(f"{_FEDERATION}/identity_providers/i/protocols/openid",
         {"protocol": {"mapping_id": "m"}}, "admin", key="protocols", method="PUT"),
    Make(f"{_FEDERATION}/identity_providers/i/protocols/openid/oidc_client",
         {"oidc_client": OIDC_CLIENT}, "admin", id_field="", method="PUT"),
    Make(f"{_FEDERATION}/service_providers/s", {"service_provider": SERVICE_PROVIDER}, "admin",
         key="service_providers", method="PUT"),
    Make(f"{_IDENTITY}/credentials",
         {"credential": {"user_id": "alice", "type": "cert", "blob": "b"}}),
    Make(f"{_IDENTITY}/users/{{users}}/credentials/OS-EC2", {"tenant_id": "{projects}"}, "admin",
         id_field="access"),
    Make(f"{_IDENTITY}/OS-OAUTH1/consumers", {"consumer": {"description": "d"}}, "admin"),
    Make(f"{_IDENTITY}/services", {"service": {"type": "t", "name": "s"}}, "admin"),
    Make(f"{_IDENTITY}/endpoints",
         {"endpoint": {"service_id": "{services}", "interface": "public", "url": "http://e"}},
         "admin"),
    Make(f"{_IDENTITY}/OS-EP-FILTER/endpoint_groups",
         {"endpoint_group": {"name": "g", "filters": {"interface": "public"}}}, "admin"),
    Make(f"{_IDENTITY}/policies", {"policy": {"type": "t", "blob": "b"}}, "admin"),
    Make(f"{_IDENTITY}/registered_limits",
         {"registered_limits": [
             {"service_id": "{services}", "resource_name": "r", "default_limit": 1}]}, "admin"),
    Make(f"{_IDENTITY}/limits",
         {"limits": [{"service_id": "{services}", "resource_name": "r", "resource_limit": 2,
                      "project_id": P1}]}, "admin"),
    Make(f"{_IMAGE}/images", {"name": "i", "tags": ["t"]}),
    Make(f"{_IMAGE}/images/{{images}}/members", {"member": P3}, id_field="member_id"),
    Make(f"{_VOLUME}/volumes", {"volume": {"size": 1}}, key="boot"),
    Make(f"{_VOLUME}/volumes", {"volume": {"size": 1, "metadata": {"k": "v"}}}),
    Make(f"{_VOLUME}/types", {"volume_type": {"name": "t", "extra_specs": {"k": "v"}}}, "admin"),
    Make(f"{_NETWORK}/networks", {"network": {"name": "o", "router:external": True}}, "admin",
         key="outside"),
    Make(f"{_NETWORK}/subnets",
         {"subnet": {"network_id": "{outside}", "cidr": "203.0.113.0/24", "ip_version": 4}},
         "admin"),
    Make(f"{_NETWORK}/floatingips", {"floatingip": {"floating_network_id": "{outside}"}}),
    Make(f"{_NETWORK}/networks", {"network": {"name": "n"}}),
    Make(f"{_NETWORK}/subnetpools", {"subnetpool": {"name": "p", "prefixes": ["10.64.0.0/16"]}}),
    Make(f"{_NETWORK}/subnets",
         {"subnet": {"network_id": "{networks}", "cidr": "10.9.0.0/24", "ip_version": 4}}),
    Make(f"{_NETWORK}/ports", {"port": {"network_id": "{networks}"}}),
    Make(f"{_NETWORK}/routers", {"router": {"name": "r"}}),
    Make(f"{_NETWORK}/security-groups", {"security_group": {"name": "s"}}),
    Make(f"{_NETWORK}/security-group-rules",
         {"security_group_rule": {"security_group_id": "{security-groups}",
                                  "direction": "ingress", "ethertype": "IPv4"}}),
    Make(f"{_COMPUTE}/flavors", {"flavor": {"name": "f", "vcpus": 1, "ram": 64, "disk": 1}},
         "admin"),
    Make(f"{_COMPUTE}/flavors/{{flavors}}/os-extra_specs", {"extra_specs": {"k": "v"}}, "admin",
         id_field=""),
    Make(f"{_COMPUTE}/os-aggregates", {"aggregate": {"name": "a"}}, "admin"),
    Make("/cairn/v1/tokens", {"token": {}}, "admin"),
    Make(f"{_COMPUTE}/os-keypairs", {"keypair": {"name": "k", "public_key": SSH_KEY}}, id_field="name"),
)  # fmt: skip
"""In this order; "{networks}" stands for the id of the network that was made before."""

LOOK_UP = {
    "agents": (f"{_NETWORK}/agents", "agents"),
    "os-services": (f"{_COMPUTE}/os-services", "services"),
    "os-hypervisors": (f"{_COMPUTE}/os-hypervisors", "hypervisors"),
    "hosts": ("/cairn/v1/hosts", "hosts"),
}
"""Things that are there without being made: where an administrator finds them."""

WORDS = {
    "metadata": "k", "extra_specs": "k", "os-extra_specs": "k", "tags": "t", "ips": "n",
    "os-quota-sets": P1, "quotas": P1, "os-simple-tenant-usage": P1, "regions": "RegionOne",
    "websso": "openid", "schemas": "image", "join": "h1", "zones": "nova", "migrations": "1",
    "os-quota-class-sets": "default", "config": "identity", "{group}": "driver",
    "security_compliance": "password_regex",
}  # fmt: skip
"""What fills variables that name no thing that was made."""


class World:
    """Services over one database with one thing of each kind in it, alice's, of project P1."""

    def __init__(self, url: str, folder: Path) -> None:
        self.database = Database(
            url, clock=FakeClock(), randomness=SeededRandomness(1), inline=True
        )
        metadata.drop_all(self.database.engine)
        self.database.create_all()
        options = CloudOptions(control_dir=folder, clock=FakeClock(), admin_password="admin")
        self.services: tuple[Service, ...] = Cloud(self.database, options).shell.services
        self.api = Api(self.database, *self.services)
        self.ids: dict[str, str] = {}
        self._print: str | None = None
        self._changes = 0
        self.database.write_now(_projects)
        self._host = host(self.database)
        for thing in THINGS:
            self._make(thing)
        self.ids.update(self.database.write_now(partial(lend, ids=self.ids)))
        self._make_what_needs_a_host()
        for key, (path, plural) in LOOK_UP.items():
            self.ids[key] = self.api.get(path, who="admin", headers=NEWEST).json[plural][0]["id"]
        for name, root in (("nova", _COMPUTE), ("neutron", _NETWORK)):
            listed = self.api.get(f"{root}/extensions").json["extensions"]
            self.ids[f"{name} extension"] = listed[0]["alias"]

    # --- what is there ---------------------------------------------------------------------------------

    def _make(self, thing: Make) -> Any:
        path = thing.path.format(**self.ids)
        answer = self.api.call(
            thing.method, path, self.filled(thing.body), who=thing.who, headers=NEWEST
        )
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text}"
        made = answer.json if thing.id_field in answer.json else next(iter(answer.json.values()))
        if isinstance(made, list):
            (made,) = made
        if thing.id_field:
            self.ids[thing.key or path.rpartition("/")[2]] = made[thing.id_field]
        return answer

    def make_another(self, number: int) -> int:
        """One more of each kind that can be made twice; how many were made."""
        made = 0
        for thing in THINGS:
            path = thing.path.format(**self.ids)
            body = _renamed(self.filled(thing.body), f"-{number}")
            answer = self.api.call(thing.method, path, body, who=thing.who, headers=NEWEST)
            made += answer.status_code < 300
        return made

    def filled(self, body: Any) -> Any:
        """The body with "{networks}" replaced by the id of what was made so."""
        if isinstance(body, dict):
            return {k: self.filled(v) for k, v in body.items()}
        if isinstance(body, list):
            return [self.filled(v) for v in body]
        if isinstance(body, str) and re.fullmatch(r"\{[a-z_-]+\}", body):
            return self.ids[body[1:-1]]
        return body

    def _make_what_needs_a_host(self) -> None:
        for key in ("boot", "volumes"):
            volume_id = VolumeId(self.ids[key])
            self.database.write_now(partial(volume.place, volume_id=volume_id, node_id=HOST))
        self._host.obey()
        snapshot = {"volume_id": "{volumes}", "metadata": {"k": "v"}}
        self._make(Make(f"{_VOLUME}/snapshots", {"snapshot": snapshot}))
        self._host.obey()
        bootable = {"os-set_bootable": {"bootable": True}}
        self.api.post(f"{_VOLUME}/volumes/{self.ids['boot']}/action", bootable)
        disk = {"uuid": "{boot}", "source_type": "volume", "destination_type": "volume"}
        server = {
            "name": "s",
            "flavorRef": "{flavors}",
            "block_device_mapping_v2": [{**disk, "boot_index": 0}],
            "networks": [{"port": "{ports}"}],
            "metadata": {"k": "v"},
            "tags": ["t"],
        }
        made = self._make(Make(f"{_COMPUTE}/servers", {"server": server}))
        self.ids["os-instance-actions"] = made.headers["x-openstack-request-id"]
        self.ids["os-volume_attachments"] = self.ids["boot"]
        self.ids["os-interface"] = self.ids["ports"]
        self.ids["network-ip-availabilities"] = self.ids["networks"]
        attached = self.api.get(f"{_VOLUME}/attachments", headers=NEWEST_VOLUME).json["attachments"]
        self.ids["attachments"] = attached[0]["id"]

    # --- asking ----------------------------------------------------------------------------------------

    def routes(self) -> Iterator[tuple[Service, Route]]:
        for service in self.services:
            for route in service.routes:
                yield service, route

    def value(self, service: Service, variable: "Variable", who: str) -> str | None:
        """What fills a path's variable; None when nobody said."""
        if is_own_project(service, variable):
            return str(CALLERS[who].project_id)
        if variable.collection == "extensions":
            return self.ids[f"{service.name} extension"]
        return self.ids.get(variable.collection) or WORDS.get(variable.collection)

    def url(self, service: Service, route: Route, who: str, **other: str) -> str:
        """The route's path with known ids, `other` ones instead where given."""
        known = {v.name: self.value(service, v, who) or UNKNOWN for v in variables(route)}
        return (service.root + route.path).format(**{**known, **other})

    def ask(self, service: Service, route: Route, who: str | None, url: str, **send: Any) -> Any:
        """`body` is encoded, `data` sent as it is."""
        body = send.get("data", send.get("body"))
        kind = CONTENT_TYPES.get(name_of(service, route), "application/json")
        headers = version_header(service, route)
        return self.api.call(route.method, url, body, who=who, headers=headers, content_type=kind)

    # --- what changed ----------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Of every row of every table; cheap when nothing was written since the last one.

        Only on SQLite: that a refused request's transaction leaves nothing does not depend on the engine,
        and PostgreSQL has no cheap way to tell that nothing was written.
        """
        if not self.database.is_sqlite:
            return ""
        raw = self.database.engine.raw_connection()
        changes = raw.driver_connection.total_changes  # type: ignore[union-attr]
        raw.close()
        if self._print is None or changes != self._changes:
            self._print, self._changes = self.database.read_now(_digest), changes
        return self._print


class Variable(Struct, frozen=True):
    """A path's variable and the word before it: "/servers/{server_id}" is one of "servers"."""

    name: str
    collection: str


def variables(route: Route) -> list[Variable]:
    words = route.path.split("/")
    return [
        Variable(word[1:-1], before)
        for before, word in itertools.pairwise(words)
        if word.startswith("{")
    ]


def is_own_project(service: Service, variable: Variable) -> bool:
    """Cinder's project in the path must be the token's."""
    return service.name == "cinder" and variable.collection == "v3"


def version_header(service: Service, route: Route) -> dict[str, str]:
    if service.versions is None:
        return {}
    version = route.until or service.versions.maximum
    return {"OpenStack-API-Version": f"{service.versions.service} {version}"}


def name_of(service: Service, route: Route) -> str:
    """Without Cinder's project, so that one line stands for both spellings."""
    return f"{service.name} {route.method} {route.path}".replace("/v3/{project_id}/", "/v3/")


CONTENT_TYPES = {
    "glance PATCH /v2/images/{image_id}": "application/openstack-images-v2.1-json-patch",
}


def _renamed(body: Any, ending: str) -> Any:
    """The same with another name, so that it may be made again."""
    if isinstance(body, dict):
        return {
            k: v + ending if k == "name" and isinstance(v, str) else _renamed(v, ending)
            for k, v in body.items()
        }
    return body


def _digest(tx: Tx) -> str:
    digest = hashlib.sha256()
    for table in metadata.sorted_tables:
        for row in tx.execute(select(table).order_by(*table.primary_key.columns)):
            digest.update(f"{table.name} {row!r}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()


def _projects(tx: Tx) -> None:
    bootstrap.bootstrap(tx, "no hash: nobody signs in")
    for project_id in (P1, P2, P3, str(CALLERS["admin"].project_id)):
        new = Project(
            id=ProjectId(project_id),
            name=project_id,
            domain_id=DEFAULT_DOMAIN,
            parent_id=DEFAULT_DOMAIN,
        )
        places.create_project(tx, new)


GOOD: Mapping[str, Any] = {
    "keystone POST /v3/regions": {"region": {"id": "r", "description": "d"}},
    "keystone PUT /v3/regions/{region_id}": {"region": {"description": "d"}},
    "keystone PATCH /v3/regions/{region_id}": {"region": {"parent_region_id": None}},
    "keystone POST /v3/services": {"service": {"type": "t", "name": "n", "enabled": True}},
    "keystone PATCH /v3/services/{service_id}": {"service": {"name": "n2", "enabled": True}},
    "keystone POST /v3/endpoints": {
        "endpoint": {
            "service_id": "{services}",
            "interface": "public",
            "url": "http://e/%(project_id)s",
            "region": "RegionOne",
            "name": "n",
        }
    },
    "keystone PATCH /v3/endpoints/{endpoint_id}": {
        "endpoint": {"url": "http://e", "region_id": "RegionOne", "enabled": True}
    },
    "keystone POST /v3/OS-EP-FILTER/endpoint_groups": {
        "endpoint_group": {"name": "n", "description": "d", "filters": {"interface": "public"}}
    },
    "keystone PATCH /v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}": {
        "endpoint_group": {"name": "n2", "filters": {"region_id": "RegionOne"}}
    },
    "keystone POST /v3/policies": {"policy": {"type": "t", "blob": "b"}},
    "keystone PATCH /v3/policies/{policy_id}": {"policy": {"blob": "b2"}},
    "keystone POST /v3/registered_limits": {
        "registered_limits": [
            {
                "service_id": "{services}",
                "region_id": "RegionOne",
                "resource_name": "n",
                "default_limit": 3,
                "description": "d",
            }
        ]
    },
    "keystone PATCH /v3/registered_limits/{registered_limit_id}": {
        "registered_limit": {"default_limit": 4, "description": "d"}
    },
    "keystone POST /v3/limits": {
        "limits": [
            {
                "service_id": "{services}",
                "resource_name": "r",
                "resource_limit": 3,
                "project_id": P2,
                "description": "d",
            }
        ]
    },
    "keystone PATCH /v3/limits/{limit_id}": {"limit": {"resource_limit": 4, "description": "d"}},
    "cairn PUT /cairn/v1/quotas": {"quotas": {"cores": 30}},
    "cairn PUT /cairn/v1/quotas/{project}": {"quotas": {"cores": 30, "volumes": None}},
    "nova PUT /v2.1/os-quota-class-sets/{class_name}": {"quota_class_set": {"cores": 30}},
    "cinder PUT /v3/os-quota-class-sets/{class_name}": {"quota_class_set": {"volumes": 30}},
    "cinder POST /v3/volumes": {"volume": {"size": 1, "name": "n", "metadata": {"k": "v"}}},
    "cinder PUT /v3/volumes/{volume_id}": {"volume": {"name": "n", "description": "d"}},
    "cinder POST /v3/volumes/{volume_id}/action": {"os-set_bootable": {"bootable": True}},
    "cinder POST /v3/volumes/{volume_id}/metadata": {"metadata": {"k": "v"}},
    "cinder PUT /v3/volumes/{volume_id}/metadata": {"metadata": {"k": "v"}},
    "cinder PUT /v3/volumes/{volume_id}/metadata/{key}": {"meta": {"k": "v"}},
    "cinder POST /v3/snapshots": {"snapshot": {"volume_id": "{volumes}", "name": "n"}},
    "cinder PUT /v3/snapshots/{snapshot_id}": {"snapshot": {"name": "n", "description": "d"}},
    "cinder POST /v3/snapshots/{snapshot_id}/action": {"os-reset_status": {"status": "error"}},
    "cinder POST /v3/snapshots/{snapshot_id}/metadata": {"metadata": {"k": "v"}},
    "cinder PUT /v3/snapshots/{snapshot_id}/metadata": {"metadata": {"k": "v"}},
    "cinder PUT /v3/snapshots/{snapshot_id}/metadata/{key}": {"meta": {"k": "v"}},
    "cinder POST /v3/types": {"volume_type": {"name": "n", "extra_specs": {"k": "v"}}},
    "cinder PUT /v3/types/{type_id}": {"volume_type": {"name": "n", "is_public": True}},
    "cinder POST /v3/types/{type_id}/extra_specs": {"extra_specs": {"k": "v"}},
    "cinder PUT /v3/types/{type_id}/extra_specs/{key}": {"k": "v"},
    "cinder PUT /v3/os-quota-sets/{target_id}": {"quota_set": {"volumes": 5}},
    "keystone PUT /v3/domains/{domain}/config": {
        "config": {
            "identity": {"driver": "sql", "list_limit": 5},
            "ldap": {"url": "ldap://h", "password": "p"},
        }
    },
    "keystone PATCH /v3/domains/{domain}/config": {"config": {"identity": {"driver": "sql"}}},
    "keystone PATCH /v3/domains/{domain}/config/{group}": {
        "config": {"identity": {"driver": "sql"}}
    },
    "keystone PATCH /v3/domains/{domain}/config/{group}/{option}": {"config": {"driver": "sql"}},
    "keystone PUT /v3/OS-FEDERATION/mappings/{mapping_id}": {"mapping": {"rules": MAPPING_RULES}},
    "keystone PATCH /v3/OS-FEDERATION/mappings/{mapping_id}": {"mapping": {"rules": MAPPING_RULES}},
    "keystone PUT /v3/OS-FEDERATION/identity_providers/{idp_id}": {
        "identity_provider": {"enabled": True, "description": "d", "remote_ids": ["https://i"]}
    },
    "keystone PATCH /v3/OS-FEDERATION/identity_providers/{idp_id}": {
        "identity_provider": {"enabled": True, "description": "d", "authorization_ttl": 5}
    },
    "keystone PUT /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}": {
        "protocol": {"mapping_id": "{mappings}"}
    },
    "keystone PATCH /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}": {
        "protocol": {"mapping_id": "{mappings}"}
    },
    "keystone PUT /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/oidc_client": {
        "oidc_client": {**OIDC_CLIENT, "scopes": ["openid"], "audiences": ["a"]}
    },
    "keystone PUT /v3/OS-FEDERATION/service_providers/{sp_id}": {
        "service_provider": SERVICE_PROVIDER
    },
    "keystone PATCH /v3/OS-FEDERATION/service_providers/{sp_id}": {
        "service_provider": SERVICE_PROVIDER
    },
    "keystone POST /v3/credentials": {
        "credential": {
            "user_id": "alice",
            "project_id": P1,
            "type": "ec2",
            "blob": '{"access": "a", "secret": "s"}',
        }
    },
    "keystone PATCH /v3/credentials/{credential_id}": {"credential": {"blob": "b2", "type": "t"}},
    "keystone POST /v3/users/{user_id}/credentials/OS-EC2": {"tenant_id": "{projects}"},
    "keystone POST /v3/ec2tokens": {
        "credentials": {
            "access": "a",
            "signature": "s",
            "host": "h:1",
            "verb": "GET",
            "path": "/",
            "params": {"SignatureVersion": "2"},
            "headers": {"Authorization": "AWS4-HMAC-SHA256 Credential=a"},
            "body_hash": "h",
        }
    },
    "keystone POST /v3/s3tokens": {
        "credentials": {"access": "a", "signature": "s", "token": "QVdTNA=="}
    },
    "keystone POST /v3/projects": {"project": {"name": "n", "description": "d", "tags": ["t"]}},
    "keystone POST /v3/domains": {"domain": {"name": "n", "description": "d"}},
    "keystone POST /v3/users": {"user": {"name": "n", "email": "e"}},
    "keystone POST /v3/groups": {"group": {"name": "n", "description": "d"}},
    "keystone POST /v3/OS-TRUST/trusts": {
        "trust": {
            "trustor_user_id": "admin",
            "trustee_user_id": "{users}",
            "project_id": "{projects}",
            "impersonation": False,
            "roles": [{"id": "{roles}"}],
            "expires_at": "2999-01-01T00:00:00Z",
            "remaining_uses": 1,
        }
    },
    "keystone POST /v3/OS-OAUTH1/consumers": {"consumer": {"description": "d"}},
    "keystone PATCH /v3/OS-OAUTH1/consumers/{consumer_id}": {"consumer": {"description": "e"}},
    "keystone PUT /v3/OS-OAUTH1/authorize/{request_token_id}": {"roles": [{"id": "{roles}"}]},
    "keystone POST /v3/roles": {"role": {"name": "n", "description": "d"}},
    "glance POST /v2/images": {"name": "n", "disk_format": "raw", "container_format": "bare"},
    "glance POST /v2/images/{image_id}/members": {"member": P2},
    "neutron POST /v2.0/networks": {"network": {"name": "n", "description": "d", "mtu": 1400}},
    "neutron POST /v2.0/subnets": {
        "subnet": {
            "network_id": "{networks}",
            "name": "n",
            "cidr": "10.8.0.0/24",
            "ip_version": 4,
            "dns_nameservers": ["10.8.0.9"],
        }
    },
    "neutron POST /v2.0/ports": {
        "port": {
            "network_id": "{networks}",
            "name": "n",
            "fixed_ips": [{"subnet_id": "{subnets}"}],
        }
    },
    "neutron POST /v2.0/routers": {"router": {"name": "n", "admin_state_up": True}},
    "neutron POST /v2.0/security-groups": {"security_group": {"name": "n", "description": "d"}},
    "neutron POST /v2.0/security-group-rules": {
        "security_group_rule": {
            "security_group_id": "{security-groups}",
            "direction": "egress",
            "protocol": "tcp",
            "port_range_min": 1,
            "port_range_max": 2,
            "remote_ip_prefix": "10.0.0.0/8",
        }
    },
    "nova POST /v2.1/flavors": {"flavor": {"name": "n", "vcpus": 1, "ram": 64, "disk": 1}},
    "nova POST /v2.1/os-keypairs": {"keypair": {"name": "n", "type": "ssh", "public_key": SSH_KEY}},
    "neutron PUT /v2.0/networks/{resource_id}": {"network": {"name": "n"}},
    "neutron PUT /v2.0/subnets/{resource_id}": {"subnet": {"name": "n"}},
    "neutron PUT /v2.0/subnetpools/{resource_id}": {"subnetpool": {"name": "n"}},
    "neutron PUT /v2.0/ports/{resource_id}": {"port": {"name": "n", "device_owner": "x"}},
    "neutron PUT /v2.0/routers/{resource_id}": {"router": {"name": "n"}},
    "neutron PUT /v2.0/routers/{resource_id}/add_extraroutes": {
        "router": {"routes": [{"destination": "10.7.0.0/24", "nexthop": "10.9.0.7"}]}
    },
    "neutron PUT /v2.0/routers/{resource_id}/remove_extraroutes": {
        "router": {"routes": [{"destination": "10.7.0.0/24", "nexthop": "10.9.0.7"}]}
    },
    "neutron PUT /v2.0/routers/{resource_id}/add_router_interface": {"subnet_id": "{subnets}"},
    "neutron PUT /v2.0/routers/{resource_id}/remove_router_interface": {"subnet_id": "{subnets}"},
    "neutron POST /v2.0/floatingips": {"floatingip": {"floating_network_id": "{outside}"}},
    "neutron PUT /v2.0/floatingips/{resource_id}": {"floatingip": {"description": "d"}},
    "neutron POST /v2.0/subnetpools": {"subnetpool": {"name": "n", "prefixes": ["10.80.0.0/16"]}},
    "neutron PUT /v2.0/security-groups/{resource_id}": {"security_group": {"name": "n"}},
    "neutron PUT /v2.0/agents/{agent_id}": {"agent": {"admin_state_up": True}},
    "neutron PUT /v2.0/quotas/{project_id}": {"quota": {"network": 5}},
    "keystone PATCH /v3/projects/{project}": {"project": {"name": "n2", "enabled": True}},
    "keystone PATCH /v3/domains/{domain}": {"domain": {"name": "n2", "enabled": True}},
    "keystone PATCH /v3/users/{user_id}": {"user": {"name": "n2", "enabled": True}},
    "keystone PATCH /v3/groups/{group_id}": {"group": {"name": "n2"}},
    "keystone PATCH /v3/roles/{role_id}": {"role": {"name": "n2"}},
    "glance PATCH /v2/images/{image_id}": [{"op": "replace", "path": "/name", "value": "n"}],
    "glance PUT /v2/images/{image_id}/members/{member_id}": {"status": "accepted"},
    "glance POST /v2/images/{image_id}/import": {"method": {"name": "glance-direct"}},
    "nova PUT /v2.1/servers/{server_id}": {"server": {"name": "n", "description": "d"}},
    "nova POST /v2.1/servers/{server_id}/action": {"os-stop": None},
    "nova POST /v2.1/servers/{server_id}/remote-consoles": {
        "remote_console": {"protocol": "vnc", "type": "novnc"}
    },
    "nova POST /v2.1/servers/{server_id}/os-volume_attachments": {
        "volumeAttachment": {"volumeId": "{volumes}"}
    },
    "nova POST /v2.1/servers/{server_id}/os-interface": {
        "interfaceAttachment": {"net_id": "{networks}"}
    },
    "nova POST /v2.1/servers/{server_id}/metadata": {"metadata": {"k": "v"}},
    "nova PUT /v2.1/servers/{server_id}/metadata": {"metadata": {"k": "v"}},
    "nova PUT /v2.1/servers/{server_id}/metadata/{key}": {"meta": {"k": "v"}},
    "nova PUT /v2.1/servers/{server_id}/tags": {"tags": ["t"]},
    "nova PUT /v2.1/flavors/{flavor_id}": {"flavor": {"description": "d"}},
    "nova POST /v2.1/flavors/{flavor_id}/action": {"addTenantAccess": {"tenant": P2}},
    "nova POST /v2.1/flavors/{flavor_id}/os-extra_specs": {"extra_specs": {"k": "v"}},
    "nova PUT /v2.1/flavors/{flavor_id}/os-extra_specs/{key}": {"k": "v"},
    "nova POST /v2.1/os-aggregates": {"aggregate": {"name": "n", "availability_zone": "z"}},
    "nova PUT /v2.1/os-aggregates/{aggregate_id}": {"aggregate": {"name": "n"}},
    "nova POST /v2.1/os-aggregates/{aggregate_id}/action": {
        "set_metadata": {"metadata": {"k": "v"}}
    },
    "nova POST /v2.1/os-aggregates/{aggregate_id}/images": {"cache": [{"id": "{images}"}]},
    "cairn POST /cairn/v1/hosts/{host}/fence": {"fence": {"by_hand": True}},
    "cairn POST /cairn/v1/tokens": {
        "token": {"roles": ["compute"], "zone": "z", "rack": "r", "labels": {"k": "v"}}
    },
    "cairn PATCH /cairn/v1/hosts/{host}": {
        "host": {"rack": "r", "labels": {"k": "v"}, "roles": ["compute", "network", "storage"]}
    },
    "cairn POST /cairn/v1/keys/rotate": {"rotate": {"kinds": ["fernet"]}},
    "nova PUT /v2.1/os-quota-sets/{project_id}": {"quota_set": {"cores": 5}},
    "nova PUT /v2.1/os-services/{service_id}": {"status": "disabled", "disabled_reason": "d"},
    "nova POST /v2.1/servers": {
        "server": {
            "name": "n",
            "flavorRef": "{flavors}",
            "imageRef": "{images}",
            "networks": "none",
            "metadata": {"k": "v"},
        }
    },
}
"""Bodies that are right, by route; the tests spoil one field after the other."""


def good_body(world: World, service: Service, route: Route) -> Any:
    body = GOOD.get(name_of(service, route))
    return None if body is None else world.filled(body)


def spoilt(body: Any, with_value: Any) -> Iterator[Any]:
    """The body with one of its values, at any depth, replaced."""
    if isinstance(body, dict):
        for key, value in body.items():
            yield {**body, key: with_value}
            for inner in spoilt(value, with_value):
                yield {**body, key: inner}
    elif isinstance(body, list):
        for index, value in enumerate(body):
            for inner in [with_value, *spoilt(value, with_value)]:
                yield [*body[:index], inner, *body[index + 1 :]]


def guesses(service: Service, route: Route) -> list[Any]:
    """Good enough bodies for routes without one in GOOD: the Struct's fields, each with a text."""
    if route.body in (None, object):
        return []
    info = msgspec.inspect.type_info(route.body)
    return [_guess(info, 4)]


def _guess(info: Any, depth: int) -> Any:
    kind = type(info).__name__
    if depth and kind == "StructType":
        return {f.encode_name: _guess(f.type, depth - 1) for f in info.fields}
    if kind == "UnionType":
        return _guess(info.types[0], depth)
    if depth and kind in ("ListType", "VarTupleType"):
        return [_guess(info.item_type, depth - 1)]
    if kind == "DictType":
        return {"k": _guess(info.value_type, depth - 1)}
    return {"IntType": 1, "BoolType": True, "FloatType": 1.5, "NoneType": None}.get(kind, "x")
