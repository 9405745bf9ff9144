import pytest

from farsign_jax.runtime import tls


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with the certificates of a server and of six workers."""
    folder = tmp_path_factory.mktemp("certificates") / "all"
    tls.make(folder, 6, ("localhost", "127.0.0.1"))
    return folder
