"""Creates TLS certificates for a test cluster, and the list of workers that may join.

    python -m farsign_jax.runtime.tls --out certificates --workers 8 \\
        --hosts localhost,127.0.0.1
    python -m farsign_jax.runtime.tls --hosts server.example.org --workers 32

Writes a certificate authority, a server certificate for the given names and addresses, one
certificate per worker, and `allowed.txt`, which contains a line `WORKER FINGERPRINT` for each
certificate with which a worker may join. A certificate that is not listed is rejected, whoever
signed it. Delete a line to exclude a worker, and add a line to replace its certificate. The
private key of the authority is discarded, so more workers need a new call. Keep `server.key`
on the server, and give each worker only `worker-N.key`, `worker-N.crt` and `authority.crt`.
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
    """A certificate authority: its private key and its certificate."""

    key: Any
    certificate: Any


def fingerprint(certificate: bytes) -> str:
    """Returns the SHA-256 fingerprint of a PEM certificate in hexadecimal."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: x509.Name, key: Any, days: float) -> Any:
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    begin = min(now, end) - datetime.timedelta(hours=1)  # clocks differ between machines
    return builder.not_valid_before(begin).not_valid_after(end)


def authority(name: str = "farsign test authority", days: float = 365) -> Authority:
    """Creates a certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, _name(name), key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def issue(
    signer: Authority, name: str, hosts: tuple[str, ...] = (), days: float = 365
) -> tuple[bytes, bytes]:
    """Creates a private key and a certificate signed by an authority, both in PEM form.

    Args:
        signer: the authority.
        name: the common name.
        hosts: names and addresses of a server; empty for a worker.
        days: the validity; a negative number creates an expired certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, signer.certificate.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_host, hosts)), False)
    certificate = builder.sign(signer.key, hashes.SHA256())
    return private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def private_pem(key: Any) -> bytes:
    """Returns a private key in PEM form."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def make(out: str | os.PathLike, workers: int, hosts: tuple[str, ...]) -> None:
    """Creates all certificates of a test cluster in a new folder.

    Args:
        out: the folder.
        workers: number of workers.
        hosts: names and addresses at which workers reach the server.

    Raises:
        InvalidConfig: if the folder already contains certificates.
    """
    out = files.expanded(out)
    require(workers > 0, f"need --workers > 0: got {workers}")
    require(len(hosts) > 0 and all(hosts), "need --hosts, the names or addresses of the server")
    files.check_writable(out)
    if (out / "authority.crt").exists():
        raise InvalidConfig(f"{out} already contains certificates: choose another --out")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    signer = authority()
    public = signer.certificate.public_bytes(serialization.Encoding.PEM)
    files.atomic_write(out / "authority.crt", lambda file: file.write(public))
    lines = ["# number of the worker, SHA-256 fingerprint of its certificate"]
    names = [("server", hosts), *((f"worker-{i}", ()) for i in range(workers))]
    for number, (name, server_hosts) in enumerate(names, -1):
        key, certificate = issue(signer, name, server_hosts)
        _write_secret(out / f"{name}.key", key)
        files.atomic_write(out / f"{name}.crt", lambda f, c=certificate: f.write(c))
        if number >= 0:
            lines.append(f"{number} {fingerprint(certificate)}")
    files.write_text(out / "allowed.txt", "\n".join(lines) + "\n")


def _write_secret(path: pathlib.Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with files.naming(path), os.fdopen(descriptor, "wb") as file:
        file.write(content)


class AllowList:
    """The workers that may join: `allowed.txt`, which is read again whenever it changes.

    Args:
        path: the file.
        workers: number of workers.

    Raises:
        InvalidConfig: if the file cannot be read when the server starts. If it cannot be read
            later, no worker is allowed.
    """

    def __init__(self, path: str | os.PathLike, workers: int):
        self.path, self._workers = pathlib.Path(path), workers
        self._file_state, self._workers_by_fingerprint = self._stat(), self._read()

    def worker(self, certificate: bytes) -> int | None:
        """Returns the worker with this PEM certificate, or None if it is not listed."""
        self.refresh()
        return self._workers_by_fingerprint.get(fingerprint(certificate))

    def refresh(self) -> None:
        """Reads the file again if it has changed."""
        state = self._stat()
        if state != self._file_state:
            self._file_state = state
            try:
                self._workers_by_fingerprint = self._read()
            except InvalidConfig:
                self._workers_by_fingerprint = {}

    def _stat(self) -> Any:
        try:
            status = self.path.stat()
            return status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            return None

    def _read(self) -> dict[str, int]:
        known: dict[str, int] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(
                f"cannot read the list of allowed workers: {self.path}: {error}"
            ) from None
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            rule = f"{self.path}, line {number}: lines are WORKER FINGERPRINT: got {line!r}"
            require(len(words) == 2 and words[0].isdecimal(), rule)
            worker, digest = int(words[0]), words[1].replace(":", "").lower()
            require(len(digest) == 64 and set(digest) <= set("0123456789abcdef"), rule)
            rule = f"{self.path}, line {number}: workers are 0..{self._workers - 1}"
            require(worker < self._workers, f"{rule}: got {worker}")
            require(digest not in known, f"{self.path}, line {number}: listed twice: {digest}")
            known[digest] = worker
        return known


def main() -> None:
    from absl import flags

    values = flags.FlagValues()
    flags.DEFINE_string(
        "out", "certificates", "The new folder for the certificates.", flag_values=values
    )
    flags.DEFINE_integer("workers", 8, "Number of workers.", flag_values=values)
    flags.DEFINE_list(
        "hosts",
        "localhost,127.0.0.1",
        "Names or addresses at which workers reach the server.",
        flag_values=values,
    )

    def run() -> None:
        hosts = tuple(host.strip() for host in values.hosts)
        make(values.out, values.workers, hosts)
        text = f"certificates of a server at {', '.join(hosts)} and {values.workers} workers"
        print(f"{text} are in {values.out}")

    commands.main(run, values, __doc__)


if __name__ == "__main__":
    main()
