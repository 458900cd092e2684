"""Google's Gemini API."""

from kode.core.provider.gemini.content import GeminiProvider
from kode.core.provider.gemini.facts import GeminiFacts

__all__ = ["GeminiFacts", "GeminiProvider"]
