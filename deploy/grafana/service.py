"""The panels of *Service*: is it up, is it quick, what runs out?"""

from __future__ import annotations

from collections.abc import Sequence

from deploy.grafana.panels import (
    GREEN,
    ORANGE,
    RED,
    Lines,
    Panel,
    Stat,
    per,
    positive,
    quantiles,
    slow,
)
from deploy.grafana.resources import GPU, REDIS, REPLICAS, SATURATION

OURS = "UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED"
"""Status codes that count against the objective; deploy/prometheus/records.yaml has the same."""
OBJECTIVE = 0.999


def answered(over: str) -> str:
    """The share of calls that did not fail by our fault."""
    good = f'sum(rate(grpc_server_handled_total{{<pods>,grpc_code!~"{OURS}"}}[{over}]))'
    return f"{good} / (sum(rate(grpc_server_handled_total{{<pods>}}[{over}])) > 0)"


GLANCE = (
    Stat(
        "Replicas ready",
        "Replicas that take calls. One alone cannot be restarted without a pause; with none the "
        "service is down: see *Is each replica ready?*.",
        {"": "sum(coresift_ready{<pods>})"},
        unit="none",
        steps=((None, RED), (1, ORANGE), (2, GREEN)),
        nothing="none seen",
    ),
    Stat(
        "Calls answered",
        f"Share of calls in the time shown that did not fail by our fault ({OURS}). The objective "
        f"is {OBJECTIVE:.1%}. Refusals of bad requests and of too many calls are not counted here.",
        {"": answered("<range>")},
        unit="percentunit",
        steps=((None, RED), (0.99, ORANGE), (OBJECTIVE, GREEN)),
        nothing="no calls",
        decimals=2,
    ),
    Stat(
        "Error budget, last hour",
        "How many times faster than allowed the last hour used up the errors of 30 days. 1 just "
        "lasts; at 14.4 a fiftieth of the month's budget is gone within the hour, and somebody is "
        "paged.",
        {"": f"(1 - ({answered('1h')})) / {1 - OBJECTIVE:g}"},
        unit="suffix: x",
        steps=((None, GREEN), (1, ORANGE), (14.4, RED)),
        nothing="no calls",
        decimals=1,
    ),
    Stat(
        "Calls a second",
        "All calls that ended, whatever their answer.",
        {"": "sum(rate(grpc_server_handled_total{<pods>}[<rate>]))"},
        unit="reqps",
        nothing="no calls",
        decimals=1,
    ),
    Stat(
        "NextBatch, p99",
        "99 of 100 annotators got their batch within this time. Above half a second people notice; "
        "*Where does selection spend its time?* says why.",
        {
            "": quantiles(
                "grpc_server_handling_seconds",
                0.99,
                of='<pods>,grpc_method="NextBatch"',
                over="<range>",
            )["p99"]
        },
        unit="s",
        steps=((None, GREEN), (0.5, ORANGE), (2, RED)),
        nothing="no batches",
    ),
    Stat(
        "Refused for overload",
        "Share of calls turned away early so that the others keep their latency. Clients try "
        "again. Lasting refusals want more replicas.",
        {
            "": "sum(rate(coresift_calls_refused_total{<pods>}[<range>]))"
            " / (sum(rate(grpc_server_started_total{<pods>}[<range>])) > 0)"
        },
        unit="percentunit",
        steps=((None, GREEN), (0.001, ORANGE), (0.05, RED)),
        nothing="none",
        decimals=2,
    ),
    Stat(
        "State store",
        "Whether Redis answers every replica. While it is away calls fail with UNAVAILABLE within "
        "50 ms; what was acknowledged is kept.",
        {"": "min(coresift_redis_up{<pods>})"},
        unit="none",
        steps=((None, RED), (1, GREEN)),
        names={"0": "away", "1": "up"},
        nothing="not seen",
    ),
    Stat(
        "Redis memory",
        "Share of Redis' maxmemory in use. When it is full Redis refuses writes (it must not "
        "evict): raise the limit, or export and delete old sessions, well before.",
        {
            "": "max(coresift_redis_memory_bytes{<pods>} "
            "/ (coresift_redis_memory_limit_bytes{<pods>} > 0))"
        },
        unit="percentunit",
        steps=((None, GREEN), (0.8, ORANGE), (0.95, RED)),
        nothing="no limit",
        decimals=1,
    ),
)

