"""Images up and down again, byte for byte, with their properties."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients


def test_an_image_goes_up_and_comes_back_as_it_was(demo: Any, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"\x55" * (3 << 20) + b"end")
    image = demo.create_image(
        "sdk", filename=str(file), disk_format="raw", container_format="bare", wait=True,
        validate_checksum=True, hw_disk_bus="virtio", purpose="a test",
    )  # fmt: skip
    try:
        image = demo.image.get_image(image.id)
        assert image.status == "active"
        assert image.size == file.stat().st_size
        assert image.hash_value == hashlib.sha512(file.read_bytes()).hexdigest()
        assert image.properties["purpose"] == "a test"
        back = tmp_path / "back.raw"
        demo.image.download_image(image, output=str(back))
        assert back.read_bytes() == file.read_bytes()
        demo.image.update_image(image, name="renamed", purpose="another")
        (found,) = demo.image.images(name="renamed")
        assert (found.id, found.properties["purpose"]) == (image.id, "another")
    finally:
        demo.delete_image(image.id, wait=True)
    assert demo.image.find_image(image.id) is None


def test_the_command_line_makes_saves_and_deletes(cli: Callable[..., Any], tmp_path: Path) -> None:
    disk, back = tmp_path / "disk.qcow2", tmp_path / "back.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "8M"], check=True)
    made = cli(
        *("image", "create", "--disk-format", "qcow2", "--file", str(disk)),
        *("--property", "os_distro=debian", "cli"),
    )
    shown = cli("image", "show", made["id"])
    assert (shown["status"], shown["virtual_size"]) == ("active", 8 << 20)
    assert shown["properties"]["os_distro"] == "debian"
    cli("image", "save", "--file", str(back), made["id"], is_silent=True)
    assert back.read_bytes() == disk.read_bytes()
    cli("image", "delete", made["id"], is_silent=True)
    assert made["id"] not in {image["ID"] for image in cli("image", "list")}
