"""KODE's agents in a Supabase project."""

from kode.store.supabase.store import SupabaseStore

__all__ = ["SupabaseStore"]
