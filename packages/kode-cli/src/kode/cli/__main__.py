"""`python -m kode.cli` is the command `kode`."""

from kode.cli.main import main

main()
