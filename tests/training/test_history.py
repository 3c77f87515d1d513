"""Which epoch is the best, and when training stops."""

from pipeline.config.training import TrainConfig
from pipeline.training.history import EpochResult, find_best, should_stop


def result(epoch, val_loss=1.0, val_accuracy=0.5):
    return EpochResult(epoch, 1.0, 0.5, val_loss, val_accuracy, 0.1, 1.0, 1.0)


def test_the_best_epoch_is_the_lowest_loss_or_the_highest_accuracy_and_the_first_among_equals():
    history = [result(1, 0.9, 0.6), result(2, 0.5, 0.7), result(3, 0.5, 0.7), result(4, 0.7, 0.8), result(5, 0.6, 0.8)]
    assert find_best(history, "val_loss").epoch == 2
    assert find_best(history, "val_accuracy").epoch == 5


def test_training_stops_after_so_many_epochs_without_a_better_one():
    config = TrainConfig(epochs=10, early_stopping_epochs=2)
    history = [result(1, 0.9), result(2, 0.5), result(3, 0.6)]
    assert not should_stop(history, config)
    assert should_stop([*history, result(4, 0.7)], config)
    assert not should_stop([*history, result(4, 0.4)], config)
    assert not should_stop([*history, result(4, 0.7)], TrainConfig(epochs=10))
    assert should_stop(history, TrainConfig(epochs=3))
