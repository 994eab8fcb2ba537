"""A call as OpenTelemetry sees it."""
