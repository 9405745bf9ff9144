"""The revision is that of this package, wherever it lies and whatever surrounds it."""

import os
import pathlib
import shutil
import subprocess

import pytest

from farsign_jax.io import provenance


def git(folder, *arguments):
    clean = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    told = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=folder, env=clean | told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(path, *files):
    """A repository with one commit, of these files."""
    path.mkdir(parents=True)
    git(path, "init", "-q")
    for name in ("own.txt", *files):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
        git(path, "add", name)
    git(path, "commit", "-qm", "first")
    return path, git(path, "rev-parse", "--short=12", "HEAD")


def test_the_revision_is_that_of_a_repository_with_the_package(tmp_path):
    path, revision = repository(tmp_path / "a", "farsign_jax/__init__.py")
    assert provenance._revision(path / "farsign_jax") == revision
    (path / "farsign_jax" / "__init__.py").write_text("changed")
    assert provenance._revision(path / "farsign_jax") == f"{revision}-dirty"


@pytest.mark.parametrize("ignored", [False, True])
def test_a_package_installed_inside_another_repository_has_no_revision(tmp_path, ignored):
    path, _ = repository(tmp_path / "other")
    package = path / ".venv" / "lib" / "farsign_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    if ignored:
        (path / ".gitignore").write_text(".venv\n")
    assert provenance._revision(package) == "unknown"


def test_variables_of_git_do_not_count(tmp_path, monkeypatch):
    other, _ = repository(tmp_path / "other", "farsign_jax/__init__.py")
    own, revision = repository(tmp_path / "own", "farsign_jax/__init__.py", "more.txt")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert provenance._revision(own / "farsign_jax") == revision
    (tmp_path / "none" / "farsign_jax").mkdir(parents=True)
    (tmp_path / "none" / "farsign_jax" / "__init__.py").write_text("")
    assert provenance._revision(tmp_path / "none" / "farsign_jax") == "unknown"


def test_without_git_the_revision_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    assert provenance._revision() == "unknown"
    assert provenance._revision(pathlib.Path("/nowhere")) == "unknown"
