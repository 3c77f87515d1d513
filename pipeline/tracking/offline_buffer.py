"""Records that wait while their store does not answer: no training is lost for want of a place to note it."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.text import count_words
from pipeline.tracking.tensorboard import EventLog
from pipeline.tracking.tracker import Tracker
from pipeline.training.history import EpochResult

logger = logging.getLogger(__name__)
# At the end: a store that refuses more records than these one after the other is not there.
MAX_REFUSED = 3


class GuardedTracker(Tracker):
    """Hands records on to a store, in order; what the store does not take waits for the next epoch or the end.

    Args:
        connect: reaches the store and gives the tracker of the run.
        place: of the store, for messages.
        kept_in: the folder whose files hold the same records.
        events: TensorBoard's files, or None.
    """

    def __init__(
        self, connect: Callable[[], Tracker], place: str, kept_in: Path, events: EventLog | None = None
    ) -> None:
        super().__init__(events=events)
        self.connect = connect
        self.place = place
        self.kept_in = kept_in
        self.inner: Tracker | None = None
        self.waiting: deque[Callable[[Tracker], None]] = deque()
        self.is_away = False
        self.has_warned = False

    def deliver(self, is_last: bool = False) -> None:
        """Send what waits, in order, up to the first record that is not taken.

        Args:
            is_last: try the others too: one record may never be taken, and a run has to be closed.

        Raises:
            UserError: the store answers, and says what a user has to mend.
        """
        self.is_away = False
        refused: deque[Callable[[Tracker], None]] = deque()
        while self.inner is None or self.waiting:
            try:
                if self.inner is None:
                    self.inner = self.connect()
                    self.run_id = self.inner.run_id
                    continue
                self.waiting[0](self.inner)
                self.waiting.popleft()
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001 (a store raises what its own back end raises)
                self._warn(error)
                self.is_away = True
                if self.inner is None or not is_last or len(refused) == MAX_REFUSED:
                    break
                refused.append(self.waiting.popleft())
        self.waiting.extendleft(reversed(refused))

    def _warn(self, error: Exception) -> None:
        """Say once that, and why, records are not taken."""
        if not self.has_warned:
            first_line = str(error).strip().partition("\n")[0]
            logger.warning(
                "warning: tracking: %s does not take records (%s). The work goes on, and they are sent later.",
                self.place,
                first_line,
            )
        self.has_warned = True

    def _send(self, record: Callable[[Tracker], None]) -> None:
        self.waiting.append(record)
        if not self.is_away:
            self.deliver()

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self._send(lambda tracker: tracker.log_settings(settings))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._send(lambda tracker: tracker.set_tags(tags))

    def log_text(self, text: str, name: str) -> None:
        self._send(lambda tracker: tracker.log_text(text, name))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        self._send(lambda tracker: tracker.log_file(path, folder))

    def log_dataset(self, name: str, fingerprint: str, source: str, role: str) -> None:
        self._send(lambda tracker: tracker.log_dataset(name, fingerprint, source, role))

    def watch_system(self) -> None:
        self._send(lambda tracker: tracker.watch_system())

    def log_history(self, history: Sequence[EpochResult]) -> None:
        super().log_history(history)
        results = tuple(history)
        self.is_away = False  # an epoch has passed: ask again
        self._send(lambda tracker: tracker.log_history(results))

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        super().log_metrics(metrics, step)
        self._send(lambda tracker: tracker.log_metrics(metrics, step))

    def log_model(self, checkpoint_path: Path, tags: Mapping[str, str], registered_name: str = "") -> None:
        self._send(lambda tracker: tracker.log_model(checkpoint_path, tags, registered_name))

    def finish(self, status: str = "FINISHED") -> None:
        super().finish(status)
        self.waiting.append(lambda tracker: tracker.finish(status))
        self.deliver(is_last=True)
        if self.waiting:
            logger.warning(
                "warning: tracking: %s did not reach %s. What they say is kept in %s.",
                count_words(len(self.waiting), "record"),
                self.place,
                self.kept_in,
            )
