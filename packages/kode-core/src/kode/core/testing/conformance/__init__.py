"""Contracts as test classes: subclass one, give it a fixture, and it holds you to the promises."""
