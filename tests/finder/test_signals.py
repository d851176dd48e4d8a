"""While a search is open signals wait; afterwards their handlers are back, and see what was there before."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest

from lrkit.finder.signals import Interrupted, signals_held

HELD = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test installs goes away again."""
    before = {signum: signal.getsignal(signum) for signum in HELD}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum: int) -> None:
    """As from outside: to the whole process."""
    os.kill(os.getpid(), signum)


class World:
    """A state that a search changes and restores, and a handler that writes down what it sees."""

    def __init__(self, *signums: int, error: BaseException | None = None) -> None:
        self.state, self.heard, self.error = "before", [], error
        for signum in signums:
            signal.signal(signum, self.handler)

    def handler(self, signum, frame):
        self.heard.append((signum, self.state))
        if self.error is not None:
            raise self.error

    def search(self, inside, restoring=lambda: None, unwinding=True):
        with signals_held() as signals:
            try:
                self.state = "candidate"
                if unwinding:
                    with signals.unwinding():
                        inside()
                else:
                    inside()
            finally:
                restoring()
                self.state = "before"


class TestAHandler:
    @pytest.mark.parametrize("signum", HELD)
    def test_hears_of_the_signal_when_everything_is_restored(self, signum):
        world, after = World(signum), []
        with pytest.raises(Interrupted, match=f"{signal.Signals(signum).name} came in the middle of a search"):
            world.search(lambda: (send(signum), after.append(1)))
        assert world.heard == [(signum, "before")] and after == []

    def test_that_raises_is_what_leaves(self):
        world = World(signal.SIGTERM, error=SystemExit(143))
        with pytest.raises(SystemExit, match="143") as left:
            world.search(lambda: send(signal.SIGTERM))
        assert isinstance(left.value.__context__, Interrupted)  # whose traceback says where the search was

    def test_that_only_takes_note_lets_go_on_who_catches_inside(self):
        world, answers = World(signal.SIGUSR1), []

        def patient():
            try:
                send(signal.SIGUSR1)
            except Interrupted:
                answers.append("so far")

        world.search(patient)
        assert answers == ["so far"] and world.heard == [(signal.SIGUSR1, "before")]

    def test_is_put_back_whatever_happens(self):
        world = World(*HELD)
        before = [signal.getsignal(signum) for signum in HELD]
        for inside, error in ((lambda: None, None), (lambda: 1 / 0, ZeroDivisionError), (lambda: send(HELD[1]), Interrupted)):
            with nullcontext() if error is None else pytest.raises(error):
                world.search(inside)
            assert all(signal.getsignal(signum) is handler for signum, handler in zip(HELD, before, strict=True))

    def test_that_is_installed_inside_stays(self):
        world, other = World(signal.SIGTERM), World()
        world.search(lambda: signal.signal(signal.SIGTERM, other.handler))
        send(signal.SIGTERM)
        assert other.heard and not world.heard

    def test_hears_at_once_from_one_that_was_installed_inside_and_calls_it(self):
        world = World(signal.SIGTERM)

        def chain():
            before = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *given: before(*given))

        world.search(chain)
        send(signal.SIGTERM)
        assert world.heard == [(signal.SIGTERM, "before")]


class TestSearchesWithinSearches:
    def test_unwind_from_the_inside_out(self):
        outer = World(signal.SIGTERM)
        inner = World()
        with pytest.raises(Interrupted):
            outer.search(lambda: inner.search(lambda: send(signal.SIGTERM)))
        assert outer.heard == [(signal.SIGTERM, "before")] and inner.state == "before"
        assert signal.getsignal(signal.SIGTERM) == outer.handler


class TestASecondSignal:
    def test_cannot_disturb_the_restoration(self):
        """Neither the same one, which is heard of once as usual, nor another; nor can a third."""
        world = World(signal.SIGINT, signal.SIGTERM)
        restored = []

        def restoring():
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                send(signum)
            restored.append(1)

        with pytest.raises(Interrupted, match="SIGTERM"):
            world.search(lambda: send(signal.SIGTERM), restoring)
        assert restored == [1] and world.heard == [(signal.SIGTERM, "before"), (signal.SIGINT, "before")]

    def test_is_heard_of_also_where_the_first_ones_handler_raises(self):
        world = World(signal.SIGINT, signal.SIGTERM, error=SystemExit())
        with pytest.raises(SystemExit):
            world.search(lambda: send(signal.SIGINT), lambda: send(signal.SIGTERM))
        assert [signum for signum, _ in world.heard] == [signal.SIGINT, signal.SIGTERM]

    def test_after_success_waits_for_the_restoration_all_the_same(self):
        world = World(signal.SIGTERM)
        world.search(lambda: None, lambda: send(signal.SIGTERM))
        assert world.heard == [(signal.SIGTERM, "before")]


class TestCtrlC:
    def test_is_a_keyboard_interrupt_after_the_restoration(self):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        world = World()
        with pytest.raises(KeyboardInterrupt):
            world.search(lambda: send(signal.SIGINT), lambda: send(signal.SIGINT))
        assert world.state == "before" and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class TestTheException:
    def test_is_not_swallowed_by_who_catches_every_exception(self):
        world = World(signal.SIGTERM)

        def careless():
            try:
                send(signal.SIGTERM)
            except Exception:
                pytest.fail("swallowed")

        with pytest.raises(Interrupted):
            world.search(careless)

    def test_comes_again_where_somebody_swallowed_it(self):
        world = World(signal.SIGTERM)
        with pytest.raises(Interrupted), signals_held() as signals, signals.unwinding():
            try:
                send(signal.SIGTERM)
            except BaseException:
                assert not world.heard
            signals.check()
        assert world.heard

    def test_comes_on_entering_for_a_signal_that_came_before(self):
        world = World(signal.SIGTERM)
        with pytest.raises(Interrupted), signals_held() as signals:
            send(signal.SIGTERM)
            assert not world.heard
            with signals.unwinding():
                pytest.fail("went on")
        assert world.heard

    def test_does_not_come_where_a_context_would_not_end(self):
        """Python would not go on with an `__exit__` at whose beginning a handler raises."""
        World(signal.SIGTERM)
        ended = []

        class Ending:
            def __enter__(self):
                pass

            def __exit__(self, *_):
                send(signal.SIGTERM)
                ended.append(1)

        with pytest.raises(Interrupted), signals_held() as signals, signals.unwinding():
            with Ending():
                pass
            assert ended == [1]
            signals.check()


class TestLeftAlone:
    def test_what_is_ignored_and_what_kills(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        seen = []
        World().search(lambda: (send(signal.SIGTERM), seen.extend(map(signal.getsignal, (signal.SIGTERM, signal.SIGUSR1)))))
        assert seen == [signal.SIG_IGN, signal.SIG_DFL]
        assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1)] == seen

    def test_every_handler_in_another_thread(self):
        world, seen = World(signal.SIGTERM), []
        thread = threading.Thread(target=world.search, args=(lambda: seen.append(signal.getsignal(signal.SIGTERM)),))
        thread.start()
        thread.join()
        assert seen == [world.handler]

    def test_children_which_tell_the_handler_at_once(self):
        """A loader's workers are forked while a search is open, and hear Ctrl-C as well as their parent."""
        code = """
import os, signal, sys
from lrkit.finder.signals import signals_held
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
with signals_held() as signals, signals.unwinding():
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os._exit(7)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert (done.stdout.strip(), done.stderr) == ("7", "")
