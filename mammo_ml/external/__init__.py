"""Registered models judged on films of other collections: docs/external-validation.md."""