TRAFFIC = (
    Lines(
        "What is called?",
        "Calls begun a second, by method. A healthy labeling day is mostly NextBatch and "
        "AddLabels, about as many of the one as of the other.",
        per("grpc_method", "rate(grpc_server_started_total{<pods>}[<rate>])"),
        unit="reqps",
        width=12,
        stacked=True,
    ),
    Lines(
        "What is not answered with OK?",
        "By status code. INVALID_ARGUMENT, NOT_FOUND and FAILED_PRECONDITION are the caller's "
        "doing; RESOURCE_EXHAUSTED is overload or a message too large; the rest is ours.",
        positive(
            per("grpc_code", 'rate(grpc_server_handled_total{<pods>,grpc_code!="OK"}[<rate>])')
        ),
        unit="reqps",
        width=12,
        nothing="none",
    ),
    Lines(
        "Which calls fail by our fault?",
        "Calls that spend the error budget, by method and code. Everything at once: Redis or a "
        "restart. One method: look for its error in the logs by trace id.",
        positive(
            per(
                "grpc_method, grpc_code",
                f'rate(grpc_server_handled_total{{<pods>,grpc_code=~"{OURS}"}}[<rate>])',
            )
        ),
        unit="reqps",
        width=12,
        nothing="none",
    ),
    Lines(
        "Which calls are refused for overload?",
        "By class of call and cause: open (too many at once), queue and wait (would wait too "
        "long), tenant (more than its share), deadline (could not be kept).",
        positive(per("call_class, cause", "rate(coresift_calls_refused_total{<pods>}[<rate>])")),
        unit="reqps",
        width=12,
        nothing="none",
    ),
)

LATENCY = (
    Lines(
        "How long does NextBatch take?",
        "From a call's arrival to its answer: the median, and what 95 and 99 of 100 stay below.",
        quantiles(
            "grpc_server_handling_seconds", 0.5, 0.95, 0.99, of='<pods>,grpc_method="NextBatch"'
        ),
        unit="s",
        steps=((None, GREEN), (0.5, ORANGE), (2, RED)),
        width=12,
    ),
    Lines(
        "Which method is slow? (p95)",
        "95 of 100 calls of a method ended within this time. Streams (Predict, ListLabels, "
        "exports, core-sets) last as long as there is something to send.",
        slow("grpc_server_handling_seconds", "grpc_method", 0.95),
        unit="s",
        width=12,
        log=True,
    ),
    Lines(
        "Where does selection spend its time?",
        "Seconds of work a second, by stage: 1 keeps one thread busy. catch_up reads the log, fit "
        "trains the head, neighbours searches the pool, score ranks, claim takes the leases.",
        per("stage", "rate(coresift_stage_seconds_sum{<pods>}[<rate>])"),
        unit="short",
        stacked=True,
    ),
    Lines(
        "Which stage is slow? (p95)",
        "95 of 100 passes of a stage took at most this. A slow score wants fewer candidates or a "
        "GPU; slow neighbours a neighbour table in the pool; a slow claim is Redis.",
        slow("coresift_stage_seconds", "stage", 0.95),
        unit="s",
        log=True,
    ),
    Lines(
        "How long do calls wait for their turn? (p99)",
        "Time that admitted calls waited for a permit of their class. Near zero while there is "
        "room; it grows before calls are refused.",
        slow("coresift_call_queue_seconds", "call_class", 0.99),
        unit="s",
        steps=((None, GREEN), (0.25, ORANGE)),
    ),
)

ROWS: dict[str, Sequence[Panel]] = {
    "Is it well?": GLANCE,
    "Traffic and errors": TRAFFIC,
    "Latency": LATENCY,
    "Saturation": SATURATION,
    "Redis": REDIS,
    "Replicas and pools": REPLICAS,
    "GPU": GPU,
}
