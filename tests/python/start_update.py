"""An official client in another language starts an update, or reads its whole history back.

    start_update.py URI start CLUSTER TYPE   appends UpdateRequested to a fresh stream, prints the update's id
    start_update.py URI history ID           prints the history, one event a line, as JSON
"""

import json
import sys
import uuid

from esdbclient import EventStoreDBClient, NewEvent, StreamState

uri, what = sys.argv[1], sys.argv[2]
client = EventStoreDBClient(uri=uri)
if what == "start":
    update = uuid.uuid4()
    request = {"cluster": sys.argv[3], "targetInstanceType": sys.argv[4], "by": "python"}
    client.append_to_stream(
        f"clusterUpdate-{update}",
        current_version=StreamState.NO_STREAM,
        events=[NewEvent(type="UpdateRequested", data=json.dumps(request).encode())],
    )
    print(update)
elif what == "history":
    for event in client.get_stream(f"clusterUpdate-{sys.argv[3]}"):
        print(json.dumps({"revision": event.stream_position, "type": event.type, "data": json.loads(event.data)}))
else:
    sys.exit(__doc__)
