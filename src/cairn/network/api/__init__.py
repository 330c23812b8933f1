"""The Neutron v2.0 API: one table of routes, put together from the families' own."""

from cairn.core.errors import OverQuota
from cairn.http import faults
from cairn.http.routes import Service
from cairn.network.api import (
    addressing,
    discovery,
    edge,
    hosts,
    policy,
    quotas,
    routing,
    security,
)

SERVICE = Service(
    name="neutron",
    kind="network",
    root="/network",
    catalog_path="",  # Clients append "/v2.0" themselves.
    policy=policy.POLICY,
    shape_fault=faults.neutron,
    statuses={OverQuota: 409},
    routes=(
        *discovery.ROUTES,
        *addressing.ROUTES,
        *edge.ROUTES,
        *routing.ROUTES,
        *security.ROUTES,
        *quotas.ROUTES,
        *hosts.ROUTES,
    ),
)
