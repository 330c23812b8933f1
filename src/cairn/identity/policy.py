"""Who may do what in identity. Rules, their names and their targets are Keystone's own; see its policy
reference.

Scopes that Keystone lists beside a rule are part of it here: "domain_id:None" is that a token for a domain
is not enough, even with the role admin. Stricter than Keystone in one thing: a domain's manager may not
take over somebody who rules the whole cloud (`domain_managed_target_user` and `..._group`), though that
user or group be of the manager's domain.
"""

from cairn.identity.delegation.policy import DELEGATION

_ADMIN = "rule:admin_required and domain_id:None"
_READ = "rule:identity:reads_all and domain_id:None"
_ANYONE = "rule:anyone"
_OWNER = "rule:identity:reads_all or rule:owner"

_DOMAIN_USER = "domain_id:%(target.user.domain_id)s"
_DOMAIN_GROUP = "domain_id:%(target.group.domain_id)s"
_DOMAIN_PROJECT = "domain_id:%(target.project.domain_id)s"
_DOMAIN = "domain_id:%(target.domain.id)s"
_DOMAIN_ROLE = "(domain_id:%(target.role.domain_id)s or None:%(target.role.domain_id)s)"

_READ_OWN_DOMAIN = "rule:identity:reads_all or (role:reader and domain_id:%(target.domain_id)s)"
_PROJECT = (
    f"rule:identity:reads_all or (role:reader and {_DOMAIN_PROJECT})"
    " or project_id:%(target.project.id)s"
)
_MANAGE_PROJECT = f"rule:admin_required or (role:manager and {_DOMAIN_PROJECT})"
_USER = f"rule:identity:reads_all or (role:reader and {_DOMAIN_USER}) or user_id:%(target.user.id)s"
_MANAGE_USER = (
    f"rule:admin_required or (role:manager and {_DOMAIN_USER} and rule:domain_managed_target_user)"
)
_GROUP = f"rule:identity:reads_all or (role:reader and {_DOMAIN_GROUP})"
_MANAGE_GROUP = (
    f"rule:admin_required or (role:manager and {_DOMAIN_GROUP}"
    " and rule:domain_managed_target_group)"
)
_MANAGE_MEMBER = (
    f"rule:admin_required or (role:manager and {_DOMAIN_GROUP} and {_DOMAIN_USER}"
    " and rule:domain_managed_target_group)"
)
_IN_DOMAIN = (
    f"(({_DOMAIN_USER} or {_DOMAIN_GROUP}) and ({_DOMAIN_PROJECT} or {_DOMAIN}))"  # of a grant
)
_GRANT = (
    f"rule:admin_required or (role:admin and {_IN_DOMAIN} and {_DOMAIN_ROLE})"
    f" or (role:manager and {_IN_DOMAIN} and rule:domain_managed_target_role)"
)

_READ_CREDENTIAL = "rule:identity:reads_all or user_id:%(target.credential.user_id)s"
_CHANGE_CREDENTIAL = "rule:admin_required or user_id:%(target.credential.user_id)s"
_CHANGE_EC2_KEY = "rule:admin_required or (role:member and user_id:%(target.credential.user_id)s)"

