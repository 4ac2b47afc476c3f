"""Turns itself into a child of the stack: drops privileges, ties its life to the supervisor's, and executes the command.

Run as a script by an isolated interpreter, never imported: that keeps `fork` free of Python code, which is unsafe in a
process with threads, and the setting survives `exec`. Arguments: the supervisor's pid, the signal to get when the
supervisor dies, the user to become ("" for none), "tty" to take the terminal ("" otherwise), and the command.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(user: str) -> None:
    """Give up root for good: groups first, because afterwards it is not allowed any more."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)


def die_with(supervisor: int, death_signal: int) -> None:
    """Ask the kernel for a signal at the supervisor's death (Linux; elsewhere the guard alone sees to it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != supervisor:  # It died before we asked.
        sys.exit(128 + death_signal)


def take_terminal() -> None:
    """Become the terminal's foreground job, so that Ctrl-C and a debugger's prompt reach this process alone."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z: no shell would know of it and wake this process.


def main() -> None:
    """Prepare this process and execute the command in it; 126 or 127 with a line on stderr if that fails."""
    supervisor, death_signal, user, terminal, *command = sys.argv[1:]
    if user:
        become(user)
    if terminal:
        take_terminal()
    die_with(int(supervisor), int(death_signal))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the whole point
    except FileNotFoundError:
        sys.stderr.write(f"{command[0]}: not found\n")
        sys.exit(127)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
