"""Prometheus, OpenTelemetry, the line per request."""
