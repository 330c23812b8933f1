"""Security groups and their rules over HTTP."""

from typing import Any

from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Reply
from cairn.network import shapes
from cairn.network.api.addressing import each
from cairn.network.api.resource import Resource, list_page, routes
from cairn.network.service import groups
from cairn.network.wishes import GroupWish, RuleWish


async def _list_groups(database: Database, call: Call[Any]) -> Reply:
    """A project's first look makes its default group; every other look only reads."""
    project_id = call.who.project_id
    if project_id is not None and not await database.read(
        lambda tx: groups.has_default(tx, project_id)
    ):
        await database.write(lambda tx: groups.ensure_default(tx, project_id))

    def page(tx: Tx) -> Reply:
        return list_page(tx, call, GROUP)

    return await database.read(page)


GROUP = Resource(
    one="security_group",
    many="security_groups",
    path="security-groups",
    wish=GroupWish,
    find=groups.find_groups,
    get=groups.get_group,
    show=each(shapes.group),
    create=groups.create_group,
    update=groups.update_group,
    delete=groups.delete_group,
    list_run=_list_groups,
)

RULE = Resource(
    one="security_group_rule",
    many="security_group_rules",
    path="security-group-rules",
    wish=RuleWish,
    find=groups.find_rules,
    get=groups.get_rule,
    show=each(shapes.rule),
    create=groups.create_rule,
    update=None,
    delete=groups.delete_rule,
    has_tags=False,
)

ROUTES = (*routes(GROUP), *routes(RULE))
