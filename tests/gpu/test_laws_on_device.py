"""The laws of whatever takes products with the pool, on the device.

They are the tests of ``tests/laws``, imported: only where their pools live differs.
"""

from __future__ import annotations

import pytest

# Tests and the fixtures that these ask for: pytest finds them by their names here.
# ruff: noqa: F401
from tests.laws.test_coreset_laws import (
    pools,
    test_a_selection_has_the_budget_and_is_repeatable,
    test_a_smaller_budget_selects_the_first_of_a_larger,
    test_only_items_are_selected,
    test_tiny_pools,
)
from tests.laws.test_facility_laws import (
    test_facility_location_is_its_definition,
    test_query_is_its_definition,
)
from tests.laws.test_graph_laws import (
    mixture,
    test_the_exact_graph_is_its_definition,
    test_the_self_join_is_of_directions_whatever_the_metric,
    test_the_self_join_recalls_nine_in_ten,
)
from tests.laws.test_k_center_laws import (
    test_a_smaller_core_set_is_the_beginning_of_a_larger,
    test_a_stop_ends_it_soon,
    test_k_center_is_its_definition,
    test_many_frontiers_and_blocks,
)
from tests.laws.test_pool_laws import (
    test_fetch_and_scan_are_the_input,
    test_neighbours_are_other_rows,
    test_search_is_brute_force,
)
from tests.laws.test_strategy_laws import (
    pool,
    test_a_scan_of_the_pool_gives_the_same,
    test_neither_blocks_nor_order_nor_depth_matter,
    test_the_top_is_that_of_the_slow_twin,
    test_what_is_blocked_is_never_chosen,
)

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("the_gpu")]
