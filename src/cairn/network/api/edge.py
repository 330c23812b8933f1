"""Ports over HTTP."""

from cairn.network import shapes
from cairn.network.api.addressing import each
from cairn.network.api.policy import ADMINS_TO_SEE
from cairn.network.api.resource import Resource, routes
from cairn.network.service import ports
from cairn.network.wishes import PortWish

PORT = Resource(
    one="port",
    many="ports",
    path="ports",
    wish=PortWish,
    find=ports.find_ports,
    get=ports.get_port,
    show=each(shapes.port),
    create=ports.create_port,
    update=ports.update_port,
    delete=ports.delete_port,
    fixed=frozenset({"network_id"}),
    hidden=ADMINS_TO_SEE["port"],
)

ROUTES = routes(PORT)
