"""Media between what is stored and what a model is shown."""

from kode.core.runtime.media.door import admitted, stowed
from kode.core.runtime.media.supply import Media

__all__ = ["Media", "admitted", "stowed"]
