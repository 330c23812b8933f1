"""Names that rules have, or had, in OpenStack's own tables, for files that operators bring along.

Source: the policy references of Keystone, Nova, Cinder, Glance and Neutron, "deprecated" entries.
"""

from collections.abc import Mapping

OTHER_NAMES: Mapping[str, str] = {
    "admin_required": "admin",
    "context_is_admin": "admin",
    "admin_api": "admin",
    "admin_only": "admin",
    "service_role": "service",
    "service_api": "service",
    "project_reader_or_admin": "project_reader",
    "project_member_or_admin": "project_member",
    "project_manager_or_admin": "project_manager",
    "xena_system_admin_or_project_reader": "project_reader",
    "xena_system_admin_or_project_member": "project_member",
}
"""What other services call the rules that all of ours share."""

_COMPUTE = "os_compute_api:"
RENAMED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "nova": {
        f"{_COMPUTE}os-attach-interfaces": tuple(
            f"{_COMPUTE}os-attach-interfaces:{verb}"
            for verb in ("list", "show", "create", "delete")
        ),
        f"{_COMPUTE}os-instance-actions": tuple(
            f"{_COMPUTE}os-instance-actions:{verb}" for verb in ("list", "show")
        ),
        f"{_COMPUTE}os-flavor-manage": tuple(
            f"{_COMPUTE}os-flavor-manage:{verb}" for verb in ("create", "update", "delete")
        ),
        f"{_COMPUTE}os-services": tuple(
            f"{_COMPUTE}os-services:{verb}" for verb in ("list", "update")
        ),
        f"{_COMPUTE}os-security-groups": tuple(
            f"{_COMPUTE}os-security-groups:{verb}" for verb in ("add", "remove")
        ),
        f"{_COMPUTE}os-deferred-delete": (f"{_COMPUTE}os-deferred-delete:force",),
        f"{_COMPUTE}os-used-limits": (f"{_COMPUTE}limits:other_project",),
    },
    "cinder": {
        "volume_extension:types_manage": tuple(
            f"volume_extension:type_{verb}" for verb in ("create", "update", "delete")
        ),
        "volume_extension:types_extra_specs": tuple(
            f"volume_extension:types_extra_specs:{verb}"
            for verb in ("index", "create", "update", "delete")
        ),
        "volume:update_readonly_flag": ("volume_extension:volume_actions:update_readonly_flag",),
    },
    "keystone": {
        "identity:validate_token_head": ("identity:check_token",),
        "identity:list_projects_for_user": ("identity:list_user_projects",),
    },
}
"""By service: rules that were renamed or split. Their old names are understood, with a warning."""
