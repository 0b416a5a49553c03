"""`make run`: the product at work on a simulated provider, without a key and without the network."""

from sidecar.demo.story import play

__all__ = ["play"]
