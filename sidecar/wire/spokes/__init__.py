"""One file, or a few, for each format: how it is read into the neutral form and written from it."""
