"""Commands in forks of one process, which imports once what all of them share."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]

# `os._exit` because an interpreter that has imported JAX takes longer to end than a command
# that fails early takes.
_SERVER = """
import json, os, runpy, signal, sys, traceback
exec(sys.argv[1])
for line in sys.stdin:
    module, argv, before, run_name, out, err = json.loads(line)
    if os.fork() == 0:
        signal.alarm(300)
        for stream, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.argv, code = [module, *argv], 0
        try:
            exec(before)
            runpy.run_module(module, run_name=run_name, alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@contextlib.contextmanager
def server(imports="", cwd=ROOT):
    """Starts the process, in which the code `imports` runs first.

    Yields:
        A function that runs `python -m module *argv` in a fork, after the code `before`, and
        returns its exit code, output and errors.
    """
    code = [sys.executable, "-W", "ignore", "-c", _SERVER, imports]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(code, cwd=cwd, env=environment, **pipes)
    with tempfile.TemporaryDirectory() as folder:
        streams = [pathlib.Path(folder, name) for name in ("out", "err")]

        def run(module, *argv, before="", run_name="__main__"):
            told = [module, [*map(str, argv)], before, run_name, *map(str, streams)]
            print(json.dumps(told), file=process.stdin, flush=True)
            code = int(process.stdout.readline())
            return code, *(stream.read_text() for stream in streams)

        yield run
        process.communicate(timeout=60)
