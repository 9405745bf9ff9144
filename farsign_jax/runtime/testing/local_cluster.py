"""A server and its workers as processes of this machine that are certain to end."""

import contextlib
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from typing import Any

from farsign_jax.runtime import metrics, tls
from farsign_jax.validation import InvalidConfig

_ROOT = pathlib.Path(__file__).parents[3]


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Fleet:
    """Processes over loopback addresses, with certificates.

    Args:
        folder: of the run; certificates are made beside it.
        workers: m.
        quiet: what workers say is not shown.

    A context: in the end, every process that was started here, and no other, is ended, and no
    key is left.
    """

    def __init__(self, folder: pathlib.Path, workers: int, quiet: bool = True):
        folder = folder.absolute()  # processes start in another directory
        self.folder, self.workers, self._quiet = folder, workers, quiet
        self.target, self.page = f"127.0.0.1:{free_port()}", free_port()
        self.keys = folder.parent / f"{folder.name}-certificates"
        shutil.rmtree(self.keys, ignore_errors=True)  # of a command that was killed
        tls.make(self.keys, workers, ("127.0.0.1", "localhost"))
        self.processes: list[subprocess.Popen] = []
        self._errors: dict[subprocess.Popen, Any] = {}  # what they say
        self.server: Any = None

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)  # of one that is frozen
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if process.stdout is not None:
                process.stdout.close()
        for errors in self._errors.values():
            errors.close()
        shutil.rmtree(self.keys)

    def start(self, module: str, *flags: str, output: Any = subprocess.DEVNULL) -> Any:
        """A command with flags."""
        told: dict[str, Any] = {"stdout": output, "text": True, "cwd": _ROOT}
        told["stdin"] = subprocess.PIPE  # of its own, not the terminal's
        if self._quiet and output != subprocess.PIPE:
            told["stderr"] = tempfile.TemporaryFile()  # noqa: SIM115  closed in the end
        process = subprocess.Popen([sys.executable, "-m", module, *flags], **told)
        self.processes.append(process)
        if "stderr" in told:
            self._errors[process] = told["stderr"]
        return process

    def serve(self, *flags: str) -> str:
        """Starts the server; what it says when it listens.

        Raises:
            InvalidConfig: where it does not start.
        """
        told = [f"--address={self.target}", f"--metrics=127.0.0.1:{self.page}"]
        told += [f"--certificates={self.keys}", f"--out={self.folder}"]
        told += [f"--workers={self.workers}", *flags]
        module = "farsign_jax.runtime.serve"
        self.server = self.start(module, *told, output=subprocess.PIPE)
        line = self.server.stdout.readline()
        if not line.startswith("serving at"):
            raise InvalidConfig(f"the server did not start: {line or 'see above'}")
        return line

    def work(self, number: int, *flags: str, module: str = "farsign_jax.runtime.work") -> Any:
        """Starts a worker, or something that has its certificate."""
        told = [f"--server={self.target}", f"--worker={number}", f"--certificates={self.keys}"]
        return self.start(module, *told, *flags)

    def failure(self) -> str:
        """The last line of a process that has ended otherwise than it should; "" of none."""
        for process, errors in self._errors.items():
            if process.poll() not in (None, 0):
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                return said.splitlines()[-1] if said else "a worker failed, and said nothing"
        return ""

    def seen(self) -> dict[str, dict[str, float]]:
        """The metrics of the server; {} where it does not answer."""
        address = f"http://127.0.0.1:{self.page}/metrics"
        try:
            with urllib.request.urlopen(address, timeout=20) as page:
                return metrics.parse(page.read().decode())
        except OSError:
            return {}
