"""Small specs for tests of the agent and the drivers."""

from cairn.core.ids import ImageId, NetworkId, NodeId, PortId, ServerId, SubnetId, VolumeId
from cairn.wire.spec import (
    DiskSpec,
    GuestMetadata,
    GuestSpec,
    ImageSpec,
    NicSpec,
    NodeSpec,
    PortAddress,
    PortSpec,
    VolumeSpec,
)

NODE = NodeId("node-1")
GUEST = ServerId("11111111-0000-4000-8000-000000000001")
ROOT = VolumeId(GUEST)
PORT = PortId("22222222-0000-4000-8000-000000000001")
NETWORK = NetworkId("33333333-0000-4000-8000-000000000001")
IMAGE = ImageId("44444444-0000-4000-8000-000000000001")

IMAGE_SPEC = ImageSpec(id=IMAGE, format="raw", size_bytes=1024, virtual_bytes=1024, sha256="0" * 64)
PORT_SPEC = PortSpec(
    id=PORT,
    network_id=NETWORK,
    server_id=GUEST,
    mac="fa:16:3e:00:00:01",
    mtu=1442,
    addresses=(
        PortAddress(
            subnet_id=SubnetId("s"), ip="10.0.0.5", cidr="10.0.0.0/24", gateway_ip="10.0.0.1"
        ),
    ),
)
ROOT_SPEC = VolumeSpec(id=ROOT, size_gib=1, from_image=IMAGE)
GUEST_SPEC = GuestSpec(
    id=GUEST,
    incarnation=1,
    name="first",
    vcpus=1,
    memory_mib=192,
    disks=(DiskSpec(volume_id=ROOT, device="vda", boot=True),),
    nics=(NicSpec(port_id=PORT),),
    metadata=GuestMetadata(
        hostname="first.novalocal",
        project_id="p",
        availability_zone="nova",
        key_name="mine",
        public_key="ssh-ed25519 AAAA me",
        user_data=b"#!/bin/sh\n",
        meta={"role": "web"},
    ),
)
NODE_SPEC = NodeSpec(
    node_id=NODE,
    number=1,
    guests=(GUEST_SPEC,),
    volumes=(ROOT_SPEC,),
    images=(IMAGE_SPEC,),
    ports=(PORT_SPEC,),
)
