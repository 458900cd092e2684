"""Sandboxes: where an agent's commands run and its files lie."""
