"""Domains, projects and their tags over HTTP."""

from collections.abc import Sequence
from typing import Any

import msgspec

from cairn.core.errors import Denied, Invalid, NotFound
from cairn.core.ids import DomainId, ProjectId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity import places, store
from cairn.identity.listing import filters, link, listed, listing, page
from cairn.identity.records import DEFAULT_DOMAIN, Domain, Project
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


def routes() -> tuple[Route, ...]:
    domain, project = "/v3/domains/{domain}", "/v3/projects/{project}"
    tags, tag = f"{project}/tags", f"{project}/tags/{{tag}}"
    return (
        Route(method="GET", path="/v3/domains", rule="identity:list_domains", do=list_domains),
        Route(method="POST", path="/v3/domains", rule="identity:create_domain", do=create_domain,
              body=DomainBody, status=201),
        Route(method="GET", path=domain, rule="identity:get_domain", do=get_domain),
        Route(method="PATCH", path=domain, rule="identity:update_domain", do=update_domain,
              body=DomainBody),
        Route(method="DELETE", path=domain, rule="identity:delete_domain", do=delete_domain,
              status=204),
        Route(method="GET", path="/v3/projects", rule="identity:list_projects", do=list_projects),
        Route(method="POST", path="/v3/projects", rule="identity:create_project", do=create_project,
              body=ProjectBody, status=201),
        Route(method="GET", path=project, rule="identity:get_project", do=get_project),
        Route(method="PATCH", path=project, rule="identity:update_project", do=update_project,
              body=ProjectBody),
        Route(method="DELETE", path=project, rule="identity:delete_project", do=delete_project,
              status=204),
        Route(method="GET", path=tags, rule="identity:list_project_tags", do=list_tags),
        Route(method="PUT", path=tags, rule="identity:update_project_tags", do=replace_tags,
              body=TagsBody),
        Route(method="DELETE", path=tags, rule="identity:delete_project_tags", do=delete_tags,
              status=204),
        Route(method="GET", path=tag, rule="identity:get_project_tag", do=check_tag, status=204),
        Route(method="PUT", path=tag, rule="identity:create_project_tag", do=add_tag, status=201),
        Route(method="DELETE", path=tag, rule="identity:delete_project_tag", do=delete_tag,
              status=204),
    )  # fmt: skip


def show_domain(call: Call[Any], domain: Domain) -> dict[str, Any]:
    return {
        **domain.extra,
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "tags": [],
        "options": {"immutable": True} if domain.is_immutable else {},
        "links": link(call, f"domains/{domain.id}"),
    }


def show_projects(tx: Tx, call: Call[Any], projects: Sequence[Project]) -> list[dict[str, Any]]:
    tags = store.tags_of(tx, [p.id for p in projects])
    return [
        {
            **project.extra,
            "id": project.id,
            "name": project.name,
            "domain_id": project.domain_id,
            "parent_id": project.parent_id,
            "description": project.description,
            "enabled": project.enabled,
            "is_domain": False,
            "tags": tags.get(project.id, []),
            "options": {"immutable": True} if project.is_immutable else {},
            "links": link(call, f"projects/{project.id}"),
        }
        for project in projects
    ]


def home_domain(call: Call[Any], asked: str | None) -> DomainId:
    """The domain of a new thing: as asked, else that of the caller's scope."""
    who = call.who
    return DomainId(asked or who.scope_domain_id or who.project_domain_id or DEFAULT_DOMAIN)


def list_domains(tx: Tx, call: Call[None]) -> dict[str, Any]:
    wanted = filters(call, store.DOMAINS, ("name", "enabled"))
    return listing(tx, call, "domains", store.DOMAINS, wanted, show_domain)


def create_domain(tx: Tx, call: Call[DomainBody]) -> dict[str, Any]:
    changes, extra = read(call.body.domain, DomainWish, "domain")
    require_name(changes, "domain")
    new = Domain(id=DomainId(tx.new_hex_id()), **changes, extra=extra)
    return {"domain": show_domain(call, places.create_domain(tx, new))}


def get_domain(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"domain": show_domain(call, places.domain(tx, call.path["domain"]))}


def update_domain(tx: Tx, call: Call[DomainBody]) -> dict[str, Any]:
    changes, extra = read(call.body.domain, DomainWish, "domain")
    old = places.domain(tx, call.path["domain"])
    new = places.update_domain(tx, old.id, {**changes, "extra": {**old.extra, **extra}})
    return {"domain": show_domain(call, new)}


