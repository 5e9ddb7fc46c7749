"""Checks that the Python client works against a cluster. Usage: esdbclient_smoke.py host:port[,host:port...]"""

import sys
import uuid

from esdbclient import EventStoreDBClient, NewEvent, StreamState
from esdbclient.exceptions import NotFound, WrongCurrentVersion


def event(type_="noted", data=b'{"a": 1}'):
    return NewEvent(type=type_, data=data)


def main(hosts):
    client = EventStoreDBClient(uri=f"esdb://{hosts}?Tls=false")
    run = uuid.uuid4().hex[:8]
    stream = f"python-{run}"

    # Append: no stream, exact, any, several; the same append again; a conflict.
    first = event()
    at = client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=[first])
    assert client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=[first]) == at
    client.append_to_stream(stream, current_version=0, events=[event(), event()])
    client.append_to_stream(stream, current_version=StreamState.ANY, events=[event("last")])
    client.append_to_stream(stream, current_version=StreamState.EXISTS, events=[event("binary", b"\x00\xff")])
    for expected in (StreamState.NO_STREAM, 0, 99):
        try:
            client.append_to_stream(stream, current_version=expected, events=[event()])
        except WrongCurrentVersion:
            pass
        else:
            raise AssertionError(f"{expected} was accepted")

    # Read: forwards, backwards, limited, missing.
    events = client.get_stream(stream)
    assert [e.stream_position for e in events] == [0, 1, 2, 3, 4], events
    assert events[0].id == first.id and events[0].data == first.data and events[3].type == "last"
    assert events[0].recorded_at is not None
    assert [e.stream_position for e in client.get_stream(stream, backwards=True, limit=2)] == [4, 3]
    assert client.get_current_version(stream) == 4
    try:
        client.get_stream(f"missing-{run}")
    except NotFound:
        pass
    else:
        raise AssertionError("a missing stream was found")

    # All, with and without a filter, both ways.
    mine = [e for e in client.read_all() if e.stream_name == stream]
    assert len(mine) == 5, mine
    filtered = list(client.read_all(filter_include=[f"{stream}.*"], filter_by_stream_name=True))
    assert [e.stream_position for e in filtered] == [0, 1, 2, 3, 4], filtered
    assert next(iter(client.read_all(backwards=True, limit=1))).stream_position == 4

    # Subscriptions: to all with a filter and checkpoints, to the stream, live.
    with client.subscribe_to_all(filter_include=[r"last"], include_caught_up=True) as subscription:
        assert next(subscription).type == "last"
    with client.subscribe_to_all(
        filter_include=[f"{stream}.*"], filter_by_stream_name=True, include_checkpoints=True, window_size=2
    ) as subscription:
        seen = []
        for e in subscription:
            if type(e).__name__ == "RecordedEvent":
                seen.append(e.stream_position)
            if len(seen) == 5:
                client.append_to_stream(stream, current_version=4, events=[event("live")])
            if len(seen) == 6:
                break
        assert seen == [0, 1, 2, 3, 4, 5], seen
    with client.subscribe_to_stream(stream, stream_position=3) as subscription:
        assert next(subscription).stream_position == 4
    with client.subscribe_to_all(commit_position=client.get_commit_position()) as subscription:
        client.append_to_stream(stream, current_version=5, events=[event("newest")])
        assert next(subscription).type == "newest"

    # Metadata, deletion, tombstone.
    metadata, version = client.get_stream_metadata(stream)
    assert (metadata, version) == ({}, StreamState.NO_STREAM), (metadata, version)
    client.set_stream_metadata(stream, metadata={"$maxCount": 2, "who": "me"}, current_version=version)
    metadata, version = client.get_stream_metadata(stream)
    assert metadata == {"$maxCount": 2, "who": "me"} and version == 0, (metadata, version)
    assert [e.stream_position for e in client.get_stream(stream)] == [5, 6]
    try:
        client.delete_stream(stream, current_version=0)
    except WrongCurrentVersion:
        pass
    else:
        raise AssertionError("a wrong version was deleted")
    client.delete_stream(stream, current_version=6)
    try:
        client.get_stream(stream)
    except NotFound:
        pass
    else:
        raise AssertionError("a deleted stream was found")
    client.tombstone_stream(stream, current_version=StreamState.ANY)

    # Gossip as the client sees it.
    members = client.read_gossip()
    assert sum(m.state == "NODE_STATE_LEADER" for m in members) == 1, members
    client.close()
    print("all well")


if __name__ == "__main__":
    main(sys.argv[1])
