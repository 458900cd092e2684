"""OpenAI's APIs, and everyone who speaks like them."""

from kode.core.provider.openai.chat import OpenAIProvider
from kode.core.provider.openai.chat_request import Dialect

__all__ = ["Dialect", "OpenAIProvider"]
