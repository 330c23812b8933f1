"""Who may do what in identity. Names are Keystone's; see its policy reference.

A user reaches the own user and the project of the token; a reader of the system sees everything; an admin
may everything. Path variables of a route are the targets here: `user_id`, `project`, `domain`.
"""

_READ = "rule:admin or (role:reader and system_scope:all)"
_OWNER = "rule:identity:reads_all or user_id:%(user_id)s"
_ADMIN = "rule:admin"
_ANYONE = "rule:anyone"
_PROJECT = "rule:identity:reads_all or project_id:%(project)s"

POLICY = {
    "identity:reads_all": _READ,
    "identity:signed_in": _ANYONE,
    "identity:validate_token": f"{_OWNER} or rule:service",
    "identity:revoke_token": "rule:admin or user_id:%(user_id)s",
    "identity:list_services": _READ,
    "identity:get_service": _READ,
    "identity:list_endpoints": _READ,
    "identity:get_endpoint": _READ,
    "identity:list_regions": _ANYONE,
    "identity:get_region": _ANYONE,
    "identity:list_domains": _READ,
    "identity:get_domain": (
        "rule:identity:reads_all or domain_id:%(domain)s or project_domain_id:%(domain)s"
        " or user_domain_id:%(domain)s"
    ),
    "identity:create_domain": _ADMIN,
    "identity:update_domain": _ADMIN,
    "identity:delete_domain": _ADMIN,
    "identity:list_projects": _READ,
    "identity:get_project": _PROJECT,
    "identity:create_project": _ADMIN,
    "identity:update_project": _ADMIN,
    "identity:delete_project": _ADMIN,
    "identity:list_project_tags": _PROJECT,
    "identity:get_project_tag": _PROJECT,
    "identity:update_project_tags": _ADMIN,
    "identity:create_project_tag": _ADMIN,
    "identity:delete_project_tag": _ADMIN,
    "identity:delete_project_tags": _ADMIN,
    "identity:list_users": _READ,
    "identity:get_user": _OWNER,
    "identity:create_user": _ADMIN,
    "identity:update_user": _ADMIN,
    "identity:delete_user": _ADMIN,
    "identity:list_groups_for_user": _OWNER,
    "identity:list_user_projects": _OWNER,
    "identity:list_groups": _READ,
    "identity:get_group": _READ,
    "identity:create_group": _ADMIN,
    "identity:update_group": _ADMIN,
    "identity:delete_group": _ADMIN,
    "identity:list_users_in_group": _READ,
    "identity:add_user_to_group": _ADMIN,
    "identity:check_user_in_group": _OWNER,
    "identity:remove_user_from_group": _ADMIN,
    "identity:list_roles": _READ,
    "identity:get_role": _READ,
    "identity:create_role": _ADMIN,
    "identity:update_role": _ADMIN,
    "identity:delete_role": _ADMIN,
    "identity:list_role_inference_rules": _READ,
    "identity:list_implied_roles": _READ,
    "identity:get_implied_role": _READ,
    "identity:check_implied_role": _READ,
    "identity:create_implied_role": _ADMIN,
    "identity:delete_implied_role": _ADMIN,
    "identity:list_role_assignments": _READ,
    "identity:list_grants": _READ,
    "identity:check_grant": _READ,
    "identity:create_grant": _ADMIN,
    "identity:revoke_grant": _ADMIN,
    "identity:list_system_grants_for_user": _READ,
    "identity:check_system_grant_for_user": _READ,
    "identity:create_system_grant_for_user": _ADMIN,
    "identity:revoke_system_grant_for_user": _ADMIN,
    "identity:list_system_grants_for_group": _READ,
    "identity:check_system_grant_for_group": _READ,
    "identity:create_system_grant_for_group": _ADMIN,
    "identity:revoke_system_grant_for_group": _ADMIN,
}
