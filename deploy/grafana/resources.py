"""The panels of *Service* about what it runs on: threads, Redis, replicas, pools, GPUs."""

from __future__ import annotations

from deploy.grafana.panels import GREEN, RED, Bars, Lines, by_replica, per, positive, slow


def of_us(expr: str) -> str:
    """Of what every process exports, that of Coresift's."""
    return f"({expr} and on (job, instance) coresift_build_info)"


def by_version(metric: str) -> dict[str, str]:
    """A query by pool and the beginning of its version."""
    short = f'label_replace({metric}{{<pools>}}, "short", "$1", "version", "(.{{8}}).*")'
    return {"{{pool}} {{short}}": f"max by (pool, version, short) ({short})"}


SATURATION = (
    Lines(
        "How many calls are under way?",
        "Calls open at the moment, by class, those that only wait for others counted.",
        per("call_class", "coresift_calls_open{<pods>}"),
        stacked=True,
    ),
    Lines(
        "How many calls work?",
        "Calls that hold a permit of their class.",
        per("call_class", "coresift_calls_working{<pods>}"),
        stacked=True,
    ),
    Lines(
        "What waits?",
        "Calls that wait for a permit, and computations that wait for a thread. A line that stays "
        "above zero: more replicas, or more cores each.",
        {
            "{{call_class}} calls": "sum by (call_class) (coresift_calls_queued{<pods>})",
            "computations": "sum(coresift_workers_queued{<pods>})",
        },
    ),
    Lines(
        "Which replica computes?",
        "Threads busy with numerics. Even lines mean even sharing; the session header keeps one "
        "session on one replica, so a few busy sessions may well lie on one.",
        {"{{replica}}": by_replica("coresift_workers_busy{<pods>}")},
    ),
    Lines(
        "Is the event loop late? (p99)",
        "How late the loop that all calls share comes to what is due. Above 0.1 s every call "
        "and health check is late: too little CPU, or a defect worth reporting.",
        {
            "{{replica}}": by_replica(
                "histogram_quantile(0.99, sum by (le, pod, instance) (rate("
                "coresift_event_loop_lag_seconds_bucket{<pods>}[<rate>])))"
            )
        },
        unit="s",
        steps=((None, GREEN), (0.1, RED)),
        log=True,
    ),
    Lines(
        "How many cores does a replica use?",
        "CPU seconds a second. Compare with the limit of the container.",
        {"{{replica}}": by_replica(of_us("rate(process_cpu_seconds_total{<pods>}[<rate>])"))},
    ),
    Lines(
        "How much memory does a replica use?",
        "Resident memory, mapped pages of the pool included: it rises while a pool is first read, "
        "then stays level. A steady slope pages nobody at once but wants a look.",
        {"{{replica}}": by_replica(of_us("process_resident_memory_bytes{<pods>}"))},
        unit="bytes",
    ),
    Lines(
        "How many files are open?",
        "Share of the file descriptors that a replica may open; each connection takes one.",
        {"{{replica}}": by_replica(of_us("process_open_fds{<pods>} / process_max_fds{<pods>}"))},
        unit="percentunit",
        steps=((None, GREEN), (0.8, RED)),
    ),
    Lines(
        "How many tasks has the event loop?",
        "It follows the calls under way. A slope without more calls is a leak.",
        {"{{replica}}": by_replica("coresift_asyncio_tasks{<pods>}")},
    ),
)

