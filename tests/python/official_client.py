"""An official Python client, unchanged, against a cluster: official_client.py esdbclient|kurrentdbclient host:port[,host:port...]

The cluster loses its leader on the way.
"""

import importlib
import sys
import time
import urllib.request
import uuid

library = importlib.import_module(sys.argv[1])
exceptions = importlib.import_module(f"{sys.argv[1]}.exceptions")
NewEvent, StreamState = library.NewEvent, library.StreamState
if sys.argv[1] == "esdbclient":
    Client, Problem = library.EventStoreDBClient, exceptions.EventStoreDBClientException
    NotFound, WrongVersion, Deleted = exceptions.NotFound, exceptions.WrongCurrentVersion, exceptions.StreamIsDeleted
else:
    Client, Problem = library.KurrentDBClient, exceptions.KurrentDBClientError
    NotFound, WrongVersion = exceptions.NotFoundError, exceptions.WrongCurrentVersionError
    Deleted = exceptions.StreamIsDeletedError


def event(type_="noted", data=b'{"a": 1}'):
    return NewEvent(type=type_, data=data)


def refused(error, call, *args, **kwargs):
    """The call fails with this error and no other."""
    try:
        call(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"{call.__name__} {args} {kwargs} was not refused with {error.__name__}")


def leader_of(client):
    """Address of the leader, as the client's gossip tells."""
    leaders = [m for m in client.read_gossip() if m.state == "NODE_STATE_LEADER"]
    assert len(leaders) == 1, leaders
    return f"{leaders[0].address}:{leaders[0].port}"


def main(hosts):
    client = Client(uri=f"esdb://{hosts}?Tls=false")
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
        refused(WrongVersion, client.append_to_stream, stream, current_version=expected, events=[event()])
    exists = {"current_version": StreamState.EXISTS, "events": [event()]}
    refused(WrongVersion, client.append_to_stream, f"none-{run}", **exists)

    # Read: forwards, backwards, limited, missing.
    events = client.get_stream(stream)
    assert [e.stream_position for e in events] == [0, 1, 2, 3, 4], events
    assert events[0].id == first.id and events[0].data == first.data and events[3].type == "last"
    assert events[0].recorded_at is not None
    assert [e.stream_position for e in client.get_stream(stream, backwards=True, limit=2)] == [4, 3]
    assert client.get_current_version(stream) == 4
    refused(NotFound, client.get_stream, f"missing-{run}")

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
            if type(e).__name__ != "RecordedEvent":
                continue
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
    refused(WrongVersion, client.delete_stream, stream, current_version=0)
    client.delete_stream(stream, current_version=6)
    refused(NotFound, client.get_stream, stream)
    client.tombstone_stream(stream, current_version=StreamState.ANY)
    refused(Deleted, client.get_stream, stream)
    refused(Deleted, client.append_to_stream, stream, current_version=StreamState.ANY, events=[event()])

    # The leader resigns: the same append is tried until it is taken, once, and a subscription to the stream has it once.
    after = f"after-{run}"
    client.append_to_stream(after, current_version=StreamState.NO_STREAM, events=[event("before")])
    old = leader_of(client)
    for path in ("priority/-1", "resign"):
        with urllib.request.urlopen(urllib.request.Request(f"http://{old}/admin/node/{path}", method="POST")) as answer:
            assert answer.status == 200, answer
    end = time.monotonic() + 20
    second = event("second")
    while True:
        try:
            client.append_to_stream(after, current_version=0, events=[second])
            if leader_of(client) != old:
                break
        except Problem as problem:
            assert not isinstance(problem, WrongVersion), problem
            assert time.monotonic() < end, f"no append under a new leader: {problem!r}"
        except AssertionError:
            # Just after a change gossip may name two leaders, or none.
            assert time.monotonic() < end, "nobody leads"
        time.sleep(0.05)
    assert leader_of(client) != old
    client.append_to_stream(after, current_version=1, events=[event("third")])
    with client.subscribe_to_stream(after) as subscription:
        assert [next(subscription).type for _ in range(3)] == ["before", "second", "third"]
    with client.subscribe_to_all(filter_include=[f"{after}"], filter_by_stream_name=True) as subscription:
        assert [next(subscription).type for _ in range(3)] == ["before", "second", "third"]
    client.close()
    print("all well")


if __name__ == "__main__":
    main(sys.argv[2])
