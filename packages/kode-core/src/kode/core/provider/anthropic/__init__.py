"""Anthropic's Messages API, and others who speak it."""

from kode.core.provider.anthropic.facts import ModelFacts
from kode.core.provider.anthropic.messages import AnthropicProvider

__all__ = ["AnthropicProvider", "ModelFacts"]