REDIS = (
    Lines(
        "What is asked of Redis?",
        "Calls to the state store a second, by operation.",
        per("operation", "rate(coresift_redis_call_seconds_count{<pods>}[<rate>])"),
        unit="ops",
        stacked=True,
    ),
    Lines(
        "How long does Redis take? (p99)",
        "By operation. A claim takes under a millisecond next to the server; ten and more mean a "
        "slow disk (appendfsync always), a far-off zone or a busy Redis.",
        slow("coresift_redis_call_seconds", "operation", 0.99),
        unit="s",
        log=True,
    ),
    Lines(
        "Does Redis fail?",
        "Calls to the state store that failed a second. A short burst is a failover.",
        positive(per("operation", "rate(coresift_redis_errors_total{<pods>}[<rate>])")),
        unit="ops",
        nothing="none",
    ),
    Lines(
        "How full is Redis?",
        "Memory in use, and maxmemory where one is set. A label takes 94 to 218 bytes for good and "
        "27 to 243 more for a day, an item with stored neighbours 498 (measured with Redis 6.2).",
        {
            "in use": "max(coresift_redis_memory_bytes{<pods>})",
            "limit": "max(coresift_redis_memory_limit_bytes{<pods>} > 0)",
        },
        unit="bytes",
    ),
    Lines(
        "Are acknowledged labels safe?",
        "Writes that too few replicas of Redis had in time (refused, and repeated by clients), and "
        "views dropped because a failover rewound the log. Anything but zero wants a look.",
        {
            "too few replicas had a write": "sum(increase("
            "coresift_redis_wait_shortfalls_total{<pods>}[<rate>]))",
            "log rewound": "sum(increase(coresift_log_rewinds_total{<pods>}[<rate>]))",
        },
    ),
    Lines(
        "Does each replica reach Redis?",
        "1 while the store answers the replica. One line at 0: that pod's network; all: Redis.",
        {"{{replica}}": by_replica("coresift_redis_up{<pods>}")},
        most=1,
    ),
)

REPLICAS = (
    Lines(
        "Is each replica ready?",
        "1 while the replica takes calls: its pools are loaded and it does not drain.",
        {"{{replica}}": by_replica("coresift_ready{<pods>}")},
        most=1,
    ),
    Bars(
        "Which release runs?",
        "Replicas by release. Two releases side by side are a roll-out under way.",
        per("version", "coresift_build_info{<pods>}", "count"),
        unit="none",
    ),
    Lines(
        "When did replicas start?",
        "Time since the start. A line that falls to zero is a restart; kubectl describe says why.",
        {"{{replica}}": by_replica(of_us("time() - process_start_time_seconds{<pods>}"))},
        unit="s",
    ),
    Bars(
        "What is served?",
        "Items of each pool version.",
        by_version("coresift_pool_items"),
        unit="short",
    ),
    Bars(
        "How large are the indexes?",
        "Bytes that the index of a pool version holds on one replica.",
        by_version("coresift_pool_index_bytes"),
        unit="bytes",
    ),
    Bars(
        "How long did pools take to open?",
        "The slowest replica. The start-up probe must allow for it.",
        by_version("coresift_pool_load_seconds"),
        unit="s",
    ),
    Lines(
        "Are new pool versions found?",
        "Looks into the roots of pools, local ones and those in object storage: loaded, unchanged, "
        "failed. Failures want a look at the log, which names the place and the reason.",
        per("pool, outcome", "rate(coresift_pool_refreshes_total{<pools>}[<rate>])"),
        unit="ops",
        nothing="no pool is looked at again",
    ),
    Lines(
        "Are changed files read again?",
        "Tokens and certificates that were replaced while the server ran. After a failure the old "
        "ones stay in force until they expire.",
        per("file, outcome", "increase(coresift_reloads_total{<pods>}[<rate>])"),
        nothing="none changed",
    ),
    Lines(
        "Are views kept across restarts?",
        "Files of sessions' views: written, loaded, unusable (rebuilt from the log), failed.",
        per("event", "increase(coresift_view_files_total{<pods>}[<rate>])"),
        nothing="none",
    ),
)

GPU = (
    Lines(
        "How much GPU memory is in use?",
        "By replica and device, with what there is. Pools live there whole.",
        {
            "{{replica}} {{device}}": by_replica("coresift_gpu_memory_used_bytes{<pods>}"),
            "{{replica}} {{device}}, all of it": by_replica(
                "coresift_gpu_memory_limit_bytes{<pods>}"
            ),
        },
        unit="bytes",
        width=12,
        nothing="no GPU",
    ),
    Lines(
        "How full is the GPU?",
        "Above 92 % the next pool version may not fit: take a larger GPU or fewer pools.",
        {
            "{{replica}} {{device}}": by_replica(
                "(coresift_gpu_memory_used_bytes{<pods>} / coresift_gpu_memory_limit_bytes{<pods>})"
            )
        },
        unit="percentunit",
        steps=((None, GREEN), (0.92, RED)),
        width=12,
        nothing="no GPU",
    ),
)
