"""What reaches a whole group of processes ends none but by the decision of one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from restore.commands.outcome import reporting
from restore.utils import signals

CHILD = """
import signal, sys, time
from restore.utils import signals
signals.leave_to_parent()
print("ready", flush=True)
time.sleep(60)
"""
# Begins the child, sends its own group the signal that is named, and then ends the child.
PARENT = f"""
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
number = getattr(signal, sys.argv[1])
signal.signal(number, signal.SIG_IGN)
os.killpg(0, number) if number != signal.SIGTERM else subprocess.run(["kill", str(child.pid)])
time.sleep(0.3)
print(child.poll(), flush=True)
child.terminate()
print(child.wait(10), flush=True)
"""


def end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_a_process_that_is_left_to_its_parent_is_ended_by_that_alone(name: str):
    command = [sys.executable, "-c", PARENT, name]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert done.stdout.split() == ["None", "0"], done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_ends_as_by_ctrl_c(number: signal.Signals, capfd):
    before = signal.getsignal(number)
    cleaned = False
    with reporting("apply") as outcome:
        try:
            end_by(number)
        finally:
            if number is not signal.SIGINT:
                os.kill(os.getpid(), number)  # impatience does not disturb what is put in order
            cleaned = True
    assert cleaned
    assert outcome.code == signals.INTERRUPTED == 130
    assert "interrupted" in capfd.readouterr().err
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored():
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    asked = []
    try:
        with signals.interrupting(), signals.asking(lambda: asked.append(1)):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_at_once(capfd):
    asked = []
    with signals.asking(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(asked) == 2
        with pytest.raises(KeyboardInterrupt):
            end_by(signal.SIGINT)
    assert "stopping after this step" in capfd.readouterr().err


# In a process of its own, which has no children but this one: a test before may have left some.
FORWARDING = """
import os, signal, subprocess, sys
from restore.utils import signals
code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\\n"
code += "print(flush=True); time.sleep(60)"
with signals.forwarding() as asked:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(asked())
    os.kill(os.getpid(), signal.SIGHUP)
    print(child.wait(10), asked())
with signals.forwarding():
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except KeyboardInterrupt:  # there is no child that could save anything
        print("interrupted")
"""


def test_children_are_asked_in_its_place():
    done = subprocess.run([sys.executable, "-c", FORWARDING], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "130", "True", "interrupted"], done.stderr
