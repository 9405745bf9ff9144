"""A server and its workers as processes of this machine, all of which are ended at the end."""

import collections
import contextlib
import functools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from typing import Any

from farsign_jax.runtime import metrics, tls
from farsign_jax.validation import InvalidConfig, require

_ROOT = pathlib.Path(__file__).parents[3]


def free_port() -> int:
    """Returns a port of the loopback address at which nothing listens at present."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class LocalCluster:
    """A server and workers that communicate over loopback addresses, with certificates.

    Use it as a context manager: on exit it ends every process that it has started, and no
    other, and it deletes all private keys.

    Args:
        folder: the folder of the run.
        workers: the number m of workers.
        quiet: whether to hide what the workers print.

    Attributes:
        target: HOST:PORT of the server.
        certificates: the folder of the certificates.
        server: the process of the server.
        processes: all processes.
    """

    def __init__(self, folder: pathlib.Path, workers: int, quiet: bool = True):
        folder = folder.absolute()  # processes start in another directory
        self.folder, self.workers, self._quiet = folder, workers, quiet
        self.target, self._metrics_port = f"127.0.0.1:{free_port()}", free_port()
        self.certificates = pathlib.Path(tempfile.mkdtemp(prefix="farsign-certificates-"))
        tls.make(self.certificates, workers, ("127.0.0.1", "localhost"))
        self.processes: list[subprocess.Popen] = []
        self._workers: list[subprocess.Popen] = []
        self._errors: dict[subprocess.Popen, Any] = {}  # the hidden standard error of each
        self.server: Any = None

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)  # the process may have been stopped
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if process.stdout is not None:
                process.stdout.close()
        for errors in self._errors.values():
            errors.close()
        shutil.rmtree(self.certificates)

    def start_process(
        self, module: str, *flags: str, output: Any = subprocess.DEVNULL
    ) -> subprocess.Popen:
        """Starts a command with flags."""
        options: dict[str, Any] = {"stdout": output, "text": True, "cwd": _ROOT}
        path = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]  # for --import
        options["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        options["stdin"] = subprocess.PIPE  # not that of the terminal
        if self._quiet and output != subprocess.PIPE:
            options["stderr"] = tempfile.TemporaryFile()  # noqa: SIM115  closed on exit
        process = subprocess.Popen([sys.executable, "-m", module, *flags], **options)
        self.processes.append(process)
        if "stderr" in options:
            self._errors[process] = options["stderr"]
        return process

    def start_server(self, *flags: str) -> str:
        """Starts the server and returns the line that it prints when it listens.

        Raises:
            InvalidConfig: if the server does not start.
        """
        common = [f"--address={self.target}", f"--metrics=127.0.0.1:{self._metrics_port}"]
        common += [f"--certificates={self.certificates}", f"--out={self.folder}"]
        common += [f"--workers={self.workers}"]
        module = "farsign_jax.runtime.serve"
        self.server = self.start_process(module, *common, *flags, output=subprocess.PIPE)
        line = self.server.stdout.readline()
        if not line.startswith("serving at"):
            raise InvalidConfig(f"the server did not start: {line or 'see above'}")
        # Nobody reads the rest, and a full pipe would stop the server.
        drain = functools.partial(collections.deque, self.server.stdout, maxlen=0)
        threading.Thread(target=drain, daemon=True).start()
        return line

    def start_worker(
        self, number: int, *flags: str, module: str = "farsign_jax.runtime.work"
    ) -> subprocess.Popen:
        """Starts a worker, or another module with the certificate of that worker."""
        common = [f"--server={self.target}", f"--worker={number}"]
        common += [f"--certificates={self.certificates}"]
        process = self.start_process(module, *common, *flags)
        self._workers.append(process)
        return process

    @property
    def deserted(self) -> bool:
        """Whether all workers have ended, so that no answer will come."""
        return all(process.poll() is not None for process in self._workers)

    def wait_for_first_answer(self, count: int) -> None:
        """Waits until `count` workers have joined and the first answer has been applied.

        Reports the progress on standard error.

        Raises:
            InvalidConfig: if a worker ends before.
        """
        before = ""
        while self.server.poll() is None:
            found = self.metrics()
            if metrics.total(found, "events_total"):
                return
            joined = min(round(metrics.total(found, "sessions")), count)
            text = f"{joined} of {count} workers have joined"
            text += " and are compiling" if joined == count else ""
            if text != before:
                print(text, file=sys.stderr, flush=True)
            before = text
            require(not (reason := self.failure()), reason)
            time.sleep(0.1)

    def failure(self) -> str:
        """Returns the last line of a process that has failed; empty if none has failed."""
        for process, errors in self._errors.items():
            if process.poll() not in (None, 0):
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip()
                return text.splitlines()[-1] if text else "a worker failed without a message"
        return ""

    def metrics(self) -> dict[str, metrics.Samples]:
        """Returns the metrics of the server; empty if it does not respond."""
        address = f"http://127.0.0.1:{self._metrics_port}/metrics"
        try:
            with urllib.request.urlopen(address, timeout=20) as page:
                return metrics.parse(page.read().decode())
        except OSError:
            return {}
