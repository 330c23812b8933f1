"""Who may do what with application credentials, trusts and OAuth 1.0a: Keystone's own rules."""

# Scopes that Keystone lists beside a rule are part of it, as in policy.py.
_READ = "(rule:identity:reads_all and domain_id:None)"
_ADMIN = "(rule:admin_required and domain_id:None)"
_IN_PROJECT = "domain_id:None and system_scope:None"
_SYSTEM_ADMIN = "(role:admin and system_scope:all)"
_SYSTEM_READER = "(role:reader and system_scope:all)"
_TRUSTOR = "user_id:%(target.trust.trustor_user_id)s"
_TRUSTEE = "user_id:%(target.trust.trustee_user_id)s"
_RULES_USER = "user_id:%(target.user.id)s"
_OWNER = "user_id:%(user_id)s"

DELEGATION = {
    "identity:list_application_credentials": f"{_READ} or {_OWNER}",
    "identity:get_application_credential": f"{_READ} or {_OWNER}",
    "identity:create_application_credential": f"{_OWNER} and {_IN_PROJECT}",
    "identity:delete_application_credential": f"{_ADMIN} or {_OWNER}",
    "identity:list_access_rules": f"{_SYSTEM_READER} or {_RULES_USER}",
    "identity:get_access_rule": f"{_SYSTEM_READER} or {_RULES_USER}",
    "identity:delete_access_rule": f"{_SYSTEM_ADMIN} or {_RULES_USER}",
    "identity:create_trust": f"{_TRUSTOR} and {_IN_PROJECT}",
    "identity:list_trusts": _READ,
    "identity:list_trusts_for_trustor": f"{_READ} or {_TRUSTOR}",
    "identity:list_trusts_for_trustee": f"{_READ} or {_TRUSTEE}",
    "identity:get_trust": f"{_READ} or {_TRUSTOR} or {_TRUSTEE}",
    "identity:delete_trust": f"{_ADMIN} or {_TRUSTOR}",
    "identity:list_roles_for_trust": f"{_READ} or {_TRUSTOR} or {_TRUSTEE}",
    "identity:get_role_for_trust": f"{_READ} or {_TRUSTOR} or {_TRUSTEE}",
    "identity:list_consumers": _READ,
    "identity:get_consumer": _READ,
    "identity:create_consumer": _ADMIN,
    "identity:update_consumer": _ADMIN,
    "identity:delete_consumer": _ADMIN,
    "identity:authorize_request_token": _ADMIN,
    "identity:list_access_tokens": _ADMIN,
    "identity:get_access_token": _ADMIN,
    "identity:delete_access_token": _ADMIN,
    "identity:list_access_token_roles": _ADMIN,
    "identity:get_access_token_role": _ADMIN,
}
