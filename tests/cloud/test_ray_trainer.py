"""What takt changes about Ray's trainer; no cluster is needed to see it."""

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from cloud.training.ray_trainer import (
    FailOnTaktError,
    ProcessGroupConfig,
    Trainer,
    first_takt_error,
    interface_of,
)
from common.errors import ConfigError, DataError


def failure(error: Exception) -> WorkerGroupError:
    wrapped = UserExceptionWithTraceback(error, "traceback")
    return WorkerGroupError("rank 1 failed", {1: wrapped})


def test_an_error_of_the_users_is_found_among_the_workers_failures() -> None:
    error = ConfigError("no model is called 'x'")
    assert first_takt_error(failure(error)) is error
    assert first_takt_error(failure(RuntimeError("lost"))) is None
    assert first_takt_error(RuntimeError("not Ray's at all")) is None


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (DataError("the data is damaged"), FailureDecision.RAISE),
        (RuntimeError("connection reset by a killed peer"), FailureDecision.RETRY),
    ],
)
def test_only_what_may_pass_is_tried_again(
    error: Exception, decision: FailureDecision
) -> None:
    policy = FailOnTaktError(FailureConfig(max_failures=1))
    assert policy.make_decision(failure(error)) is decision


def test_the_trainer_starts_no_process_that_takt_does_not_use() -> None:
    trainer = Trainer(
        lambda config: None,
        train_loop_config={},
        backend_config=ProcessGroupConfig("gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="test", storage_path="/nowhere"),
    )
    found = {type(c).__name__ for c in trainer._create_default_callbacks()}
    assert "BackendSetupCallback" in found
    assert not {c for c in found if "Dataset" in c or "Cleaner" in c or "Metric" in c}


def test_the_interface_of_an_address_is_the_one_that_holds_it() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # set apart for documents: nobody's
