"""A real LDAP server for tests: slapd on loopback ports, with a CA of its own, gone with the test run.

Two trees: `dc=example,dc=org` as OpenLDAP's users have it, and `dc=corp` as Active Directory has it
(sAMAccountName, userAccountControl, memberOf), with the schema that OpenLDAP brings for it.
"""

import datetime
import ipaddress
import shutil
import socket
import subprocess
import time
from pathlib import Path

import ldap3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cairn.host import engines

ROOT, ROOT_PASSWORD = "cn=root,{suffix}", "root's password"
PLAIN, CORP = "dc=example,dc=org", "dc=corp"
AD_NEEDS = {"instanceType": "4", "nTSecurityDescriptor": b"x", "objectCategory": f"cn=x,{CORP}"}
_COMPARED = {"sAMAccountName": "caseIgnoreMatch", "memberOf": "distinguishedNameMatch"}
SCHEMAS = ("core", "cosine", "inetorgperson", "nis")


class Slapd:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.crt"
        self.port, self.tls_port = _free_port(), _free_port()
        on_path = shutil.which("slapd")
        # Unpacked packages: usr/sbin/slapd and, two levels up, what belongs to it.
        program = Path(on_path) if on_path else engines.ensure_slapd() / "usr/sbin/slapd"
        self._program, self._home = program, program.parents[2]
        self._process: subprocess.Popen[bytes] | None = None
        _certificates(folder)
        self._configure()
        self.start()
        for suffix in (PLAIN, CORP):
            self.add(suffix, ["dcObject", "organization"], o="x", dc=suffix[3:].split(",")[0])

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://127.0.0.1:{self.tls_port}"

    def start(self) -> None:
        urls = f"{self.url}/ {self.tls_url}/"
        command = [str(self._program), "-d", "0", "-f", str(self.folder / "slapd.conf"), "-h", urls]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", self.tls_port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("slapd does not listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    # --- its content -----------------------------------------------------------------------------

    def add(self, dn: str, classes: list[str], **attributes: object) -> str:
        with self._root(dn) as root:
            root.add(dn, classes, {k: v for k, v in attributes.items() if v is not None})
            assert root.result["result"] == 0, root.result
        return dn

    def add_user(self, uid: str, **more: object) -> str:
        """A user as OpenLDAP's trees have them, with the password "<uid>'s password"."""
        said = {"cn": uid, "sn": uid, "uid": uid, "userPassword": f"{uid}'s password", **more}
        return self.add(
            f"uid={uid},ou=Users,{PLAIN}", ["inetOrgPerson", "extensibleObject"], **said
        )

    def add_group(self, name: str, *members: str, base: str = f"ou=Groups,{PLAIN}") -> str:
        said = {"cn": name, "ou": name, "member": members or [f"cn=nobody,{PLAIN}"]}
        return self.add(f"cn={name},{base}", ["groupOfNames"], **said)

    def add_corp_user(self, name: str, account: str, control: int = 512, **more: object) -> str:
        """A user as Active Directory has them; 512 is an enabled account, 514 a disabled one."""
        said = {
            "cn": name, "sn": account, "sAMAccountName": account, "userAccountControl": str(control),
            "userPassword": f"{account}'s password", **AD_NEEDS, **more,
        }  # fmt: skip
        dn = f"cn={name.replace(',', chr(92) + ',')},ou=Staff,ou=Berlin,{CORP}"
        return self.add(dn, ["user", "extensibleObject"], **said)

    def add_corp_group(self, name: str, *members: str) -> str:
        said = {"cn": name, "sAMAccountName": name, "groupType": "2", "member": members, **AD_NEEDS}
        return self.add(f"cn={name},ou=Berlin,{CORP}", ["group", "extensibleObject"], **said)

    def change(self, dn: str, **attributes: list[str]) -> None:
        with self._root(dn) as root:
            changes = {name: [(ldap3.MODIFY_REPLACE, v)] for name, v in attributes.items()}
            root.modify(dn, changes)
            assert root.result["result"] == 0, root.result

    def rename(self, dn: str, first: str) -> None:
        with self._root(dn) as root:
            root.modify_dn(dn, first)
            assert root.result["result"] == 0, root.result

    def delete(self, dn: str) -> None:
        with self._root(dn) as root:
            root.delete(dn)
            assert root.result["result"] == 0, root.result

    def _root(self, dn: str) -> ldap3.Connection:
        suffix = PLAIN if dn.endswith(PLAIN) else CORP
        server = ldap3.Server("127.0.0.1", self.port, get_info=ldap3.NONE)
        user = ROOT.format(suffix=suffix)
        return ldap3.Connection(server, user, ROOT_PASSWORD, auto_bind=True, check_names=False)

    def _configure(self) -> None:
        schemas = self._home / "etc/ldap/schema"
        lines = [f"include {schemas}/{name}.schema" for name in SCHEMAS]
        # As OpenLDAP brings it, nobody can be found by it; Active Directory compares without case.
        found = (schemas / "msuser.schema").read_text()
        for name, rule in _COMPARED.items():
            line = f"NAME '{name}'\n"
            assert line in found
            found = found.replace(line, f"{line}\tEQUALITY {rule}\n")
        (self.folder / "msuser.schema").write_text(found)
        lines.append(f"include {self.folder}/msuser.schema")
        lines += [
            f"modulepath {self._home}/usr/lib/ldap",
            "moduleload back_mdb",
            "moduleload memberof",
            f"pidfile {self.folder}/pid",
            f"TLSCACertificateFile {self.ca_file}",
            f"TLSCertificateFile {self.folder}/server.crt",
            f"TLSCertificateKeyFile {self.folder}/server.key",
            "sizelimit 1000",
        ]
        for number, suffix in enumerate((PLAIN, CORP)):
            data = self.folder / f"data{number}"
            data.mkdir()
            lines += [
                "database mdb",
                "maxsize 104857600",
                f"suffix {suffix}",
                f'rootdn "{ROOT.format(suffix=suffix)}"',
                f'rootpw "{ROOT_PASSWORD}"',
                f"directory {data}",
                "dbnosync",
                "access to attrs=userPassword by anonymous auth by * none",
                # Who is not signed in sees nothing: the configured user must be used.
                "access to * by users read by * none",
            ]
        lines += ["overlay memberof", "memberof-group-oc group", "memberof-memberof-ad memberOf"]
        (self.folder / "slapd.conf").write_text("\n".join(lines) + "\n")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        assert isinstance(port, int)
        return port


def _certificates(folder: Path) -> None:
    """A CA, a certificate of 127.0.0.1, and `other.crt`, a CA that signed nothing."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("test CA", ca_key, "test CA", ca_key, is_ca=True)
    _write(folder / "ca.crt", ca)
    key = ec.generate_private_key(ec.SECP256R1())
    _write(folder / "server.crt", _certificate("127.0.0.1", key, "test CA", ca_key, is_ca=False))
    form = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    (folder / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    other = ec.generate_private_key(ec.SECP256R1())
    _write(folder / "other.crt", _certificate("other CA", other, "other CA", other, is_ca=True))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if not is_ca:
        address = x509.IPAddress(ipaddress.ip_address(name))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write(file: Path, certificate: x509.Certificate) -> None:
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
