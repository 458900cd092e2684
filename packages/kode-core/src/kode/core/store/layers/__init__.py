"""The layers of `Store`, each on the one before: see `kode.core.store.base`."""
