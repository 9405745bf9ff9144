"""What the tests of several commands have in common."""

import pytest

from tests import forks


@pytest.fixture(scope="module")
def run_forked():
    """`run`, in a fork of a process that has imported what commands share."""
    imports = "import experiments.table3; del sys.modules['experiments.table3']"
    with forks.server(imports) as run:  # which runs the module again
        yield run
