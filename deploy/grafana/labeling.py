"""The panels of *Labeling*: does the work get on, and does selection pay?"""

from __future__ import annotations

from collections.abc import Sequence

from deploy.grafana.panels import (
    GREEN,
    ORANGE,
    RED,
    Bars,
    Lines,
    Panel,
    Stat,
    per,
    positive,
    quantiles,
)

BATCHES = '<pods>,grpc_method="NextBatch"'


def share(part: str, whole: str) -> str:
    """A quotient of rates; nothing where there is no whole."""
    return f"(sum(rate({part})) or vector(0)) / (sum(rate({whole})) > 0)"


GLANCE = (
    Stat(
        "Labels",
        "Labels committed in the time shown, corrections and retractions among them.",
        {"": "sum(increase(coresift_labels_total{<pools>}[<range>]))"},
        nothing="none",
    ),
    Stat(
        "Labels an hour",
        "On average over the time shown. Halved without a holiday: see whether annotators wait, "
        "and whether batches come back empty.",
        {"": "3600 * sum(rate(coresift_labels_total{<pools>}[<range>]))"},
        nothing="none",
    ),
    Stat(
        "Positives found",
        "Labels of binary sessions that say positive, in the time shown. For a rare concept this "
        "is what the work is for.",
        {"": 'sum(increase(coresift_labels_total{<pools>,answer="positive"}[<range>]))'},
        nothing="none",
    ),
    Stat(
        "Share of positives",
        "Of the labels that say positive or negative. Well above the concept's share of the pool: "
        "selection pays. When it falls towards that share, little is left to find.",
        {
            "": share(
                'coresift_labels_total{<pools>,answer="positive"}[<range>]',
                'coresift_labels_total{<pools>,answer=~"positive|negative"}[<range>]',
            )
        },
        unit="percentunit",
        nothing="none",
        decimals=1,
    ),
    Stat(
        "Pool considered",
        "Share of the pool that a ranking looked at, on average. With SEALS a few per cent on a "
        "large pool: that is why a batch costs the same on a million items as on a billion.",
        {
            "": share(
                "coresift_considered_ratio_sum{<pools>}[<range>]",
                "coresift_considered_ratio_count{<pools>}[<range>]",
            )
        },
        unit="percentunit",
        nothing="no batches",
        decimals=1,
    ),
    Stat(
        "An annotator waits (p95)",
        "19 of 20 batches were there within this time, of all pools. Above half a second people "
        "notice.",
        {"": quantiles("grpc_server_handling_seconds", 0.95, of=BATCHES, over="<range>")["p95"]},
        unit="s",
        steps=((None, GREEN), (0.5, ORANGE), (2, RED)),
        nothing="no batches",
    ),
    Stat(
        "Leases that expire",
        "Share of granted leases whose annotator let them run out. Up to a tenth are closed tabs; "
        "more: longer leases, smaller batches, or a frontend that does not renew.",
        {
            "": share(
                'coresift_leases_total{<pools>,event="expired"}[<range>]',
                'coresift_leases_total{<pools>,event="granted"}[<range>]',
            )
        },
        unit="percentunit",
        steps=((None, GREEN), (0.1, ORANGE), (0.3, RED)),
        nothing="no leases",
        decimals=1,
    ),
    Stat(
        "Sessions",
        "Labeling efforts that exist, deleted ones not counted.",
        {"": "sum(max by (namespace, pool) (coresift_sessions{<pools>}))"},
        unit="none",
        nothing="none",
    ),
)

PROGRESS = (
    Lines(
        "How many labels an hour?",
        "By outcome. new is progress; corrected and retracted are second thoughts; late came after "
        "the lease had ended, surplus beyond the votes wanted: both are kept, and cost work twice.",
        per("outcome", "3600 * rate(coresift_labels_total{<pools>}[<rate>])"),
        width=12,
        stacked=True,
    ),
    Lines(
        "What do annotators answer?",
        "Labels an hour by answer. Many unsure: the question or the guideline is not clear.",
        per("answer", "3600 * rate(coresift_labels_total{<pools>}[<rate>])"),
        width=12,
        stacked=True,
    ),
    Lines(
        "How many batches an hour?",
        "NextBatch answers by phase. cold_start until a head can be fitted, then selecting; "
        "waiting: everything is leased to others; exhausted: nothing is left, or the budget spent.",
        per("phase", "3600 * rate(coresift_batches_total{<pools>}[<rate>])"),
        stacked=True,
    ),
    Lines(
        "Are positives still found?",
        "Share of positives among positive and negative labels. It starts high where selection "
        "works and falls as the positives run out: a reason to stop.",
        {
            "{{pool}}": 'sum by (pool) (rate(coresift_labels_total{<pools>,answer="positive"}'
            "[<rate>])) / (sum by (pool) (rate("
            'coresift_labels_total{<pools>,answer=~"positive|negative"}[<rate>])) > 0)'
        },
        unit="percentunit",
        most=1,
    ),
    Lines(
        "Is it time to stop?",
        "Advice given with the sessions' progress, an hour. budget_spent, pool_exhausted and the "
        "likes of recall_reached: look at those sessions, and stop or raise the budget.",
        per("advice", "3600 * rate(coresift_progress_advice_total{<pools>}[<rate>])"),
        nothing="nobody asked",
    ),
)

