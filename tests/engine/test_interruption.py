"""What Ctrl-C and SIGTERM do; that an interrupted run goes on is in test_resume.py."""

import signal
import threading
from contextlib import suppress

import pytest

from salcr import cli
from salcr.engine import interruption
from salcr.engine.interruption import Interrupted, Signals

BOTH = pytest.mark.parametrize(("number", "exit_status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@BOTH
def test_a_signal_interrupts_at_once(number, exit_status):
    with pytest.raises(KeyboardInterrupt) as caught, Signals() as signals:
        signal.raise_signal(number)
    assert caught.type is Interrupted and caught.value.number == signals.received == number
    assert caught.value.exit_status == exit_status


@BOTH
def test_on_hold_it_is_noted_and_interrupts_later(number, exit_status):
    done = []
    with pytest.raises(Interrupted) as caught, Signals() as signals:
        signals.release()
        signals.hold()
        assert signals.received is None
        signal.raise_signal(number)
        done.append(signals.received)
        signals.release()
        done.append("more")
    assert done == [number] and caught.value.exit_status == exit_status


def test_one_that_was_lost_interrupts_at_the_next_release():
    """An exception in a destructor or in a callback of C code goes no further."""
    with pytest.raises(Interrupted), Signals() as signals:
        with suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signals.hold()
        signals.release()


@BOTH
def test_the_second_ctrl_c_ends_the_process_and_more_sigterms_do_nothing(number, exit_status):
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(number)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # the system's: no handler, no delay
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == number


@BOTH
def test_of_several_processes_one_that_a_terminal_and_torchrun_both_tell_ends_as_it_should(
    monkeypatch, number, exit_status
):
    monkeypatch.setattr(interruption.distributed, "world", lambda: 2)
    with Signals() as signals:
        signals.hold()
        signal.raise_signal(number)
        assert {signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_IGN}


def test_handlers_are_put_back_and_those_of_others_stay():
    def own(*_):
        received.append("own")

    received = []
    with Signals():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert received == ["own"] and signals.received is None
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_training_takes_over_from_the_command_line():
    def exits(*_):
        raise SystemExit

    exits.__module__ = cli.__name__
    signal.signal(signal.SIGTERM, exits)
    with pytest.raises(Interrupted), Signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is exits


def test_another_thread_can_train():
    entered = []

    def work():
        with Signals() as signals:
            signals.hold()
            signals.release()
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.SIG_DFL]


def test_one_that_comes_while_others_are_asked_is_not_lost(monkeypatch):
    """``anywhere`` of several processes takes a while."""

    def asked(number):
        signal.raise_signal(signal.SIGTERM)
        return number

    monkeypatch.setattr(interruption.distributed, "largest", asked)
    with pytest.raises(Interrupted), Signals() as signals:
        signals.hold()
        assert not signals.anywhere()
        assert signals.received == signal.SIGTERM
        signals.release()
