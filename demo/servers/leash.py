"""Becomes another program that dies with the demo: `leash.py PARENT SIGNAL UID GID PROGRAM ARGUMENT…`.

A file of its own, run with a bare interpreter, because the alternative, `preexec_fn`, runs Python between fork
and exec of a process with threads, which may deadlock. Account first, death signal second: the kernel forgets
the signal when the account changes. UID -1 keeps the account.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Changes account, ties this process to its parent's life, and turns into the program."""
    parent, death_signal, uid, gid = (int(a) for a in arguments[:4])
    program = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was set
            sys.exit(0)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
