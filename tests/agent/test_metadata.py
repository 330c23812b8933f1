"""What guests are told: the service's files and the config drive say the same."""

import io

import msgspec
import pycdlib
from tests.agent_specs import GUEST, GUEST_SPEC, PORT_SPEC

from cairn.agent import config_drive
from cairn.agent.metadata import documents, listing, network_data


def test_meta_data_names_the_server_and_its_key() -> None:
    files = documents(GUEST_SPEC, [PORT_SPEC])
    data = msgspec.json.decode(files["openstack/latest/meta_data.json"])
    assert data["uuid"] == GUEST
    assert data["public_keys"] == {"mine": "ssh-ed25519 AAAA me"}
    assert data["meta"] == {"role": "web"}
    assert files["openstack/latest/user_data"] == b"#!/bin/sh\n"
    assert files["latest/meta-data/public-keys/0/openssh-key"] == b"ssh-ed25519 AAAA me"


def test_folders_are_listed() -> None:
    files = documents(GUEST_SPEC, [PORT_SPEC])
    assert b"latest" in (listing(files, "openstack") or b"").splitlines()
    assert b"user_data" in (listing(files, "openstack/latest") or b"").splitlines()
    assert b"placement/" in (listing(files, "latest/meta-data") or b"").splitlines()
    assert listing(files, "nothing") is None


def test_network_data_is_static_only_without_dhcp() -> None:
    address = msgspec.structs.replace(PORT_SPEC.addresses[0], dhcp=False, dns=("9.9.9.9",))
    static = network_data([msgspec.structs.replace(PORT_SPEC, addresses=(address,))])
    (network,) = static["networks"]  # type: ignore[misc]
    assert network["type"] == "ipv4"
    assert network["netmask"] == "255.255.255.0"
    assert network["routes"][0]["gateway"] == "10.0.0.1"
    (network,) = network_data([PORT_SPEC])["networks"]  # type: ignore[misc]
    assert network["type"] == "ipv4_dhcp"


def test_config_drive_is_a_disk_that_readers_find() -> None:
    files = documents(GUEST_SPEC, [PORT_SPEC])
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(config_drive.image(files)))
    assert iso.pvd.volume_identifier.decode().strip() == "config-2"
    read = io.BytesIO()
    iso.get_file_from_iso_fp(read, rr_path="/openstack/latest/meta_data.json")
    assert read.getvalue() == files["openstack/latest/meta_data.json"]
    iso.close()
