"""The password is made once; the clients' files follow the API."""

import stat
from pathlib import Path

import yaml

from cairn.host import credentials


def _ensure(folder: Path, url: str = "https://192.0.2.7:8443") -> credentials.Credentials:
    authority = folder.parent / "ca.crt"
    return credentials.ensure(folder, api_url=url, region="RegionOne", authority=authority)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    where = _ensure(tmp_path / "credentials")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "credentials").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(where.clouds_yaml.parent.stat().st_mode) == 0o700


def test_password_stays_and_address_follows(tmp_path: Path) -> None:
    first = yaml.safe_load(_ensure(tmp_path / "c").clouds_yaml.read_text())["clouds"]
    second = yaml.safe_load(
        _ensure(tmp_path / "c", "https://cloud.example.org:443").clouds_yaml.read_text()
    )["clouds"]
    assert set(second) == {"cairn-admin", "cairn-demo"}
    for name, project in (("cairn-admin", "admin"), ("cairn-demo", "demo")):
        auth = second[name]["auth"]
        assert auth["password"] == first[name]["auth"]["password"]
        assert len(auth["password"]) >= 24
        assert auth["auth_url"] == "https://cloud.example.org:443/identity/v3"
        assert auth["project_name"] == project
        assert second[name]["cacert"].endswith("ca.crt")


def test_empty_password_file_is_not_an_empty_password(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    where = _ensure(folder)
    where.password_file.write_text("")
    _ensure(folder)
    assert where.password_file.read_text().strip()
