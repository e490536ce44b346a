"""What is measured of calls: the RPCs, their admission, the threads and the event loop."""

from __future__ import annotations

from collections.abc import Callable

from coresift.server.metrics.catalogue import FAST, Catalogue, Values

CALL_CLASSES = ("state", "selecting", "reading", "uploading", "attached")
CAUSES = ("open", "queue", "wait", "tenant", "deadline")


class CallMetrics:
    """The part of the metrics that is about calls."""

    def _declare_calls(self, catalogue: Catalogue) -> None:
        rpc: dict[str, Values] = {
            "grpc_type": "unary_unary, unary_stream, stream_unary",
            "grpc_service": "coresift.v1.SelectionService",
            "grpc_method": "a method of the service",
        }
        self.rpc_started = catalogue.counter("grpc_server_started_total", "Calls begun.", **rpc)
        self.rpc_handled = catalogue.counter(
            "grpc_server_handled_total", "Calls ended.", **rpc, grpc_code="a gRPC status code"
        )
        self.rpc_seconds = catalogue.histogram(
            "grpc_server_handling_seconds", "Time from a call's start to its end.", FAST, **rpc
        )
        self.calls_working = catalogue.gauge(
            "coresift_calls_working",
            "Calls that hold a permit of their class.",
            call_class=CALL_CLASSES,
        )
        self.calls_queued = catalogue.gauge(
            "coresift_calls_queued",
            "Calls that wait for a permit of their class.",
            call_class=CALL_CLASSES,
        )
        self.calls_open = catalogue.gauge(
            "coresift_calls_open",
            "Calls under way, those that only wait for others counted.",
            call_class=CALL_CLASSES,
        )
        self.call_queue_seconds = catalogue.histogram(
            "coresift_call_queue_seconds",
            "Time that admitted calls waited for their permit.",
            call_class=CALL_CLASSES,
        )
        self.calls_refused = catalogue.counter(
            "coresift_calls_refused_total",
            "Calls refused for overload, by class (workers: where they needed a thread, scans: a "
            "pass over the pool) and cause.",
            call_class=(*CALL_CLASSES, "workers", "scans"),
            cause=CAUSES,
        )
        self.workers_busy = catalogue.gauge(
            "coresift_workers_busy", "Threads that compute for calls."
        )
        self.workers_queued = catalogue.gauge(
            "coresift_workers_queued", "Computations that wait for a thread."
        )
        self.loop_lag = catalogue.histogram(
            "coresift_event_loop_lag_seconds",
            "How late the event loop, which all calls share, comes to what is due.",
        )
        self.tasks = catalogue.gauge("coresift_asyncio_tasks", "Tasks of the event loop.")

    def refused_by(self, call_class: str) -> Callable[[str], None]:
        """Counts a class's refusals by cause."""
        return lambda cause: self.calls_refused.labels(call_class, cause).inc()
