#!/bin/bash
# Runs a command while an EC2 instance runs, as the instance's own supervisor would: started when the instance is `running`, ended with
# SIGTERM when it no longer is, started again a second after any exit (a node that truncates after rejoining exits with code 0).
#
#     INSTANCE_NAME=esdb-1 follow-instance.sh COMMAND …
#
# INSTANCE_NAME is the tag `Name`; EC2 is at AWS_ENDPOINT_URL_EC2. What EC2 does not say changes nothing. moto's StopInstances ends in
# `stopped` at once, and a start may follow within a second: a type that changed between two looks is taken for a stop and a start. On AWS an
# instance is `stopping` until its processes are gone; here it may be `stopped` a moment before.
set -u
: "${INSTANCE_NAME:?expected the tag Name of an instance}" "${AWS_ENDPOINT_URL_EC2:?expected the URL of an EC2, such as http://moto:5000}"
: "${AWS_ACCESS_KEY_ID:?}" "${AWS_SECRET_ACCESS_KEY:?}" "${AWS_REGION:?}" "${1:?expected a command to run}"

child=
ended=0
trap 'ended=1' TERM INT

say() { echo "$INSTANCE_NAME: $*" >&2; }

# State and type of the instance, `running m6i.large`; nothing if EC2 does not say, or knows not exactly one.
look() {
    local answer
    answer=$(curl --silent --fail --max-time 2 --aws-sigv4 "aws:amz:$AWS_REGION:ec2" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
        --data-urlencode Action=DescribeInstances --data-urlencode Version=2016-11-15 \
        --data-urlencode Filter.1.Name=tag:Name --data-urlencode "Filter.1.Value.1=$INSTANCE_NAME" \
        "$AWS_ENDPOINT_URL_EC2" | tr -d '\n') || return
    [[ $answer =~ \<instanceType\>([a-z0-9.-]+)\</instanceType\> ]] || return
    local kind=${BASH_REMATCH[1]}
    [[ $answer =~ \<instanceState\>[[:space:]]*\<code\>[0-9]+\</code\>[[:space:]]*\<name\>([a-z-]+)\</name\> ]] || return
    local state=${BASH_REMATCH[1]}
    [[ ${answer#*<instanceState>} == *"<instanceState>"* ]] && return
    echo "$state $kind"
}

begin() {
    say "$1: starts ${*:2}"
    "${@:2}" &
    child=$!
}

# Ends the command and waits for it, for as long as it takes: the container's own grace period is the limit.
finish() {
    if [[ -z $child ]]; then return; fi
    say "$1: stops process $child"
    kill -TERM "$child" 2>/dev/null
    while kill -0 "$child" 2>/dev/null; do wait "$child"; done
    child=
}

seen=
again=0
while ((!ended)); do
    now=$(look)
    if [[ -n $now ]]; then
        if [[ -n $child && $now != "$seen" ]]; then
            finish "$seen -> $now"
            again=0
        fi
        seen=$now
    fi
    if [[ -n $child ]] && ! kill -0 "$child" 2>/dev/null; then
        wait "$child"
        say "$seen: process $child ended by itself with code $?"
        child=
        again=$((SECONDS + 1))
    fi
    if [[ -z $child && $seen == running\ * ]] && ((SECONDS >= again && !ended)); then
        begin "$seen" "$@"
    fi
    # In the background, so that a signal is obeyed at once.
    sleep 0.2 &
    wait $!
done
finish "this container ends"
