"""What was said of batching, as a table: flags, a Triton config, and what happens unsaid."""

from typing import Any

import pytest

from headrace.server import batch_settings, model_config
from headrace.server.batch_settings import BatchWishes
from headrace.server.batching import ONE_BY_ONE, BatchPolicy, QueuePolicy
from headrace.server.latency_model import LatencyModels

TRITON = """
max_batch_size: 16
dynamic_batching {
  preferred_batch_size: [ 8, 4 ]
  max_queue_delay_microseconds: 2000
  preserve_ordering: true
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy {
    timeout_action: DELAY default_timeout_microseconds: 5000 max_queue_size: 100
    allow_timeout_override: true
  }
  priority_queue_policy { key: 1 value { max_queue_size: 7 } }
}
"""


@pytest.mark.parametrize(
    ("wishes", "config", "may_batch", "expected"),
    [
        pytest.param(BatchWishes(), "", False, ONE_BY_ONE, id="unsaid, and the trial failed"),
        pytest.param(
            BatchWishes(), "", True, BatchPolicy(128, is_learned=True), id="unsaid: what pays"
        ),
        pytest.param(BatchWishes(0), "", True, ONE_BY_ONE, id="0 is off"),
        pytest.param(
            BatchWishes(8, 0.002), "", False, BatchPolicy(8, max_delay_s=0.002), id="flags"
        ),
        pytest.param(
            BatchWishes(None, 0.0, 0.05),
            "",
            True,
            BatchPolicy(128, is_learned=True, target_latency_s=0.05),
            id="a target",
        ),
        pytest.param(
            BatchWishes(), 'backend: "onnxruntime"', True, ONE_BY_ONE, id="a config without a size"
        ),
        pytest.param(
            BatchWishes(64, 0.001),
            "max_batch_size: 8",
            False,
            BatchPolicy(8, max_delay_s=0.001),
            id="the config's size wins over the flag's",
        ),
        pytest.param(
            BatchWishes(),
            TRITON,
            False,
            BatchPolicy(
                16,
                preferred=(4, 8),
                max_delay_s=0.002,
                preserve_ordering=True,
                levels=3,
                default_level=2,
                queue=QueuePolicy(0.005, True, 100),
                queues={1: QueuePolicy(max_requests=7, allows_timeout=False)},
            ),
            id="all of Triton's dynamic_batching",
        ),
    ],
)
def test_policy(wishes: BatchWishes, config: str, may_batch: bool, expected: BatchPolicy) -> None:
    keys: Any = model_config.from_text(config, "config.pbtxt").keys if config else {}
    assert batch_settings.policy(wishes, keys, may_batch) == expected


def observed(*rows: int) -> LatencyModels:
    """10 ms and 1 ms per row."""
    models = LatencyModels()
    for each in rows * 4:
        models.of("k").observe(each, 0.010 + 0.001 * each)
    return models


@pytest.mark.parametrize(
    ("policy", "models", "expected"),
    [
        pytest.param(BatchPolicy(8), observed(), 8, id="a size that was given"),
        pytest.param(ONE_BY_ONE, observed(), 1, id="no batches"),
        pytest.param(
            BatchPolicy(128, is_learned=True),
            observed(1, 8),
            128,
            id="a learned one: what pays",
        ),
        pytest.param(
            BatchPolicy(1024, is_learned=True),
            observed(1, 8),
            424,
            id="… in a load's time",
        ),
        pytest.param(BatchPolicy(128, is_learned=True), observed(), 1, id="nothing learned yet"),
    ],
)
def test_the_largest_batch(policy: BatchPolicy, models: LatencyModels, expected: int) -> None:
    assert batch_settings.largest_rows(policy, models) == pytest.approx(expected, rel=0.05)
