"""The help and the error messages of the commands of the runtime."""

import contextlib
import importlib
import sys

import pytest

from farsign_jax.cli import commands
from tests import forks

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
    ("work", ["--worker=1", "--insecure", "--rate=0"], "need 0.1 <= --rate < inf: got 0.0"),
    ("tls", ["--workers=0"], "need --workers > 0: got 0"),
]


def test_bad_input_is_one_line_that_names_value_and_rule(tmp_path):
    imports = "from farsign_jax.runtime import grpc_server, grpc_worker, service"
    with forks.server(imports, cwd=tmp_path) as run:
        for name, flags, message in WRONG:
            code, out, err = run(f"farsign_jax.runtime.{name}", *flags)
            assert (code, out, err.count("\n")) == (2, "", 1), (name, flags, out, err)
            assert err.startswith("error: ") and message in err, (name, flags, err)
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
