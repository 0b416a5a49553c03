"""The simulated provider: product code with knobs, used by demo, tests and bench."""
