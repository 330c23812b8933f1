"""Domains, projects and their tags over HTTP."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from cairn.core.errors import Denied, Invalid, NotFound
from cairn.core.ids import DomainId, ProjectId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity import places, store, store_grants, store_places, targets
from cairn.identity.listing import filters, flag, link, listed, page
from cairn.identity.records import Domain, Project
from cairn.identity.shapes import (
    DomainBody,
    DomainWish,
    ProjectBody,
    ProjectWish,
    Tag,
    TagsBody,
    read,
    require_name,
)

_TAG_FILTERS = ("tags", "tags-any", "not-tags", "not-tags-any")
_ID = re.compile(r"[0-9a-f]{32}")


def routes() -> tuple[Route, ...]:
    domain, project = "/v3/domains/{domain}", "/v3/projects/{project}"
    tags, tag = f"{project}/tags", f"{project}/tags/{{tag}}"
    of_project = targets.of_project
    return (
        Route(method="GET", path="/v3/domains", rule="identity:list_domains", do=list_domains,
              target=targets.of_own_domain),
        Route(method="POST", path="/v3/domains", rule="identity:create_domain", do=create_domain,
              body=DomainBody, status=201),
        Route(method="GET", path=domain, rule="identity:get_domain", do=get_domain,
              target=targets.of_domain),
        Route(method="PATCH", path=domain, rule="identity:update_domain", do=update_domain,
              body=DomainBody, target=targets.of_domain),
        Route(method="DELETE", path=domain, rule="identity:delete_domain", do=delete_domain,
              status=204, target=targets.of_domain),
        Route(method="GET", path="/v3/projects", rule="identity:list_projects", do=list_projects,
              target=targets.of_own_domain),
        Route(method="POST", path="/v3/projects", rule="identity:create_project", do=create_project,
              body=ProjectBody, status=201, target=targets.of_new_project),
        Route(method="GET", path=project, rule="identity:get_project", do=get_project,
              target=of_project),
        Route(method="PATCH", path=project, rule="identity:update_project", do=update_project,
              body=ProjectBody, target=of_project),
        Route(method="DELETE", path=project, rule="identity:delete_project", do=delete_project,
              status=204, target=of_project),
        Route(method="GET", path=tags, rule="identity:list_project_tags", do=list_tags,
              target=of_project),
        Route(method="PUT", path=tags, rule="identity:update_project_tags", do=replace_tags,
              body=TagsBody, target=of_project),
        Route(method="DELETE", path=tags, rule="identity:delete_project_tags", do=delete_tags,
              status=204, target=of_project),
        Route(method="GET", path=tag, rule="identity:get_project_tag", do=check_tag, status=204,
              target=of_project),
        Route(method="PUT", path=tag, rule="identity:create_project_tag", do=add_tag, status=201,
              target=of_project),
        Route(method="DELETE", path=tag, rule="identity:delete_project_tag", do=delete_tag,
              status=204, target=of_project),
    )  # fmt: skip


def show_domain(call: Call[Any], domain: Domain, tags: Sequence[str] = ()) -> dict[str, Any]:
    return {
        **domain.extra,
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "tags": tags,
        "options": {"immutable": True} if domain.is_immutable else {},
        "links": link(call, f"domains/{domain.id}"),
    }


def show_domains(tx: Tx, call: Call[Any], domains: Sequence[Domain]) -> list[dict[str, Any]]:
    tags = store_places.tags_of(tx, [d.id for d in domains])
    return [show_domain(call, domain, tags.get(domain.id, [])) for domain in domains]


def show_projects(
    tx: Tx, call: Call[Any], projects: Sequence[Project | Domain]
) -> list[dict[str, Any]]:
    """Also domains, as the projects that they are to Keystone."""
    tags = store_places.tags_of(tx, [p.id for p in projects])
    return [
        {
            **project.extra,
            "id": project.id,
            "name": project.name,
            "domain_id": project.domain_id if isinstance(project, Project) else None,
            "parent_id": project.parent_id if isinstance(project, Project) else None,
            "description": project.description,
            "enabled": project.enabled,
            "is_domain": isinstance(project, Domain),
            "tags": tags.get(project.id, []),
            "options": {"immutable": True} if project.is_immutable else {},
            "links": link(call, f"projects/{project.id}"),
        }
        for project in projects
    ]


# Domains


def list_domains(tx: Tx, call: Call[None]) -> dict[str, Any]:
    wanted = filters(call, store.DOMAINS, ("name", "enabled"))
    if mine := call.who.scope_domain_id:
        wanted.append(store.domains.c.id == mine)
    shown, following = page(tx, call, store.DOMAINS, wanted)
    return listed(call, "domains", show_domains(tx, call, shown), following)


def create_domain(tx: Tx, call: Call[DomainBody]) -> dict[str, Any]:
    changes, extra = read(call.body.domain, DomainWish, "domain")
    require_name(changes, "domain")
    wanted_id = changes.pop("explicit_domain_id", None)
    if wanted_id is not None and not _ID.fullmatch(wanted_id):
        raise Invalid("Field 'explicit_domain_id' must have 32 hexadecimal digits.")
    return {"domain": show_domains(tx, call, [_new_domain(tx, changes, extra, wanted_id)])[0]}


def _new_domain(
    tx: Tx, changes: dict[str, Any], extra: dict[str, Any], wanted_id: str | None = None
) -> Domain:
    tags = changes.pop("tags", ())
    new = Domain(id=DomainId(wanted_id or tx.new_hex_id()), **_stripped(changes), extra=extra)
    return places.create_domain(tx, new, tags)


def get_domain(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"domain": show_domains(tx, call, [places.domain(tx, call.path["domain"])])[0]}


def update_domain(tx: Tx, call: Call[DomainBody]) -> dict[str, Any]:
    changes, extra = read(call.body.domain, DomainWish, "domain")
    old = places.domain(tx, call.path["domain"])
    if changes.pop("explicit_domain_id", old.id) != old.id:
        raise Invalid("Field 'explicit_domain_id' of a domain cannot be changed.")
    return {"domain": show_domains(tx, call, [_update_domain(tx, old, changes, extra)])[0]}


def _update_domain(tx: Tx, old: Domain, changes: dict[str, Any], extra: dict[str, Any]) -> Domain:
    tags = changes.pop("tags", None)
    changed = {**_stripped(changes), "extra": {**old.extra, **extra}}
    return places.update_domain(tx, old.id, changed, tags)


def delete_domain(tx: Tx, call: Call[None]) -> None:
    places.delete_domain(tx, call.path["domain"])


# Projects


def list_projects(tx: Tx, call: Call[None]) -> dict[str, Any]:
    tagged = [(kind, tags) for kind in _TAG_FILTERS if (tags := _tags_in(call, kind))]
    if call.query.get("is_domain") is not None and flag(call, "is_domain"):
        return _list_domains_as_projects(tx, call, tagged)
    wanted = filters(call, store.PROJECTS, ("name", "domain_id", "parent_id", "enabled"))
    wanted += store_places.is_tagged(store.projects, tagged)
    if mine := call.who.scope_domain_id:
        wanted.append(store.projects.c.domain_id == mine)
    shown, following = page(tx, call, store.PROJECTS, wanted)
    return listed(call, "projects", show_projects(tx, call, shown), following)


def _list_domains_as_projects(
    tx: Tx, call: Call[None], tagged: list[tuple[str, list[str]]]
) -> dict[str, Any]:
    """Those that are in no domain and have no parent: asked for one, there are none."""
    if call.who.scope_domain_id or "domain_id" in call.query or "parent_id" in call.query:
        return listed(call, "projects", [])
    wanted = filters(call, store.DOMAINS, ("name", "enabled"))
    wanted += store_places.is_tagged(store.domains, tagged)
    shown, following = page(tx, call, store.DOMAINS, wanted)
    return listed(call, "projects", show_projects(tx, call, shown), following)


def create_project(tx: Tx, call: Call[ProjectBody]) -> dict[str, Any]:
    changes, extra = read(call.body.project, ProjectWish, "project")
    require_name(changes, "project")
    domain_id = targets.domain_of_new_project(tx, call, call.body.project)
    asked, parent_id = changes.pop("domain_id", None), changes.pop("parent_id", None)
    if changes.pop("is_domain", False):
        if asked or parent_id:
            raise Invalid("Only root projects are allowed to act as domains.")
        return {"project": _show(tx, call, _new_domain(tx, changes, extra))}
    assert domain_id is not None, "what is no domain is in one"
    tags = changes.pop("tags", ())
    new = Project(
        id=ProjectId(tx.new_hex_id()),
        domain_id=domain_id,
        parent_id=parent_id or domain_id,
        **_stripped(changes),
        extra=extra,
    )
    return {"project": _show(tx, call, places.create_project(tx, new, tags))}


def get_project(tx: Tx, call: Call[None]) -> dict[str, Any]:
    place = _place(tx, call)
    return {"project": {**_show(tx, call, place), **_relatives(tx, call, place)}}


def _relatives(tx: Tx, call: Call[None], place: Project | Domain) -> dict[str, Any]:
    """What the query asks for of the tree that the project is in."""
    wants = {
        f"{what}_as_{how}": (what, how)
        for what in ("parents", "subtree")
        for how in ("list", "ids")
    }
    asked = [wants[name] for name in wants if flag(call, name)]
    found: dict[str, Any] = {}
    for what, how in asked:
        if what in found:
            raise Invalid(f"Cannot use {what}_as_list and {what}_as_ids at the same time.")
        if what == "parents":
            above = store_places.ancestors(tx, place.id)
            found[what] = _parents_as_ids(place, above) if how == "ids" else _mine(tx, call, above)
        else:
            below = store_places.below(tx, place.id)
            found[what] = _subtree_as_ids(place, below) if how == "ids" else _mine(tx, call, below)
    return found


def _mine(tx: Tx, call: Call[Any], projects: Sequence[Project]) -> list[dict[str, Any]]:
    """Of these only the projects that the caller has a role in, as Keystone does even for administrators."""
    if not projects:
        return []
    who = call.who
    mine = store.PROJECTS.page(
        tx,
        [
            store.projects.c.domain_id == projects[0].domain_id,
            store_grants.projects_of_user(who.user_id, who.group_ids),
        ],
        limit=places.TREE_MAX,
    )
    ids = {project.id for project in mine}
    shown = show_projects(tx, call, [p for p in projects if p.id in ids])
    return [{"project": project} for project in shown]


def _parents_as_ids(place: Project | Domain, above: Sequence[Project]) -> dict[str, Any] | None:
    """{parent: {grandparent: {domain: None}}}"""
    if isinstance(place, Domain):
        return None
    found: dict[str, Any] | None = None
    for id_ in (place.domain_id, *(project.id for project in reversed(above))):
        found = {id_: found}
    return found


def _subtree_as_ids(place: Project | Domain, below: Sequence[Project]) -> dict[str, Any] | None:
    """{child: {grandchild: None}, another: None}"""
    children: dict[str, list[str]] = {}
    for project in below:
        children.setdefault(project.parent_id, []).append(project.id)

    def under(id_: str) -> dict[str, Any] | None:
        return {child: under(child) for child in children[id_]} if id_ in children else None

    return under(place.id)


def update_project(tx: Tx, call: Call[ProjectBody]) -> dict[str, Any]:
    changes, extra = read(call.body.project, ProjectWish, "project")
    old = _place(tx, call)
    if changes.pop("is_domain", isinstance(old, Domain)) != isinstance(old, Domain):
        raise Invalid("Update of 'is_domain' is not allowed.")
    if isinstance(old, Domain):
        if changes.pop("domain_id", None):
            raise Invalid("Cannot change Domain ID: a project that acts as a domain is in none.")
        if changes.pop("parent_id", None):
            raise Denied("Update of 'parent_id' is not allowed.")
        return {"project": _show(tx, call, _update_domain(tx, old, changes, extra))}
    tags = changes.pop("tags", None)
    changes = {k: v for k, v in changes.items() if not (k.endswith("_id") and v is None)}
    changed = {**_stripped(changes), "extra": {**old.extra, **extra}}
    return {"project": _show(tx, call, places.update_project(tx, old.id, changed, tags))}


def delete_project(tx: Tx, call: Call[None]) -> None:
    place = _place(tx, call)
    delete = places.delete_domain if isinstance(place, Domain) else places.delete_project
    delete(tx, place.id)


# Tags


def list_tags(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return listed(call, "tags", _tags(tx, call))


def replace_tags(tx: Tx, call: Call[TagsBody]) -> dict[str, Any]:
    return listed(call, "tags", places.set_tags(tx, _place(tx, call).id, call.body.tags))


def delete_tags(tx: Tx, call: Call[None]) -> None:
    places.set_tags(tx, _place(tx, call).id, ())


def check_tag(tx: Tx, call: Call[None]) -> None:
    _require_tag(call, _tags(tx, call))


def add_tag(tx: Tx, call: Call[None]) -> Reply:
    try:
        tag = msgspec.convert(call.path["tag"], Tag)
    except msgspec.ValidationError as error:
        raise Invalid(f"Invalid tag: {error}") from error
    place, tags = _place(tx, call), _tags(tx, call)
    if tag not in tags:
        places.set_tags(tx, place.id, [*tags, tag])
    return Reply(headers={"Location": f"{call.base_url}{call.url_path}"})


def delete_tag(tx: Tx, call: Call[None]) -> None:
    tags = _tags(tx, call)
    tag = _require_tag(call, tags)
    places.set_tags(tx, _place(tx, call).id, [t for t in tags if t != tag])


def _place(tx: Tx, call: Call[Any]) -> Project | Domain:
    return store.DOMAINS.get(tx, call.path["project"]) or places.project(tx, call.path["project"])


def _show(tx: Tx, call: Call[Any], place: Project | Domain) -> dict[str, Any]:
    return show_projects(tx, call, [place])[0]


def _stripped(changes: dict[str, Any]) -> dict[str, Any]:
    return {**changes, "name": changes["name"].strip()} if "name" in changes else changes


def _tags(tx: Tx, call: Call[Any]) -> list[str]:
    place = _place(tx, call)
    return store_places.tags_of(tx, [place.id]).get(place.id, [])


def _require_tag(call: Call[Any], tags: Sequence[str]) -> str:
    tag = call.path["tag"]
    if tag not in tags:
        raise NotFound(f"Could not find project tag: {tag}.")
    return tag


def _tags_in(call: Call[Any], key: str) -> list[str]:
    found = [tag for tag in (call.query.get(key) or "").split(",") if tag]
    if len(found) > places.TAGS_MAX:
        raise Invalid(f"Query parameter '{key}' may have at most {places.TAGS_MAX} tags.")
    return found
