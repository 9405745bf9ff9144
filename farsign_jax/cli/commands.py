"""What the commands of the runtime share: flags of their own, errors in one line.

Each command has flags of its own, not those of the process, so that several can be imported.
"""

import ipaddress
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import flags

from farsign_jax.cli import help
from farsign_jax.io import cache, files, run_folder
from farsign_jax.validation import DataError, InvalidConfig, require


def address(flag: str, text: str) -> tuple[str, int]:
    """HOST:PORT as host and port.

    Raises:
        InvalidConfig: where it is something else.
    """
    host, colon, port = text.rpartition(":")
    good = bool(host and colon) and port.isdecimal() and int(port) < 65536
    require(good, f"{flag} is HOST:PORT: got {text!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def definer(values: flags.FlagValues) -> Callable[..., None]:
    """`define(kind, name, default, text, ...)`: a flag among these."""

    def define(kind: str, name: str, default: Any, text: str, **more: Any) -> None:
        getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=values, **more)

    return define


def certificates_of(values: Any, flag: str, host: str, *names: str) -> list[bytes] | None:
    """These files of --certificates; None with --insecure.

    Raises:
        InvalidConfig: with both or neither, where traffic without encryption would leave this
            machine (`flag` says to which `host`), and naming the file that cannot be read.
    """
    if values.insecure:
        require(values.certificates is None, "either --certificates or --insecure")
        rule = "--insecure is for this machine alone, localhost or 127.0.0.1"
        require(is_loopback(host), f"{rule}: got {flag} host {host!r}")
        return None
    rule = "--certificates DIR, or, on this machine alone, --insecure: got neither"
    require(values.certificates is not None, rule)
    found = []
    for name in names:
        path = pathlib.Path(values.certificates).expanduser() / name
        try:
            found.append(path.read_bytes())
        except OSError as error:
            rule = "python -m farsign_jax.runtime.tls makes some"
            raise InvalidConfig(f"--certificates: {path}: {error.strerror}: {rule}") from None
    return found


def lacking(module: str, extra: str) -> str:
    """What to say where a module that an extra brings is not there."""
    text = f"no module {module} here: pip install 'farsign_jax[{extra}]', or from the sources "
    return f"{text}pip install -e '.[{extra}]'"


_EXTRAS = {
    "grpc": ("grpc", "google", "cryptography", "prometheus_client"),
    "ray": ("ray",),
    "report": ("altair", "jinja2", "markdown_it", "markupsafe", "pandas", "vl_convert"),
}


def missing(error: ModuleNotFoundError, name: str) -> NoReturn:
    """Says what to install where an import failed for want of an extra.

    In one line and with exit code 2 where the module that needs it, `name`, is the command
    itself, after what it is for where it is asked for --help; who imports it gets the same
    line as an error.
    """
    lacks = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if lacks in modules:
            text = lacking(lacks, extra)
            if name == "__main__" and (kind := help.asked(sys.argv[1:])):
                doc = sys.modules[name].__doc__ or ""
                print(f"{help.text(kind, doc, {}, {}, {})}\n\nIts options need more: {text}")
                sys.exit(0)
            if name == "__main__":
                fail(text)
            raise ModuleNotFoundError(text, name=error.name) from None
    raise error


def prepare_jax() -> None:
    """Programs compiled once are read back by the next process; and where every call waits for
    its result, as here, a CPU need not hand it to another thread."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    cache.keep_programs()


def fail(error: Any) -> NoReturn:
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    sys.exit(2)


def main(
    command: Callable[[], Any],
    values: flags.FlagValues,
    description: str | None,
    own: Sequence[str] | None = None,
) -> None:
    """Runs a command: bad input ends in one line and exit code 2, Ctrl-C in 130.

    `command` returns the folder that it wrote, or None. `own`: the flags that --help shows;
    None: all.
    """
    if kind := help.asked(sys.argv[1:]):
        groups = {"": list(values) if own is None else own}
        print(help.text(kind, description or "", values, groups, {}))
        sys.exit(0)
    try:
        rest = values(sys.argv)
        require(len(rest) == 1, f"unexpected argument {rest[-1]!r}: options start with --")
        where = command()
        if where is not None:
            run_folder.describe(where)
    except flags.Error as error:
        fail(help.plain(error))
    except (InvalidConfig, DataError) as error:
        fail(error)
    except OSError as error:
        if error.errno not in files.DENIED:
            raise
        fail(f"{error.filename or 'a file'}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)
