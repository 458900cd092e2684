"""The command `kode`."""
