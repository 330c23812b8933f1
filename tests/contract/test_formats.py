"""Hostile and damaged images: each is refused with the reason, each honest one passes, however it is cut
into chunks."""

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from cairn.core.errors import Invalid
from cairn.drivers.formats import FormatCheck, check_file, require_whole_qcow2

MIB = 1 << 20


def make(path: Path, *words: str) -> Path:
    subprocess.run(["qemu-img", *words], check=True, capture_output=True, cwd=path.parent)
    return path


def qcow2_with_data(path: Path, *options: str, mib: int = 16) -> Path:
    """A qcow2 of random content (zeros would not be stored)."""
    raw = path.with_suffix(".source")
    raw.write_bytes(random.Random(1).randbytes(mib * MIB))
    return make(path, "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(path))


def streamed(path: Path, claimed: str, chunk_bytes: int) -> tuple[str, int]:
    check = FormatCheck(claimed)
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            check.feed(chunk)
    facts = check.finish()
    return facts.format, facts.virtual_bytes


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "vdi", "vhdx"])
def test_honest_image_passes_with_its_true_size(tmp_path: Path, format: str) -> None:
    path = make(tmp_path / "i", "create", "-f", format, "i", "20M")
    facts = check_file(path, format)
    assert (facts.format, facts.virtual_bytes) == (format, 20 * MIB)


@pytest.mark.parametrize("chunk_bytes", [511, 4096, MIB])
def test_result_does_not_depend_on_chunks(tmp_path: Path, chunk_bytes: int) -> None:
    path = qcow2_with_data(tmp_path / "i")
    assert streamed(path, "qcow2", chunk_bytes) == ("qcow2", 16 * MIB)
    with pytest.raises(Invalid, match="content is qcow2"):
        streamed(path, "raw", chunk_bytes)


def test_raw_passes_with_and_without_partitions(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.write_bytes(os.urandom(MIB))
    assert check_file(path, "raw").virtual_bytes == MIB
    sector = bytearray(512)
    sector[446:462] = struct.pack("<B3BB3BII", 0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 2047)
    sector[510:] = b"\x55\xaa"
    path.write_bytes(bytes(sector) + bytes(MIB - 512))
    assert check_file(path, "raw").virtual_bytes == MIB


@pytest.mark.parametrize(
    ("claimed", "true"), [("qcow2", "raw"), ("raw", "vmdk"), ("qcow2", "vmdk"), ("iso", "raw")]
)
def test_lie_about_the_format_is_refused(tmp_path: Path, claimed: str, true: str) -> None:
    path = make(tmp_path / "i", "create", "-f", true, "i", "20M")
    with pytest.raises(Invalid, match=f"not a whole {claimed}|not {claimed}"):
        check_file(path, claimed)


def test_backing_file_is_refused(tmp_path: Path) -> None:
    words = ("create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "i", "10M")
    with pytest.raises(Invalid, match="backing file"):
        check_file(make(tmp_path / "i", *words), "qcow2")


def test_external_data_file_is_refused(tmp_path: Path) -> None:
    words = ("create", "-f", "qcow2", "-o", "data_file=d.raw", "i", "10M")
    with pytest.raises(Invalid, match="external data file"):
        check_file(make(tmp_path / "i", *words), "qcow2")


def test_vmdk_with_an_extent_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
        'createType="monolithicFlat"\n\nRW 20480 FLAT "/etc/shadow" 0\n'
    )
    with pytest.raises(Invalid, match="vmdk"):
        check_file(path, "vmdk")


def test_empty_file_and_unknown_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.touch()
    with pytest.raises(Invalid, match="empty"):
        check_file(path, "raw")
    with pytest.raises(Invalid, match="not one of"):
        FormatCheck("floppy")


@pytest.mark.parametrize("options", [(), ("-c",), ("-o", "cluster_size=4k")])
def test_qcow2_that_ends_early_is_refused_wherever_it_was_cut(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = qcow2_with_data(tmp_path / "i", *options, mib=4)
    require_whole_qcow2(path)
    size = path.stat().st_size
    for keep in (size - 600, size // 2, 200_000, 70_000, 4096, 600):
        os.truncate(path, keep)
        with pytest.raises(Invalid, match="cut off"):
            check_file(path, "qcow2")


@pytest.mark.parametrize("odd", [MIB + 512, 5 * MIB + 7 * 512])
def test_disk_that_does_not_fill_its_last_cluster_is_whole(tmp_path: Path, odd: int) -> None:
    raw = tmp_path / "r"
    raw.write_bytes(random.Random(1).randbytes(odd))
    check_file(make(tmp_path / "i", "convert", "-f", "raw", "-O", "qcow2", "r", "i"), "qcow2")


def test_tables_full_of_nonsense_end_in_a_refusal_and_soon(tmp_path: Path) -> None:
    path = qcow2_with_data(tmp_path / "i", mib=1)
    chance = random.Random(3)
    for _ in range(200):
        data = bytearray(path.read_bytes()[:200_000])
        for _ in range(20):
            data[chance.randrange(24, 600 if chance.random() < 0.5 else len(data))] = 255
        broken = tmp_path / "broken"
        broken.write_bytes(data)
        try:
            check_file(broken, "qcow2")
        except Invalid:
            continue
