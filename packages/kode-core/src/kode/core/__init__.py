"""KODE: a durable runtime kernel for LLM agents."""
