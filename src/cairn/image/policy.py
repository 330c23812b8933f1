"""Who may do what with images. Names are Glance's; see its policy reference.

Whose image it is, the service decides: what the caller cannot see is not found, what it sees but does
not own is refused.
"""

_READ = "rule:project_reader"
_WRITE = "rule:project_member"

POLICY = {
    "get_image": _READ,
    "get_images": _READ,
    "add_image": _WRITE,
    "modify_image": _WRITE,
    "delete_image": _WRITE,
    "publicize_image": "rule:admin",
    "communitize_image": _WRITE,
    "download_image": _READ,
    "upload_image": _WRITE,
    "import_image": _WRITE,
    "deactivate": _WRITE,
    "reactivate": _WRITE,
    "add_member": _WRITE,
    "delete_member": _WRITE,
    "get_member": _READ,
    "get_members": _READ,
    "modify_member": _WRITE,
    "get_task": _READ,
    "get_schema": "rule:anyone",
    "get_info": "rule:anyone",
}
