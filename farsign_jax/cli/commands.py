"""Commands that have flags of their own, and their errors in one line.

The flags of such a command are not those of the process, so that several commands can be
imported side by side.
"""

import ipaddress
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import flags

from farsign_jax.cli import help, imports
from farsign_jax.io import cache, endings, files, run_folder
from farsign_jax.validation import InvalidConfig, check_platform, require


def address(flag: str, text: str) -> tuple[str, int]:
    """Splits HOST:PORT into host and port.

    Raises:
        InvalidConfig: if the text, the value of `flag`, has another form.
    """
    host, colon, port = text.rpartition(":")
    good = bool(host and colon) and port.isdecimal() and int(port) < 65536
    require(good, f"{flag} is HOST:PORT: got {text!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether traffic to a host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def definer(values: flags.FlagValues) -> Callable[..., None]:
    """A function `define(kind, name, default, text, ...)` that adds a flag to `values`."""

    def define(kind: str, name: str, default: Any, text: str, **more: Any) -> None:
        getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=values, **more)

    return define


def certificates_of(values: Any, flag: str, host: str, *names: str) -> list[bytes] | None:
    """The contents of files in the folder --certificates; None with --insecure.

    Args:
        values: the flags of a command, `certificates` and `insecure` among them.
        flag: the flag that names the other side, for messages.
        host: the host of the other side.
        names: of the files.

    Raises:
        InvalidConfig: if both flags are given or neither is, if traffic without encryption
            would leave this machine, or if a file cannot be read.
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
        path = files.expanded(values.certificates) / name
        try:
            found.append(path.read_bytes())
        except OSError as error:
            rule = "python -m farsign_jax.runtime.tls makes some"
            raise InvalidConfig(f"--certificates: {path}: {error.strerror}: {rule}") from None
    return found


def lacking(module: str, extra: str) -> str:
    """How to install a missing module, which belongs to an extra of the package."""
    text = f"no module {module} here: pip install 'farsign_jax[{extra}]', or from the sources "
    return f"{text}pip install -e '.[{extra}]'"


_EXTRAS = {
    "grpc": ("grpc", "google", "cryptography", "prometheus_client"),
    "ray": ("ray",),
    "report": ("altair", "jinja2", "markdown_it", "markupsafe", "pandas", "vl_convert"),
}


def missing(error: ModuleNotFoundError, name: str) -> NoReturn:
    """Reports which extra to install after an import failed.

    Args:
        error: of the import.
        name: `__name__` of the module that needs the extra. If it is the command itself, the
            report is one line and exit code 2, and --help still prints what the command is
            for. Otherwise the report is the message of an error.

    Raises:
        ModuleNotFoundError: with the report, or `error` if no extra has the module.
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
                endings.fail(text)
            raise ModuleNotFoundError(text, name=error.name) from None
    raise error


def prepare_jax() -> None:
    """Keeps compiled programs for the next process, and runs programs in the calling thread.

    Every call of the runtime waits for its result, so that handing the work of a CPU to
    another thread would only take time.

    Raises:
        InvalidConfig: if JAX_PLATFORMS asks for a device that is not there.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    cache.keep_programs()
    check_platform()


def main(
    command: Callable[[], Any],
    values: flags.FlagValues,
    description: str | None,
    own: Sequence[str] | None = None,
) -> None:
    """Runs a command, which ends as `endings.in_one_line` says.

    Args:
        command: returns the folder that it wrote, or None.
        values: its flags.
        description: the docstring of its module, the head of --help.
        own: the flags that --help shows; None: all.
    """
    with endings.in_one_line():
        if kind := help.asked(sys.argv[1:]):
            groups = {"": list(values) if own is None else own}
            print(help.text(kind, description or "", values, groups, {}))
            sys.exit(0)
        try:
            rest = values(sys.argv)
        except flags.Error as error:
            endings.fail(help.plain(error))
        require(len(rest) == 1, f"unexpected argument {rest[-1]!r}: options start with --")
        imports.load(imports.asked(values))
        where = command()
        if where is not None:
            run_folder.describe(where)
