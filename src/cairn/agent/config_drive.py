"""The config drive: a small ISO 9660 disk labelled config-2 with the metadata's files.

Source: Nova user guide, "Config drives"; cloud-init, datasource "ConfigDrive".
"""

import io

import pycdlib

from cairn.agent.metadata import Documents

LABEL = "config-2"
_KEPT = ("openstack/latest/", "openstack/2018-08-27/", "openstack/2012-08-10/", "latest/")
"""Readers look for "latest" or a known date; every further version would only make the disk larger."""


def image(files: Documents) -> bytes:
    """The disk's bytes, with Rock Ridge and Joliet names so that every guest finds the true ones."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    made: dict[str, str] = {}
    for number, (path, data) in enumerate(sorted(files.items())):
        if path.startswith(_KEPT):
            *folders, name = (
                path.replace("latest/", "ec2/latest/", 1).split("/")
                if (path.startswith("latest/"))
                else path.split("/")
            )
            parent = _folders(iso, folders, made)
            iso.add_fp(
                io.BytesIO(data), len(data), f"{parent}/F{number:05}.;1",
                rr_name=name, joliet_path="/" + "/".join([*folders, name]),
            )  # fmt: skip
    written = io.BytesIO()
    iso.write_fp(written)
    iso.close()
    return written.getvalue()


def _folders(iso: pycdlib.PyCdlib, folders: list[str], made: dict[str, str]) -> str:
    """Make the folders on the way; returns the ISO path of the last (short names: the true are beside)."""
    short = ""
    for depth in range(1, len(folders) + 1):
        true = "/" + "/".join(folders[:depth])
        if true not in made:
            made[true] = f"{short}/D{len(made):05}"
            iso.add_directory(made[true], rr_name=folders[depth - 1], joliet_path=true)
        short = made[true]
    return short
