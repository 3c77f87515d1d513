"""The progress of training on the console."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.core.console import Work, log_lines
from pipeline.training.history import EpochResult
from pipeline.training.loop.monitor import StepResult


def describe_epoch(result: EpochResult, num_epochs: int, is_best: bool) -> str:
    """Describe one epoch in a line.

    Args:
        result: The result of the epoch.
        num_epochs: The number of epochs of the whole training.
        is_best: Whether no epoch before was better.
    """
    return (
        f"epoch {result.epoch:>{len(str(num_epochs))}}/{num_epochs}  "
        f"train loss {result.train_loss:.4f} accuracy {result.train_accuracy:.4f}  "
        f"val loss {result.val_loss:.4f} accuracy {result.val_accuracy:.4f}  "
        f"rate {result.learning_rate:.2e}  {result.images_per_second:,.0f} images/s  {result.seconds:.1f} s"
        f"{'  best' if is_best else ''}"
    )


class TrainingDisplay:
    """A bar over all epochs on a terminal, and a line an epoch everywhere.

    Args:
        console: The console to print on.
        num_epochs: The number of epochs of the whole training.
        epochs_done: The number of epochs done before this start.
    """

    def __init__(self, console: Console, num_epochs: int, epochs_done: int) -> None:
        self.console = console
        self.num_epochs = num_epochs
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("training", total=num_epochs, completed=epochs_done, facts="")
        self.work = Work("training", num_epochs, epochs_done)
        self.work.detail = f"epoch {min(epochs_done + 1, num_epochs)} of {num_epochs}"
        self.lines = log_lines(self.work.describe, console)

    def __enter__(self) -> "TrainingDisplay":
        self.has_spoken = self.lines.__enter__()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.lines.__exit__(None, None, None)

    def show_step(self, result: StepResult) -> None:
        """Move the bar inside an epoch."""
        facts = f"loss {result.loss:.4f}  accuracy {result.accuracy:.4f}  {result.images_per_second:,.0f} images/s"
        done = result.epoch - 1 + result.step / result.num_steps
        description = f"epoch {result.epoch}/{self.num_epochs}"
        self.bar.update(self.task, completed=done, description=description, facts=facts)

    def show_wait(self, text: str) -> None:
        """Name what training waits for, until the next epoch."""
        self.work.detail = text
        self.bar.update(self.task, description=text)

    def show_epoch(self, result: EpochResult, is_best: bool) -> None:
        """Print an epoch's line above the bar."""
        self.bar.update(self.task, completed=result.epoch)
        self.work.done, self.work.detail = result.epoch, f"epoch {result.epoch + 1} of {self.num_epochs}"
        self.console.print(describe_epoch(result, self.num_epochs, is_best), highlight=False, soft_wrap=True)
        self.has_spoken()
