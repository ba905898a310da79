"""Callers and workers in other languages."""
