"""`python -m farsign_jax COMMAND ...` runs a command; without one, it lists them."""

from farsign_jax.cli import launcher

if __name__ == "__main__":
    launcher.main()
