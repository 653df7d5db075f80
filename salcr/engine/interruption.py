"""Ctrl-C and SIGTERM while a training runs: a place to stop at is waited for where one is near."""

import signal
import threading
from types import FrameType, TracebackType

from salcr import distributed

PACKAGE = __name__.split(".")[0]
STANDARD = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupted(KeyboardInterrupt):
    """A training was ended by a signal.

    Args:
        number: of the signal.
        text: from where the run goes on, and how.
    """

    def __init__(self, number: signal.Signals, text: str = "") -> None:
        super().__init__(f"ended by {number.name}: {text}" if text else f"ended by {number.name}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell calls a process that the signal ended, 130 or 143."""
        return 128 + self.number


class Signals:
    """Here SIGINT and SIGTERM raise :class:`Interrupted`: at once or, after :meth:`hold`, on :meth:`release`.

    After the first of them a second Ctrl-C ends the process there and then, and a second SIGTERM, which some schedulers
    send, does nothing. Of several processes, which get a signal once from a terminal and once from ``torchrun``, a
    second Ctrl-C does nothing either. Handlers that others than this package have installed stay; outside of the main
    thread, all.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._held = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number, standard in STANDARD.items():
                current = signal.getsignal(number)
                if current is standard or getattr(current, "__module__", "").split(".")[0] == PACKAGE:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """Until :meth:`release`, only note a signal in ``received``."""
        self._held = True

    def anywhere(self) -> bool:
        """Whether a signal has come to any process of the group; each of them has then ``received`` it."""
        number = distributed.largest(self.received or 0)
        if number:  # otherwise one may be coming right now
            self.received = signal.Signals(number)
        return number > 0

    def release(self) -> None:
        """Raise for a signal that came since :meth:`hold`, or before it and was lost on the way.

        Raises:
            Interrupted: one has come.
        """
        self._held = False
        if self.received is not None:
            raise Interrupted(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        for other in self._before:
            ends = other == signal.SIGINT and distributed.world() == 1
            signal.signal(other, signal.SIG_DFL if ends else signal.SIG_IGN)
        if not self._held:
            raise Interrupted(self.received)
