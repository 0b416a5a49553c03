"""Cohere v2 chat: read into the neutral form and written from it."""
