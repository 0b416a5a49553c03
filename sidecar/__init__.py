"""llm-sidecar: a measuring, deciding reverse proxy beside one service."""

__version__ = "0.1.0"
