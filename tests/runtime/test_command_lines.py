"""The help and the error messages of the commands of the runtime."""

import contextlib
import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from farsign_jax.cli import commands

WRONG = [
    ("serve", ["--address=0.0.0.0:7077"], "--certificates DIR, or, on this machine alone"),
    ("serve", ["--insecure", "--address=0.0.0.0:7077"], "got --address host '0.0.0.0'"),
    ("serve", ["--insecure", "--certificates=x"], "either --certificates or --insecure"),
    ("serve", ["--insecure", "--method=sgd"], "sgd works in rounds"),
    ("serve", ["--insecure", "--method=far_sing"], "did you mean 'far_sign'?"),
    ("serve", ["--insecure", "--rate=0"], "need rate >= 1: got 0"),
    ("serve", ["--insecure", "--silence=0"], "need --silence > 0 seconds: got 0"),
    ("serve", ["--insecure", "--address=here"], "--address is HOST:PORT: got 'here'"),
    ("serve", ["--certificates=nowhere"], "nowhere/server.key: No such file"),
    ("serve", ["--insecure", "--colour=1"], "Unknown command line flag 'colour'"),
    ("serve", ["--insecure", "loud"], "unexpected argument 'loud'"),
    ("work", [], "need --worker N, the number of this worker: got none"),
    ("work", ["--worker=1"], "--certificates DIR, or, on this machine alone"),
    ("work", ["--worker=1", "--insecure", "--server=example.com:1"], "host 'example.com'"),
    ("work", ["--worker=1", "--insecure", "--attack=sign_flop"], "did you mean 'sign_flip'"),
    ("tls", ["--workers=0"], "need --workers > 0: got 0"),
]


def test_bad_input_is_one_line_that_names_value_and_rule(tmp_path):
    """Each command is a fork of one process that has imported all of them."""
    code = (
        "import os, sys, importlib\n"
        "from farsign_jax.runtime import serve, tls, work\n"
        "for line in sys.stdin:\n"
        "    name, *flags = line.rstrip('\\n').split('\\t')\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        sys.stderr = sys.stdout\n"
        "        sys.argv = [name, *flags]\n"
        "        module = sys.modules['farsign_jax.runtime.' + name]\n"
        "        from farsign_jax.cli import commands\n"
        "        try:\n"
        "            if name == 'tls':\n"
        "                module.main()\n"
        "            else:\n"
        "                commands.main(getattr(module, name), module.FLAGS, module.__doc__)\n"
        "        except SystemExit as end:\n"
        "            print('exit', end.code, flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    lines = "\n".join("\t".join([name, *flags]) for name, flags, _ in WRONG)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )
    lines = out.stdout.splitlines()
    assert len(lines) == 2 * len(WRONG), out.stdout + out.stderr
    for (name, flags, message), line, end in zip(WRONG, lines[::2], lines[1::2], strict=True):
        assert line.startswith("error: ") and message in line, (name, flags, line)
        assert end == "exit 2"
    assert list(tmp_path.iterdir()) == []  # a command that fails leaves no trace


@pytest.mark.parametrize("name", ["serve", "work", "tls", "replay"])
def test_help_fits_the_width_and_shows_an_example(name, capsys, monkeypatch):
    module = importlib.import_module(f"farsign_jax.runtime.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with contextlib.suppress(SystemExit):
        if name in ("serve", "work"):
            commands.main(getattr(module, name), module.FLAGS, module.__doc__)
        elif name == "tls":
            module.main()
        else:
            assert module.main(sys.argv) == 0
    text = capsys.readouterr().out
    assert f"python -m farsign_jax.runtime.{name}" in text
    assert max(map(len, text.splitlines())) <= 96
