"""The command line and QEMU's last words, as pure functions."""

import itertools

import msgspec
import pytest

from cairn.core.errors import CloudError, Conflict, Invalid, NoCapacity, NotFound, Unavailable
from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.drivers.contracts import BlockNode, Tap
from cairn.drivers.hypervisor import command, why
from cairn.wire.spec import DiskSpec, GuestSpec, NicSpec

ROOT = VolumeId("0a8c2d0e-4f6b-4b7f-9a77-3f2f4f0c1d11")
PORT = PortId("1b9d3e1f-5f6b-4b7f-9a77-3f2f4f0c1d22")
SPEC = GuestSpec(
    id=ServerId("2cae4f20-6f6b-4b7f-9a77-3f2f4f0c1d33"),
    incarnation=1,
    name="a, name=with 'everything'",
    vcpus=2,
    memory_mib=512,
    disks=(DiskSpec(volume_id=ROOT, device="vda", boot=True),),
)
NODE = BlockNode(
    options={"driver": "raw", "file": {"driver": "file", "filename": "/pool/a"}},
    owned_paths=("/pool/a",),
)
TAP = Tap(port_id=PORT, name="cvt1", mac="fa:16:3e:01:02:03", mtu=1442, checksum_offload=False)
DRIVE = command.Drive(disk=SPEC.disks[0], node=NODE, node_name=command.node_name(ROOT, 0), slot=0)


def line(*, accelerator: str = "tcg", tap: Tap = TAP, has_config_drive: bool = False) -> list[str]:
    return command.argv(
        command.Engine(program="qemu", accelerator=accelerator, tb_size_mib=32),
        SPEC,
        [DRIVE],
        [command.Nic(tap=tap, fd=9, slot=1)],
        command.Listeners(qmp=4, serial=5, agent=6),
        has_config_drive=has_config_drive,
    )


def devices(words: list[str]) -> list[dict[str, object]]:
    return [
        msgspec.json.decode(value)
        for option, value in itertools.pairwise(words)
        if option == "-device"
    ]


def device(words: list[str], driver: str) -> dict[str, object]:
    (found,) = [one for one in devices(words) if one["driver"] == driver]
    return found


def test_what_a_user_names_reaches_no_option() -> None:
    assert not any("everything" in word for word in line())


def test_every_guest_is_locked_in() -> None:
    words = line()
    sandbox = words[words.index("-sandbox") + 1]
    assert sandbox.startswith("on,") and sandbox.count("=deny") == 4
    assert {"-nodefaults", "-no-user-config", "-S", "-no-shutdown"} <= set(words)


def test_kvm_gives_the_hosts_processor_and_tcg_the_largest() -> None:
    kvm, tcg = line(accelerator="kvm"), line()
    assert kvm[kvm.index("-cpu") + 1] == "host" and "kvm" in kvm
    assert tcg[tcg.index("-cpu") + 1] == "max" and "tcg,tb-size=32" in tcg


def test_disks_and_ports_sit_where_they_can_be_unplugged() -> None:
    words = line()
    disk, nic = device(words, "virtio-blk-pci"), device(words, "virtio-net-pci")
    assert (disk["bus"], disk["bootindex"], disk["serial"]) == ("slot0", 1, ROOT[:20])
    assert (nic["bus"], nic["mac"], nic["host_mtu"]) == ("slot1", TAP.mac, 1442)
    ports = [one for one in devices(words) if one["driver"] == "pcie-root-port"]
    assert len({one["addr"] for one in ports}) == len({one["chassis"] for one in ports}) == 24


def test_no_checksum_is_left_to_a_datapath_that_cannot_finish_it() -> None:
    finished = device(line(), "virtio-net-pci")
    assert finished["csum"] is False and finished["guest_csum"] is False
    offloaded = msgspec.structs.replace(TAP, checksum_offload=True)
    assert "csum" not in device(line(tap=offloaded), "virtio-net-pci")


def test_a_config_drive_takes_no_disks_name() -> None:
    assert device(line(has_config_drive=True), "scsi-cd")["drive"] == "config"
    assert not any(one["driver"] == "scsi-cd" for one in devices(line()))


@pytest.mark.parametrize("layer", [0, 9, 99_999])
def test_node_names_fit_into_what_qemu_takes(layer: int) -> None:
    assert len(command.node_name(ROOT, layer)) <= 31


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (
            "qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory",
            NoCapacity,
            "the host cannot give the guest 512 MiB of memory",
        ),
        (
            "qemu: Invalid SMP CPUs 2. The max CPUs supported by machine 'q35' is 1",
            Invalid,
            "vcpus: 2 is more than a guest on this host can have",
        ),
        (
            "qemu: -blockdev {}: Could not open '/pool/a': No such file or directory",
            NotFound,
            f"disk vda (volume {ROOT}) is missing",
        ),
        (
            "qemu: Could not open '/pool/a': Permission denied",
            Unavailable,
            f"the hypervisor may not open disk vda (volume {ROOT})",
        ),
        (
            'qemu: Failed to get "write" lock\nIs another process using the image [/pool/a]?',
            Conflict,
            f"disk vda (volume {ROOT}) is in use by another process",
        ),
        (
            "qemu: -blockdev: Image is not in qcow2 format",
            Invalid,
            "a disk of the guest is damaged or not of the format that it should have",
        ),
        ("qemu: something new", Unavailable, "it did not start"),
        ("", Unavailable, "it did not start"),
    ],
)
def test_last_words_become_a_cause_without_paths(
    words: str, kind: type[CloudError], message: str
) -> None:
    error = why.explain(words, SPEC, [(SPEC.disks[0], NODE)], otherwise="it did not start")
    assert type(error) is kind and error.message == message
    assert error.because


def test_places_follow_from_the_spec_whatever_came_and_went() -> None:
    one, two = VolumeId("1"), VolumeId("2")
    ports = [PortId(name) for name in "abc"]

    def spec(disks: dict[VolumeId, str], nics: dict[PortId, int]) -> GuestSpec:
        return msgspec.structs.replace(
            SPEC,
            disks=tuple(DiskSpec(volume_id=v, device=device) for v, device in disks.items()),
            nics=tuple(NicSpec(port_id=p, position=n) for p, n in nics.items()),
        )

    full = command.layout(spec({one: "vda", two: "vdc"}, dict(zip(ports, (0, 1, 4), strict=True))))
    assert full == {one: 0, two: 2, "a": 16, "b": 17, "c": 20}
    fewer = command.layout(spec({one: "vda"}, {ports[2]: 4}))
    assert fewer == {name: full[name] for name in fewer}
    # Beyond the last place of its own, and where two want the same, there is still room.
    odd = command.layout(spec({one: "vdz", two: "sdb"}, {ports[0]: 9, ports[1]: 0, ports[2]: 0}))
    assert len(set(odd.values())) == 5 and odd["b"] == 16
    many = {VolumeId(str(n)): "" for n in range(command.SLOTS + 1)}
    with pytest.raises(Invalid, match="at most 24"):
        command.layout(spec(many, {}))


def test_a_machine_is_named_by_its_version_where_qemu_knows_it() -> None:
    assert command.machine_of(7_002_022) == command.machine_of(10_000_002) == "pc-q35-7.2"
    assert command.machine_of(6_002_000) == "q35"
