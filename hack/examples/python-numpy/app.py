"""Answers each line on stdin, a JSON list of numbers, with their mean and their norm."""
import json
import os
import random
import socket
import sys

import numpy

# numpy is there: from here on, whoever asks need not wait for it.
if notify := os.environ.get("NOTIFY_SOCKET"):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.sendto(b"READY=1", notify)

for number, line in enumerate(sys.stdin):
    if number == 0:
        # What was seeded while nobody knew for whom must not go on from there.
        random.seed()
        numpy.random.seed()
    values = numpy.array(json.loads(line), dtype=float)
    print(json.dumps({"mean": values.mean(), "norm": numpy.linalg.norm(values)}), flush=True)
