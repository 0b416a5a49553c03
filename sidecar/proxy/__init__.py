"""The data plane's thin shell: downstream protocol, upstream pool, one exchange's life."""
