"""A job that prints, for the tests of `caliban logs` and `caliban stop`."""

from __future__ import annotations

# What is no UTF-8, has no end of line, and would steer a terminal.
BYTES = b"one\ntwo\xff\xfe\0\x1b[1m\r\nthree"

SOURCE = f'''
"""Does what its flags say, in their order."""

import signal
import sys
import time

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # for --pause, which it ends
out = sys.stdout.buffer
words = iter(sys.argv[1:])
for flag in words:
    value = next(words)
    if flag == "--bytes":
        out.write({BYTES!r})
    elif flag == "--lines":
        for number in range(int(value)):
            print("line", number, flush=True)
            time.sleep(0.25)
    elif flag == "--many":
        out.write(b"".join(b"line %d\\n" % number for number in range(int(value))))
    elif flag == "--sleep":
        time.sleep(float(value))
    elif flag == "--pause":
        signal.sigwait([signal.SIGUSR1])
    elif flag == "--farewell":
        signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(0)))
    elif flag == "--deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif flag == "--exit":
        sys.exit(int(value))
    out.flush()
'''
