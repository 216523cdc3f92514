"""The ASGI layers around the application, outermost first.

- `telemetry.TelemetryMiddleware`: request ids, metrics, log lines.
- `origin.OriginMiddleware`: refuses foreign hosts and what foreign pages send.
- `auth.AuthMiddleware`: the token or the cookie, and in real mode who may spend the key.
- `limits.LimitsMiddleware`: the size, time and memory of bodies.
- `websocket.WebSocketMiddleware`: malformed frames, typed error frames, the fast path for steps.
- `head.HeadMiddleware`: answers HEAD like GET, without the body.
"""
