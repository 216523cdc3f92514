"""The ASGI layers around the application, outermost first.

- `telemetry.TelemetryMiddleware`: request ids, metrics, log lines.
- `auth_and_limits.AuthAndLimitsMiddleware`: the bearer token and the size of bodies.
- `websocket.WebSocketMiddleware`: malformed frames, typed error frames, the fast path for steps.
- `head.HeadMiddleware`: answers HEAD like GET, without the body.
"""
