import io
import threading

from rich.console import Console

from pipeline.core import console as console_module
from pipeline.training.history import EpochResult
from pipeline.training.loop.monitor import StepResult
from pipeline.training.progress import TrainingDisplay, describe_epoch

EPOCH = EpochResult(3, 0.51234, 0.75, 0.61239, 0.7, 1e-3, 1234.5, 2.04)
STEP = StepResult(epoch=3, step=5, num_steps=10, loss=0.4321, accuracy=0.8765, images_per_second=987.6)


def test_an_epochs_line_has_every_number():
    line = describe_epoch(EPOCH, 20, is_best=True)
    for part in ("epoch  3/20", "0.5123", "0.7500", "0.6124", "0.7000", "1.00e-03", "1,234 images/s", "2.0 s", "best"):
        assert part in line
    assert "best" not in describe_epoch(EPOCH, 20, is_best=False)


def test_without_a_terminal_there_is_one_line_an_epoch_and_no_bar():
    file = io.StringIO()
    with TrainingDisplay(Console(file=file, width=80), 20, 2) as display:
        display.show_step(STEP)
        display.show_epoch(EPOCH, is_best=False)
    assert file.getvalue() == describe_epoch(EPOCH, 20, is_best=False) + "\n"


def test_a_log_names_the_training_only_where_no_epoch_ended_for_half_a_minute(monkeypatch):
    """The first line is due in an hour; that of an epoch begins the wait of the later ones, here a hundredth second."""
    monkeypatch.setattr(console_module, "FIRST_LINE_S", 3600.0)
    monkeypatch.setattr(console_module, "LATER_LINES_S", 0.01)
    file, named = io.StringIO(), threading.Event()

    class Log(io.StringIO):
        def write(self, text):
            if "training: epoch 4 of 20" in text:
                named.set()
            return file.write(text)

    with TrainingDisplay(Console(file=Log(), width=80), 20, 2) as display:
        display.show_epoch(EPOCH, is_best=False)
        assert named.wait(20)
    assert file.getvalue().startswith(describe_epoch(EPOCH, 20, is_best=False))


def test_what_training_waits_for_is_named_in_a_log_and_on_a_terminal(monkeypatch):
    monkeypatch.setattr(console_module, "FIRST_LINE_S", 3600.0)
    file = io.StringIO()
    with TrainingDisplay(Console(file=file, width=160, force_terminal=True), 20, 2) as display:
        display.show_wait("opening the records")
        display.bar.refresh()
        assert display.work.describe().startswith("training: opening the records")
        display.show_epoch(EPOCH, is_best=False)
        assert display.work.describe().startswith("training: epoch 4 of 20")
    assert "opening the records" in file.getvalue()


def test_on_a_terminal_a_bar_shows_where_the_epoch_stands():
    file = io.StringIO()
    with TrainingDisplay(Console(file=file, width=160, force_terminal=True), 20, 2) as display:
        display.show_step(STEP)
        display.bar.refresh()
        assert display.bar.tasks[0].completed == 2.5
    for part in ("epoch 3/20", "loss 0.4321", "accuracy 0.8765", "988 images/s"):
        assert part in file.getvalue()
