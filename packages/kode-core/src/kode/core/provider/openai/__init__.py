"""OpenAI's APIs, and everyone who speaks like them."""

from kode.core.provider.openai.chat_request import Dialect
from kode.core.provider.openai.provider import OpenAIProvider, by_chat, by_responses

__all__ = ["Dialect", "OpenAIProvider", "by_chat", "by_responses"]
