"""Stores: where agents live. `Store` is the contract, `MemoryStore` and `SqliteStore` come with it."""
