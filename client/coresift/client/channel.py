"""How a channel to the service is set up."""

from __future__ import annotations

import json
from typing import Any

DEFAULT_TARGET = "127.0.0.1:50051"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
KEEPALIVE_MS = 60_000
"""The server permits pings every 20 s; ours keep clear of that."""

SERVICE = "coresift.v1.SelectionService"

SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A draining replica says so through its health service before it stops.
    "healthCheckConfig": {"serviceName": SERVICE},
}


def channel_options() -> list[tuple[str, Any]]:
    """Options of every channel: replicas in turn, health checks, keepalive, message sizes."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # After an outage the next attempt should find the server soon.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Ours is the only retry policy: it knows deadlines and RetryInfo.
        ("grpc.enable_retries", 0),
    ]
