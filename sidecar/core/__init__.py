"""Pure decisions: no I/O, no clock, no hidden randomness, no logging, no await."""
