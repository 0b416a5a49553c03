"""An app that knows nothing of the sidecar: it asks where OPENAI_BASE_URL says, twice a second, every other time for a
stream, and tells what it got. Stands for yours; it needs nothing but Python."""

import itertools
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

PAUSE_S = 0.5
TIMEOUT_S = 30.0


def ask(number: int) -> str:
    """One call: its status and how much came back, or what went wrong."""
    body = {
        "model": "gpt-4o",
        "stream": number % 2 == 0,
        "messages": [{"role": "user", "content": f"Where is order {number}?"}],
    }
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return f"{answer.status} {len(answer.read())} bytes"
    except urllib.error.HTTPError as error:
        return f"{error.code}"
    except OSError as error:
        return f"no answer: {error}"


# The first process of a container has no default for SIGTERM: without this it would end by SIGKILL only.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for number in itertools.count(1):
    print(f"call {number}: {ask(number)}")
    time.sleep(PAUSE_S)
