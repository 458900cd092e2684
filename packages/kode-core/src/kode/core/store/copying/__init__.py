"""Copying agents between stores of any kind, and proving that nothing was lost."""

from __future__ import annotations

from kode.core.store.copying.copy import copy_store, verify_copy
from kode.core.store.copying.report import Copied, Outcome, Progress, Verified, What

__all__ = ["Copied", "Outcome", "Progress", "Verified", "What", "copy_store", "verify_copy"]
