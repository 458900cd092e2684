"""What else a store is asked for, beside the way of a commit: see `kode.core.store.base`."""
