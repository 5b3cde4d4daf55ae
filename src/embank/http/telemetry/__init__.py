"""Traces and metrics for OpenTelemetry, where they are asked for: requests as spans, and the figures of `/metrics`."""