POLICY = {
    **DELEGATION,
    "admin_required": "role:admin",
    "service_role": "role:service",
    "service_or_admin": "rule:admin_required or rule:service_role",
    "owner": "user_id:%(user_id)s",
    "admin_or_owner": "rule:admin_required or rule:owner",
    "token_subject": "user_id:%(target.token.user_id)s",
    "admin_or_token_subject": "rule:admin_required or rule:token_subject",
    "service_admin_or_token_subject": "rule:service_or_admin or rule:token_subject",
    "domain_managed_target_role": (
        "'manager':%(target.role.name)s or 'member':%(target.role.name)s"
        " or 'reader':%(target.role.name)s"
    ),
    "domain_managed_target_user": "'False':%(target.user.rules_the_cloud)s",
    "domain_managed_target_group": "'False':%(target.group.rules_the_cloud)s",
    "identity:reads_all": "rule:admin_required or (role:reader and system_scope:all)",
    "identity:signed_in": _ANYONE,
    "identity:get_auth_catalog": _ANYONE,
    "identity:get_auth_projects": _ANYONE,
    "identity:get_auth_domains": _ANYONE,
    "identity:get_auth_system": _ANYONE,
    "identity:check_token": "rule:identity:reads_all or rule:token_subject",
    "identity:validate_token": (
        "rule:identity:reads_all or rule:service_role or rule:token_subject"
    ),
    "identity:revoke_token": "rule:admin_required or rule:token_subject",
    "identity:list_revoke_events": "rule:service_or_admin and domain_id:None",
    "identity:list_services": _READ,
    "identity:get_service": _READ,
    "identity:list_endpoints": _READ,
    "identity:get_endpoint": _READ,
    "identity:list_regions": _ANYONE,
    "identity:get_region": _ANYONE,
    "identity:list_domains": f"rule:identity:reads_all or (role:reader and {_DOMAIN})",
    "identity:get_domain": (
        "rule:identity:reads_all or token.domain.id:%(target.domain.id)s"
        " or token.project.domain.id:%(target.domain.id)s"
    ),
    "identity:create_domain": _ADMIN,
    "identity:update_domain": _ADMIN,
    "identity:delete_domain": _ADMIN,
    "identity:create_domain_config": _ADMIN,
    "identity:get_domain_config": _READ,
    "identity:get_domain_config_default": _READ,
    "identity:get_security_compliance_domain_config": _ANYONE,
    "identity:update_domain_config": _ADMIN,
    "identity:delete_domain_config": _ADMIN,
    "identity:list_projects": _READ_OWN_DOMAIN,
    "identity:get_project": _PROJECT,
    "identity:create_project": _MANAGE_PROJECT,
    "identity:update_project": _MANAGE_PROJECT,
    "identity:delete_project": _MANAGE_PROJECT,
    "identity:list_project_tags": _PROJECT,
    "identity:get_project_tag": _PROJECT,
    "identity:update_project_tags": _MANAGE_PROJECT,
    "identity:create_project_tag": _MANAGE_PROJECT,
    "identity:delete_project_tag": _MANAGE_PROJECT,
    "identity:delete_project_tags": _MANAGE_PROJECT,
    "identity:list_users": _READ_OWN_DOMAIN,
    "identity:get_user": _USER,
    "identity:create_user": _MANAGE_USER,
    "identity:update_user": _MANAGE_USER,
    "identity:delete_user": _MANAGE_USER,
    "identity:list_groups_for_user": f"{_OWNER} or (role:reader and {_DOMAIN_USER})",
    "identity:list_user_projects": _USER,
    "identity:list_groups": _GROUP,
    "identity:get_group": _GROUP,
    "identity:create_group": _MANAGE_GROUP,
    "identity:update_group": _MANAGE_GROUP,
    "identity:delete_group": _MANAGE_GROUP,
    "identity:list_users_in_group": _GROUP,
    "identity:add_user_to_group": _MANAGE_MEMBER,
    "identity:check_user_in_group": (
        f"rule:identity:reads_all or (role:reader and {_DOMAIN_GROUP} and {_DOMAIN_USER})"
    ),
    "identity:remove_user_from_group": _MANAGE_MEMBER,
    "identity:list_roles": "rule:identity:reads_all or (role:manager and not domain_id:None)",
    "identity:get_role": "rule:identity:reads_all or (role:manager and rule:domain_managed_target_role)",
    "identity:create_role": _ADMIN,
    "identity:update_role": _ADMIN,
    "identity:delete_role": _ADMIN,
    "identity:list_domain_roles": _READ,
    "identity:get_domain_role": _READ,
    "identity:create_domain_role": _ADMIN,
    "identity:update_domain_role": _ADMIN,
    "identity:delete_domain_role": _ADMIN,
    "identity:list_role_inference_rules": _READ,
    "identity:list_implied_roles": _READ,
    "identity:get_implied_role": _READ,
    "identity:check_implied_role": _READ,
    "identity:create_implied_role": _ADMIN,
    "identity:delete_implied_role": _ADMIN,
    "identity:list_role_assignments": _READ_OWN_DOMAIN,
    "identity:list_role_assignments_for_tree": _READ_OWN_DOMAIN,
    "identity:list_grants": f"rule:identity:reads_all or (role:reader and {_IN_DOMAIN})",
    "identity:check_grant": f"rule:identity:reads_all or (role:reader and {_IN_DOMAIN} and {_DOMAIN_ROLE})",
    "identity:create_grant": _GRANT,
    "identity:revoke_grant": _GRANT,
    "identity:list_system_grants_for_user": _READ,
    "identity:check_system_grant_for_user": _READ,
    "identity:create_system_grant_for_user": _ADMIN,
    "identity:revoke_system_grant_for_user": _ADMIN,
    "identity:list_system_grants_for_group": _READ,
    "identity:check_system_grant_for_group": _READ,
    "identity:create_system_grant_for_group": _ADMIN,
    "identity:revoke_system_grant_for_group": _ADMIN,
    "identity:create_region": _ADMIN,
    "identity:update_region": _ADMIN,
    "identity:delete_region": _ADMIN,
    "identity:create_service": _ADMIN,
    "identity:update_service": _ADMIN,
    "identity:delete_service": _ADMIN,
    "identity:create_endpoint": _ADMIN,
    "identity:update_endpoint": _ADMIN,
    "identity:delete_endpoint": _ADMIN,
    "identity:list_endpoint_groups": _READ,
    "identity:get_endpoint_group": _READ,
    "identity:create_endpoint_group": _ADMIN,
    "identity:update_endpoint_group": _ADMIN,
    "identity:delete_endpoint_group": _ADMIN,
    "identity:list_projects_associated_with_endpoint_group": _READ,
    "identity:list_endpoints_associated_with_endpoint_group": _READ,
    "identity:get_endpoint_group_in_project": _READ,
    "identity:list_endpoint_groups_for_project": _READ,
    "identity:add_endpoint_group_to_project": _ADMIN,
    "identity:remove_endpoint_group_from_project": _ADMIN,
    "identity:list_projects_for_endpoint": _READ,
    "identity:check_endpoint_in_project": _READ,
    "identity:list_endpoints_for_project": _READ,
    "identity:add_endpoint_to_project": _ADMIN,
    "identity:remove_endpoint_from_project": _ADMIN,
    "identity:get_policy": _READ,
    "identity:list_policies": _READ,
    "identity:create_policy": _ADMIN,
    "identity:update_policy": _ADMIN,
    "identity:delete_policy": _ADMIN,
    "identity:check_policy_association_for_endpoint": _READ,
    "identity:create_policy_association_for_endpoint": _ADMIN,
    "identity:delete_policy_association_for_endpoint": _ADMIN,
    "identity:check_policy_association_for_service": _READ,
    "identity:create_policy_association_for_service": _ADMIN,
    "identity:delete_policy_association_for_service": _ADMIN,
    "identity:check_policy_association_for_region_and_service": _READ,
    "identity:create_policy_association_for_region_and_service": _ADMIN,
    "identity:delete_policy_association_for_region_and_service": _ADMIN,
    "identity:get_policy_for_endpoint": _READ,
    "identity:list_endpoints_for_policy": _READ,
    "identity:get_limit_model": _ANYONE,
    "identity:list_limits": _ANYONE,
    "identity:get_registered_limit": _ANYONE,
    "identity:list_registered_limits": _ANYONE,
    "identity:get_limit": (
        "rule:identity:reads_all or domain_id:%(target.limit.domain.id)s"
        " or domain_id:%(target.limit.project.domain_id)s"
        " or project_id:%(target.limit.project_id)s"
    ),
    "identity:create_limits": _ADMIN,
    "identity:update_limit": _ADMIN,
    "identity:delete_limit": _ADMIN,
    "identity:create_registered_limits": _ADMIN,
    "identity:update_registered_limit": _ADMIN,
    "identity:delete_registered_limit": _ADMIN,
    "identity:list_identity_providers": _READ,
    "identity:get_identity_provider": _READ,
    "identity:create_identity_provider": _ADMIN,
    "identity:update_identity_provider": _ADMIN,
    "identity:delete_identity_provider": _ADMIN,
    "identity:list_protocols": _READ,
    "identity:get_protocol": _READ,
    "identity:create_protocol": _ADMIN,
    "identity:update_protocol": _ADMIN,
    "identity:delete_protocol": _ADMIN,
    "identity:list_mappings": _READ,
    "identity:get_mapping": _READ,
    "identity:create_mapping": _ADMIN,
    "identity:update_mapping": _ADMIN,
    "identity:delete_mapping": _ADMIN,
    "identity:list_service_providers": _READ,
    "identity:get_service_provider": _READ,
    "identity:create_service_provider": _ADMIN,
    "identity:update_service_provider": _ADMIN,
    "identity:delete_service_provider": _ADMIN,
    "identity:list_credentials": _READ_CREDENTIAL,
    "identity:get_credential": _READ_CREDENTIAL,
    "identity:create_credential": _CHANGE_CREDENTIAL,
    "identity:update_credential": _CHANGE_CREDENTIAL,
    "identity:delete_credential": _CHANGE_CREDENTIAL,
    "identity:ec2_list_credentials": _OWNER,
    "identity:ec2_get_credential": _READ_CREDENTIAL,
    "identity:ec2_create_credential": _CHANGE_EC2_KEY,
    "identity:ec2_delete_credential": _CHANGE_EC2_KEY,
    "identity:ec2tokens_validate": "rule:service_or_admin",
    "identity:s3tokens_validate": "rule:service_or_admin",
}
