"""Pure protocol text: HTTP/1.1 heads and bodies, SSE, each provider dialect, metering."""
