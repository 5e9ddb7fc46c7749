"""An official client in another language starts an update, pauses it, or reads its whole history back.

    start_update.py URI start CLUSTER TYPE   appends UpdateRequested to a fresh stream, prints the update's id
    start_update.py URI pause ID             appends PauseRequested
    start_update.py URI history ID           prints the history, one event a line, as JSON
"""

import json
import sys
import uuid

try:
    from kurrentdbclient import KurrentDBClient as Client, NewEvent, StreamState
except ImportError:  # the same client by its older name
    from esdbclient import EventStoreDBClient as Client, NewEvent, StreamState


def event(type_, data):
    return NewEvent(type=type_, data=json.dumps(data).encode())


uri, what = sys.argv[1], sys.argv[2]
# Closed before Python ends: a client that is closed by the end of the interpreter now and then waits for ever.
with Client(uri=uri) as client:
    if what == "start":
        update = uuid.uuid4()
        request = event("UpdateRequested", {"cluster": sys.argv[3], "targetInstanceType": sys.argv[4], "by": "python"})
        client.append_to_stream(f"clusterUpdate-{update}", current_version=StreamState.NO_STREAM, events=[request])
        print(update)
    elif what == "pause":
        pause = event("PauseRequested", {"by": "python", "why": "a look first"})
        client.append_to_stream(f"clusterUpdate-{sys.argv[3]}", current_version=StreamState.EXISTS, events=[pause])
    elif what == "history":
        for recorded in client.get_stream(f"clusterUpdate-{sys.argv[3]}"):
            data = json.loads(recorded.data)
            print(json.dumps({"revision": recorded.stream_position, "type": recorded.type, "data": data}))
    else:
        sys.exit(__doc__)
