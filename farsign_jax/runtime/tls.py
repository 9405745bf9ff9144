"""Certificates for a test cluster, and the list of who may join.

    python -m farsign_jax.runtime.tls --out certificates --workers 8 \\
        --hosts localhost,127.0.0.1
    python -m farsign_jax.runtime.tls --hosts server.example.org --workers 32

Makes an authority, a certificate of the server for these names and addresses, one of each
worker, and `allowed.txt`: a line `WORKER FINGERPRINT` for each certificate that may join as
that worker. Who is not listed cannot join, whoever signed its certificate; to let somebody go,
delete the line, to replace one, add another. The private key of the authority is thrown away:
more workers are another call. Keep `server.key` on the server, and give each worker its own
`worker-N.key`, `worker-N.crt` and `authority.crt`.
"""

import datetime
import ipaddress
import os
import pathlib
from typing import Any, NamedTuple

from farsign_jax.cli import commands
from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig, require

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ModuleNotFoundError as error:
    commands.missing(error, __name__)


class Authority(NamedTuple):
    """Who signs."""

    key: Any
    certificate: Any


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in PEM, hexadecimal."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: x509.Name, key: Any, days: float) -> Any:
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    begins = min(now, ends) - datetime.timedelta(hours=1)  # clocks differ
    return builder.not_valid_before(begins).not_valid_after(ends)


def authority(name: str = "farsign test authority", days: float = 365) -> Authority:
    """A new one."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, _name(name), key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def issue(
    signer: Authority, name: str, hosts: tuple[str, ...] = (), days: float = 365
) -> tuple[bytes, bytes]:
    """A private key and a certificate, PEM: of a server for `hosts`, or of a worker.

    `days` may be negative, for one that has expired.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, signer.certificate.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_host, hosts)), False)
    certificate = builder.sign(signer.key, hashes.SHA256())
    return private(key), certificate.public_bytes(serialization.Encoding.PEM)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def private(key: Any) -> bytes:
    """A private key as PEM."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def make(out: str | os.PathLike, workers: int, hosts: tuple[str, ...]) -> None:
    """Everything for a test cluster, in a new folder.

    Raises:
        InvalidConfig: where the folder holds certificates already.
    """
    out = pathlib.Path(out)
    require(workers > 0, f"need --workers > 0: got {workers}")
    require(len(hosts) > 0 and all(hosts), "need --hosts, the names or addresses of the server")
    files.check_writable(out)
    if (out / "authority.crt").exists():
        raise InvalidConfig(f"{out} holds certificates already: choose another --out")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    signer = authority()
    public = signer.certificate.public_bytes(serialization.Encoding.PEM)
    files.atomic_write(out / "authority.crt", lambda file: file.write(public))
    lines = ["# worker number, SHA-256 of its certificate"]
    names = [("server", hosts), *((f"worker-{i}", ()) for i in range(workers))]
    for number, (name, known) in enumerate(names, -1):
        key, certificate = issue(signer, name, known)
        _secret(out / f"{name}.key", key)
        files.atomic_write(out / f"{name}.crt", lambda f, c=certificate: f.write(c))
        if number >= 0:
            lines.append(f"{number} {fingerprint(certificate)}")
    files.write_text(out / "allowed.txt", "\n".join(lines) + "\n")


def _secret(path: pathlib.Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


class Allowed:
    """Who may join: `allowed.txt`, read again whenever it has changed.

    Raises:
        InvalidConfig: where it cannot be read when the server starts. Later, a file that
            cannot be read allows nobody.
    """

    def __init__(self, path: str | os.PathLike, workers: int):
        self.path, self._workers = pathlib.Path(path), workers
        self._stamp, self._known = self._state(), self._read()

    def worker(self, certificate: bytes) -> int | None:
        """Whose certificate (PEM) this is; None, nobody's."""
        self.refresh()
        return self._known.get(fingerprint(certificate))

    def refresh(self) -> None:
        """Reads the file where it has changed."""
        stamp = self._state()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._known = self._read()
            except InvalidConfig:
                self._known = {}

    def _state(self) -> Any:
        try:
            known = self.path.stat()
            return known.st_mtime_ns, known.st_size, known.st_ino
        except OSError:
            return None

    def _read(self) -> dict[str, int]:
        known: dict[str, int] = {}
        try:
            lines = self.path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"no list of who may join: {self.path}: {error}") from None
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            rule = f"{self.path}, line {number}: a line is WORKER FINGERPRINT: got {line!r}"
            require(len(words) == 2 and words[0].isdecimal(), rule)
            worker, told = int(words[0]), words[1].replace(":", "").lower()
            require(len(told) == 64 and set(told) <= set("0123456789abcdef"), rule)
            rule = f"{self.path}, line {number}: workers are 0..{self._workers - 1}"
            require(worker < self._workers, f"{rule}: got {worker}")
            require(told not in known, f"{self.path}, line {number}: listed twice: {told}")
            known[told] = worker
        return known


def main() -> None:
    from absl import flags

    values = flags.FlagValues()
    flags.DEFINE_string("out", "certificates", "A new folder for them.", flag_values=values)
    flags.DEFINE_integer("workers", 8, "How many.", flag_values=values)
    flags.DEFINE_list(
        "hosts", "localhost,127.0.0.1", "How workers reach the server.", flag_values=values
    )

    def run() -> None:
        hosts = tuple(host.strip() for host in values.hosts)
        make(values.out, values.workers, hosts)
        print(f"{values.workers} workers, a server for {', '.join(hosts)}: {values.out}")

    commands.main(run, values, __doc__)


if __name__ == "__main__":
    main()
