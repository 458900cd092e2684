"""Contracts as test classes: subclass one, give it a fixture, and every implementation is held to the same promises."""
