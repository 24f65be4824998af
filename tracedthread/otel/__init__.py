"""OpenTelemetry: slow waits as spans, exact metrics, thread starts as log events. Needs the API and the SDK only."""