def delete_domain(tx: Tx, call: Call[None]) -> None:
    places.delete_domain(tx, call.path["domain"])


def list_projects(tx: Tx, call: Call[None]) -> dict[str, Any]:
    if call.query.boolean("is_domain"):
        return listed(call, "projects", [])  # No project of ours acts as a domain.
    wanted = filters(call, store.PROJECTS, ("name", "domain_id", "parent_id", "enabled"))
    wanted += [store.has_tag(tag) for tag in _tags_in(call, "tags")]
    if any_of := _tags_in(call, "tags-any"):
        wanted.append(store.has_any_tag(any_of))
    wanted += [~store.has_tag(tag) for tag in _tags_in(call, "not-tags-any")]
    if not_all := _tags_in(call, "not-tags"):
        wanted.append(~store.has_all_tags(not_all))
    shown, following = page(tx, call, store.PROJECTS, wanted)
    return listed(call, "projects", show_projects(tx, call, shown), following)


def create_project(tx: Tx, call: Call[ProjectBody]) -> dict[str, Any]:
    if call.body.project.get("is_domain"):
        raise Denied("Projects that act as a domain are not supported; create a domain.")
    changes, extra = read(call.body.project, ProjectWish, "project")
    require_name(changes, "project")
    tags = changes.pop("tags", ())
    parent_id = changes.pop("parent_id", None)
    domain_id = _project_domain(tx, call, changes.pop("domain_id", None), parent_id)
    new = Project(
        id=ProjectId(tx.new_hex_id()),
        domain_id=domain_id,
        parent_id=parent_id or domain_id,
        **changes,
        extra=extra,
    )
    return {"project": _show(tx, call, places.create_project(tx, new, tags))}


def get_project(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"project": _show(tx, call, places.project(tx, call.path["project"]))}


def update_project(tx: Tx, call: Call[ProjectBody]) -> dict[str, Any]:
    changes, extra = read(call.body.project, ProjectWish, "project")
    old = places.project(tx, call.path["project"])
    tags = changes.pop("tags", None)
    changes = {k: v for k, v in changes.items() if not (k.endswith("_id") and v is None)}
    new = places.update_project(tx, old.id, {**changes, "extra": {**old.extra, **extra}}, tags)
    return {"project": _show(tx, call, new)}


def delete_project(tx: Tx, call: Call[None]) -> None:
    places.delete_project(tx, call.path["project"])


def list_tags(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return listed(call, "tags", _tags(tx, call))


def replace_tags(tx: Tx, call: Call[TagsBody]) -> dict[str, Any]:
    project = places.project(tx, call.path["project"])
    return listed(call, "tags", places.set_tags(tx, project.id, call.body.tags))


def delete_tags(tx: Tx, call: Call[None]) -> None:
    places.set_tags(tx, places.project(tx, call.path["project"]).id, ())


def check_tag(tx: Tx, call: Call[None]) -> None:
    _require_tag(call, _tags(tx, call))


def add_tag(tx: Tx, call: Call[None]) -> Reply:
    try:
        tag = msgspec.convert(call.path["tag"], Tag)
    except msgspec.ValidationError as error:
        raise Invalid(f"Invalid tag: {error}") from error
    project = places.project(tx, call.path["project"])
    places.set_tags(tx, project.id, [*_tags(tx, call), tag])
    return Reply(headers={"Location": f"{call.base_url}{call.url_path}"})


def delete_tag(tx: Tx, call: Call[None]) -> None:
    tags = _tags(tx, call)
    tag = _require_tag(call, tags)
    project = places.project(tx, call.path["project"])
    places.set_tags(tx, project.id, [t for t in tags if t != tag])


def _show(tx: Tx, call: Call[Any], project: Project) -> dict[str, Any]:
    return show_projects(tx, call, [project])[0]


def _project_domain(
    tx: Tx, call: Call[Any], domain_id: str | None, parent_id: str | None
) -> DomainId:
    """The domain of a new project: as asked, else its parent's, else the caller's."""
    if domain_id is None and parent_id is not None:
        parent = store.PROJECTS.get(tx, parent_id)
        return parent.domain_id if parent else places.domain(tx, parent_id).id
    return home_domain(call, domain_id)


def _tags(tx: Tx, call: Call[Any]) -> list[str]:
    project = places.project(tx, call.path["project"])
    return store.tags_of(tx, [project.id]).get(project.id, [])


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
