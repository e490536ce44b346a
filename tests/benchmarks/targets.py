"""What is wanted of the figures, and what bounds them from below."""

from __future__ import annotations

from tests.benchmarks.report import Figures, Floor, Target

CALL = "machine / empty gRPC call ms"
CALLS = "machine / empty gRPC calls a second, 64 callers"
TRIP = "machine / Redis GET ms"
STREAM = "machine / streaming read GB/s, 2 threads"
PRODUCT = "machine / float32 product GFLOP/s, 2 threads"
HALF_PRODUCT = "machine / bfloat16 product GFLOP/s, 2 threads"
LOOP = "labeling / seals(100)"
TEN = "labeling / seals(100), 10 classes"
RUSHED = "labeling / seals(100), no think time"
TABLED = "labeling / seals(100), no think time, neighbour table"
LARGE = "large / ten times as many"
HOT = "NextBatch(10)"
ONE_SCAN = Floor("the scan itself", lambda _: 1.0)
ONE_COPY = Floor("one copy of the rows", lambda _: 1.0)


def _pair(loop: str) -> Floor:
    """A pair of the loop; milliseconds."""

    def least(figures: Figures) -> float:
        candidates = figures[f"{loop} / candidates in half precision, MB"]
        return 2 * (figures[CALL] + figures[TRIP]) + candidates / figures[STREAM]

    return Floor("2 calls, 2 Redis trips, the candidates read once", least)


def _flop(items: float, others: float, figures: Figures) -> float:
    """Of all inner products of items and others."""
    return 2 * items * others * figures["dimension"]


def _rushed(figures: Figures) -> float:
    looked_up = _flop(100, figures["items"], figures) / 1e6 / figures[HALF_PRODUCT]
    return _pair(RUSHED).of(figures) + looked_up


def _centres(figures: Figures) -> float:
    items = figures["items"]
    return _flop(items, items / 100, figures) / 1e9 / figures[PRODUCT]


A_CALL = Floor("empty call, Redis trip", lambda figures: figures[CALL] + figures[TRIP])
A_CALL_S = Floor(A_CALL.name, lambda figures: A_CALL.of(figures) / 1e3)
A_TRIP = Floor("Redis trip", lambda figures: figures[TRIP])
IMPORTS = Floor("imports", lambda figures: figures["machine / imports of a server s"])
EMPTY_CALLS = Floor("empty calls", lambda figures: figures[CALLS])
EMPTY_PAIRS = Floor("pairs of empty calls", lambda figures: figures[CALLS] / 2)
LOOKED_UP = Floor("the same and 100 x items in bfloat16", _rushed)
CENTRES = Floor("items x centres in float32", _centres)
ONE_PRODUCT = Floor("the product itself", lambda _: 1.0)


def _of_annotators(part: str) -> tuple[Target, ...]:
    """Of many annotators on one session."""
    return (
        Target(f"{part} / {HOT}, one annotator: p50 ms", most=2, floor=A_CALL, items=0),
        Target(f"{part} / {HOT}, 300 a second offered: p99 ms", most=25, floor=A_CALL, items=0),
        Target(f"{part} / {HOT}, 300 a second offered: given up", most=0, items=0),
        Target(f"{part} / {HOT}, 300 a second offered: items offered twice", most=0, items=0),
        Target(
            f"{part} / {HOT}, closed loop: calls a second", least=600, floor=EMPTY_CALLS, items=0
        ),
        Target(f"{part} / {HOT}, closed loop: items offered twice", most=0, items=0),
        Target(f"{part} / label and ask: pairs a second", least=150, floor=EMPTY_PAIRS, items=0),
        Target(f"{part} / label and ask: items offered twice", most=0, items=0),
        Target(
            f"{part} / label and ask: answers that lack a label acknowledged before the call",
            most=0,
            items=0,
        ),
        Target(
            f"{part} / label and ask: newer heads than an answer's when it came, most",
            most=1,
            items=0,
        ),
        Target(f"{part} / longest Redis script ms", most=3, floor=A_TRIP, items=0),
    )


TARGETS = (
    Target(f"{LOOP} / pair p50 ms", most=25, floor=_pair(LOOP)),
    Target(f"{LOOP} / times faster than scikit-learn and NumPy", least=4),
    Target(f"{TEN} / pair p50 ms", most=25, floor=_pair(TEN)),
    Target(f"{TEN} / times faster than scikit-learn and NumPy", least=15),
    Target(f"{RUSHED} / pair p50 ms", most=500, floor=LOOKED_UP),
    Target(f"{TABLED} / pair p50 ms", most=25, floor=_pair(TABLED)),
    Target(f"{TABLED} / resident bytes / pool bytes", most=2, floor=ONE_COPY),
    Target("large / pair p50 / that at the usual size with as many candidates", most=1.5),
    Target("large / times faster than scikit-learn and NumPy", least=40),
    Target(f"{LARGE} / pair p50 ms", floor=_pair(LARGE)),
    Target(f"{LARGE} / resident bytes / pool bytes", most=1.3, floor=ONE_COPY),
    Target(f"{LARGE} / ready s", most=10, floor=IMPORTS),
    Target("scans / one output: scored / scan in float32", most=1.3, floor=ONE_SCAN),
    Target("scans / one output: scored / scan in bfloat16", most=1.8, floor=ONE_SCAN),
    Target("scans / 10 outputs, max_entropy: scored / product in bfloat16", most=3, floor=ONE_SCAN),
    Target("scans / 10 outputs, margin: scored / product in bfloat16", most=1.5, floor=ONE_SCAN),
    Target("scans / 16 sessions at once: answered / scan in float32", most=4, floor=ONE_SCAN),
    *_of_annotators("annotators"),
    *_of_annotators("annotators, neighbour table"),
    Target("sessions / 500 sessions: pair p99.9 ms", most=1_000, floor=A_CALL),
    Target("sessions / 500 sessions: MB above the pool", most=2_000),
    Target("start / start to ready s", most=3, floor=IMPORTS),
    Target("start / cold NextBatch(10), 10,000 labels, 2 classes, s", most=1, floor=A_CALL_S),
    Target("start / cold NextBatch(10), 10,000 labels, 10 classes, s", most=2, floor=A_CALL_S),
    Target("neighbour table / exact / product", least=0.8, floor=ONE_PRODUCT),
    Target("neighbour table / pool with a table by lists, s", most=360),
    Target("neighbour table / table by lists, recall", least=0.95),
    Target("coresets / forms / k_center, times faster", least=8),
    Target("coresets / forms / k_center, share of same centres", least=1),
    Target("coresets / small / facility_location / s", most=10),
    Target("coresets / forms / facility_location, objective / by exact graph", least=0.95),
    Target("coresets / small / k_means_medoids / s", most=5),
    Target("coresets / large / k_center / s", most=75, floor=CENTRES),
    Target("coresets / large / slowest score method, s", most=10),
    Target("coresets / large / most memory beyond the pool, MB", most=1_000),
    Target("coresets / streams / PutSignals of 4 columns, s", most=1.5),
    Target("coresets / streams / results, M items a second, lazily", least=5),
    Target("coresets / streams / results, M items a second, as strings", least=2),
)