SELECTION = (
    Lines(
        "How much of the pool is considered, against all?",
        "Share of the pool that a ranking chose from. Everything below the line at 100 % is work "
        "that selection spares. Logarithmic.",
        {
            "on average": share(
                "coresift_considered_ratio_sum{<pools>}[<rate>]",
                "coresift_considered_ratio_count{<pools>}[<rate>]",
            ),
            "p95": quantiles("coresift_considered_ratio", 0.95, of="<pools>")["p95"],
            "all": "vector(1)",
        },
        unit="percentunit",
        log=True,
        width=12,
    ),
    Lines(
        "How many items does a ranking choose from?",
        "Candidates of a batch against the items of the largest pool. They grow with the labels, "
        "not with the pool. Logarithmic.",
        {
            "on average": share(
                "coresift_candidates_items_sum{<pools>}[<rate>]",
                "coresift_candidates_items_count{<pools>}[<rate>]",
            ),
            "items of the pool": "max(coresift_pool_items{<pools>})",
        },
        log=True,
        width=12,
    ),
    Lines(
        "Where do neighbours come from?",
        "Items looked up an hour. prefetched were ready before anybody asked, table came with the "
        "pool, on_demand made somebody wait. Many on_demand: build the pool with neighbours.",
        per("source", "3600 * rate(coresift_neighbour_lookups_total{<pods>}[<rate>])"),
        stacked=True,
    ),
    Lines(
        "Is the head up to date?",
        "Age of the oldest label that the head behind a batch did not know yet. Zero by default; "
        "more only where callers allow it with min_revision.",
        quantiles("coresift_head_age_seconds", 0.5, 0.95, of="<pools>"),
        unit="s",
        steps=((None, GREEN), (60, ORANGE)),
    ),
    Lines(
        "How many batches start cold?",
        "Share of batches chosen without a head. High on the first day; later it means sessions "
        "that find no positive: give them a first one by SearchPool.",
        {
            "cold starts": share(
                'coresift_batches_total{<pools>,phase="cold_start"}[<rate>]',
                "coresift_batches_total{<pools>}[<rate>]",
            )
        },
        unit="percentunit",
        most=1,
    ),
)

PEOPLE = (
    Lines(
        "How long does an annotator wait?",
        "For a batch, all pools: the median, and what 95 and 99 of 100 stay below.",
        quantiles("grpc_server_handling_seconds", 0.5, 0.95, 0.99, of=BATCHES),
        unit="s",
        steps=((None, GREEN), (0.5, ORANGE), (2, RED)),
        width=12,
    ),
    Lines(
        "Who gets nothing?",
        "Share of batches that came back empty because all is leased (waiting) or done "
        "(exhausted). Waiting annotators: smaller batches, shorter leases, or fewer people.",
        {
            "{{phase}}": "sum by (phase) (rate(coresift_batches_total"
            '{<pools>,phase=~"waiting|exhausted"}[<rate>])) '
            "/ on () group_left () (sum(rate(coresift_batches_total{<pools>}[<rate>])) > 0)"
        },
        unit="percentunit",
        steps=((None, GREEN), (0.1, ORANGE)),
        nothing="nobody",
        width=12,
    ),
    Lines(
        "What becomes of leases?",
        "Leases an hour: granted, renewed, released, expired. Released means handed back or "
        "skipped by an annotator.",
        per("event", "3600 * rate(coresift_leases_total{<pools>}[<rate>])"),
    ),
    Lines(
        "How many items are out?",
        "Leases held at the moment, by pool.",
        per("pool", "coresift_leases_active{<pools>}", "max"),
        stacked=True,
    ),
    Lines(
        "How much work is done twice?",
        "Share of labels that were late or surplus. Above a tenth: leases are too short, or the "
        "frontend shows items that it did not lease.",
        {
            "{{outcome}}": "sum by (outcome) (rate(coresift_labels_total"
            '{<pools>,outcome=~"late|surplus"}[<rate>])) '
            "/ on () group_left () (sum(rate(coresift_labels_total{<pools>}[<rate>])) > 0)"
        },
        unit="percentunit",
        steps=((None, GREEN), (0.1, ORANGE)),
        nothing="none",
    ),
)

CORESETS = (
    Bars(
        "How did core-set jobs end?",
        "Since the replicas started, by method and end. abandoned: nobody came back for it; "
        "failed: its error is in the log.",
        per("method, end", "coresift_coreset_jobs_total{<pods>}"),
        nothing="none",
        width=12,
        decimals=0,
    ),
    Lines(
        "What are core-set jobs doing?",
        "Jobs at the moment, by phase. Many queued: they wait for their turn on a replica.",
        positive(per("phase", "coresift_coreset_jobs_active{<pods>}")),
        stacked=True,
        nothing="none",
        width=12,
    ),
)

ROWS: dict[str, Sequence[Panel]] = {
    "Does it get on?": GLANCE,
    "Labels and batches": PROGRESS,
    "Does selection pay?": SELECTION,
    "Annotators": PEOPLE,
    "Core-sets": CORESETS,
}
