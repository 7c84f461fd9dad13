import pytest

from dora.config import LossConfig, OptimizerConfig, PretrainConfig
from dora.method.objective import teacher_temperature
from dora.training.schedule import Schedules


def schedules(steps_per_epoch: int = 10, **optimizer: float) -> Schedules:
    values = {"lr_per_256": 0.4, "min_lr": 0.0, "warmup_epochs": 2} | optimizer
    config = PretrainConfig(epochs=6, clips_per_batch=64, optimizer=OptimizerConfig.model_validate(values))
    return Schedules(config, steps_per_epoch)


def test_learning_rate_scales_with_clips_warms_up_and_decays():
    lr = schedules().lr
    assert lr(0) == 0
    assert lr(19) == lr(20) == pytest.approx(0.4 * 64 / 256)  # DINO's ramp includes its end
    assert lr(40) == pytest.approx(0.05)  # half of the cosine
    assert 0 < lr(59) < 0.001
    rates = [lr(step) for step in range(60)]
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_without_warmup_the_first_step_has_the_peak():
    assert schedules(warmup_epochs=0).lr(0) == pytest.approx(0.1)


def test_a_warmup_of_one_step_starts_at_zero_as_dinos_does():
    assert schedules(steps_per_epoch=1, warmup_epochs=1).lr(0) == 0


def test_a_warmup_longer_than_the_run_never_reaches_the_peak():
    lr = schedules(warmup_epochs=12).lr
    assert lr(59) == pytest.approx(0.1 * 59 / 119)


def test_decay_and_momentum_run_from_end_to_end():
    both = schedules(weight_decay=0.04, weight_decay_end=0.4, teacher_momentum=0.99)
    assert both.weight_decay(0) == pytest.approx(0.04) and both.weight_decay(30) == pytest.approx(0.22)
    assert both.teacher_momentum(0) == pytest.approx(0.99) and 0.999 < both.teacher_momentum(59) < 1


def test_teacher_temperature_warms_up_over_whole_epochs():
    loss = LossConfig(warmup_teacher_temperature=0.04, teacher_temperature=0.07, warmup_teacher_temperature_epochs=4)
    temperatures = [teacher_temperature(loss, epoch) for epoch in range(6)]
    assert temperatures == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    no_warmup = loss.model_copy(update={"warmup_teacher_temperature_epochs": 0})
    assert teacher_temperature(no_warmup, 0) == 0.07


def test_the_authors_temperature_is_constant():
    assert {teacher_temperature(LossConfig(), epoch) for epoch in range(100)} == {0.04}
