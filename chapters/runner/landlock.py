"""Linux's own refusal to write outside a folder, for what Python's audit hooks don't see.

torch.save opens files in C++. The system calls are those of <linux/landlock.h>; where the kernel
has none of them, nothing happens and the audit hooks stay alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

CREATE, ADD, RESTRICT = 444, 445, 446  # the same numbers on every architecture
BENEATH, VERSION, NO_NEW_PRIVILEGES = 1, 1, 38
WRITE_FILE = 1 << 1
# Removing and making whatever can be made, then moving (since 2) and shortening (since 3).
WRITES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
SINCE = {2: 1 << 13, 3: 1 << 14}


class _Rules(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def write_only_in(folder: str) -> bool:
    """From now on this process can write nowhere else; whether the system could promise that."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE, None, ctypes.c_size_t(0), VERSION)
    if version < 1:
        return False
    handled = WRITES | sum(bit for since, bit in SINCE.items() if version >= since)
    rules = _Rules(handled)
    ruleset = libc.syscall(CREATE, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if ruleset < 0:
        return False
    try:
        for path, allowed in ((folder, handled), (os.devnull, WRITE_FILE)):
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = _Beneath(allowed, parent)
            failed = libc.syscall(ADD, ruleset, BENEATH, ctypes.byref(rule), 0)
            os.close(parent)
            if failed:
                return False
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return bool(libc.syscall(RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)
