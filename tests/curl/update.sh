#!/bin/sh
# Starts, pauses and audits an update with nothing but curl. NODE is the address of any node, such as http://127.0.10.1:2113
#
#   update.sh NODE start CLUSTER TYPE   appends UpdateRequested to a fresh stream, prints the update's id
#   update.sh NODE pause ID             appends PauseRequested
#   update.sh NODE history ID           prints the history in pages of up to 100 events, each page the newest first
#
# With users: set CURL_HOME to a directory with a .curlrc that says `user = "name:password"` and `cacert = "ca.pem"`.
set -eu
streams=$1/streams/clusterUpdate-

new_id() { if command -v uuidgen >/dev/null; then uuidgen | tr A-Z a-z; else cat /proc/sys/kernel/random/uuid; fi; }

append() { # ID TYPE EXPECTED-VERSION DATA
    curl -sS --fail-with-body "$streams$1" -H 'Content-Type: application/json' -H "ES-EventId: $(new_id)" \
        -H "ES-EventType: $2" -H "ES-ExpectedVersion: $3" -d "$4"
}

case $2 in
start)
    id=$(new_id)
    append "$id" UpdateRequested -1 "{\"cluster\": \"$3\", \"targetInstanceType\": \"$4\", \"by\": \"curl\"}" # -1: no stream yet
    echo "$id"
    ;;
pause) append "$3" PauseRequested -2 '{"by": "curl"}' ;; # -2: whatever stands there
history)
    from=0
    while true; do
        page=$(curl -sS --fail-with-body "$streams$3/$from/forward/100?embed=body" -H 'Accept: application/vnd.eventstore.atom+json')
        case $page in *'"eventNumber"'*) echo "$page" ;; *) break ;; esac
        from=$((from + 100))
    done
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
