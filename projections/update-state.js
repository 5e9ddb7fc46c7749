// update-state: where each update is, one state a stream `clusterUpdate-{uuid}` (the partition's name is the stream's).
//
// Reads the category's stream `$ce-clusterUpdate`, so the system projection `$by_category` must run. `fromAll()` would do without it, and
// read the whole log of the store from its beginning, once at its start and again after every reset: too dear where the store is a
// production cluster.
//
// For people: `status`, `inHand` with its `phase`, `counts`, `waiting`. For `esdb-rollout list`: enough to say what the fold of the stream
// says. A copy of the rules of a fold can only ever be second: at whatever it does not know for sure (an unknown type, a fact out of order,
// a number in an odd form) it stops vouching for the stream, `odd` says so for good, and readers fold the stream themselves.
//
// ES5. It neither emits nor touches `body`, which throws where data is no JSON object.
(function () {
    "use strict";

    var FORMAT = 5;
    var LONGEST = 262144;
    // Of longer ones the reader may take less, or nothing.
    var COMMAND_MOST = 20000, SAID_MOST = 2000;
    var UNANSWERED_MOST = 200;
    // The server faults a projection, with all its streams, once a state is longer than 16 MiB. Beside what is counted, a state holds each of
    // a handful of last words once, none longer than LONGEST.
    var TAKEN_MOST = 2097152;

    var STEPS = ["selected", "lowering priority", "priority lowered", "resigning", "follows", "tagging", "tagged", "stopping",
        "stopped", "changing type", "type changed", "starting", "start failed", "booting", "rebooting", "catching up", "caught up",
        "restoring priority", "removing the tag"];
    var SELECTED = 0, LOWERING = 1, LOWERED = 2, RESIGNING = 3, FOLLOWS = 4, TAGGING = 5, TAGGED = 6, STOPPING = 7, STOPPED = 8,
        MODIFYING = 9, MODIFIED = 10, STARTING = 11, START_FAILED = 12, STARTED = 13, REBOOTING = 14, REJOINED = 15, CAUGHT_UP = 16,
        RESTORING = 17, UNTAGGING = 18;

    var TERMINATED = "instanceTerminated";

    function has(object, key) { return Object.prototype.hasOwnProperty.call(object, key); }

    // ---- Well-formed: at least as strict as the reader of the stream ----

    function str(v) { return typeof v === "string"; }
    function bool(v) { return typeof v === "boolean"; }
    function num(v) { return typeof v === "number" && isFinite(v); }
    function whole(from, to) {
        return function (v) { return num(v) && Math.floor(v) === v && v >= from && v <= to && !(v === 0 && 1 / v < 0); };
    }
    function one() {
        var words = Array.prototype.slice.call(arguments);
        return function (v) { return str(v) && words.indexOf(v) >= 0; };
    }
    function opt(check) { return function (v) { return v === undefined || v === null || check(v); }; }
    function def(check) { return function (v) { return v === undefined || check(v); }; }
    function list(check) {
        return function (v) {
            if (!Array.isArray(v)) { return false; }
            for (var i = 0; i < v.length; i += 1) { if (!check(v[i])) { return false; } }
            return true;
        };
    }
    function isObject(v) { return typeof v === "object" && v !== null && !Array.isArray(v); }
    function obj(fields) {
        return function (v) {
            if (!isObject(v)) { return false; }
            for (var name in fields) { if (!fields[name](has(v, name) ? v[name] : undefined)) { return false; } }
            return true;
        };
    }
    function uuid(v) { return str(v) && /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/.test(v); }
    function time(v) {
        var m = str(v) && /^((?:19|20)[0-9][0-9])-([01][0-9])-([0-3][0-9])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z$/.exec(v);
        if (!m) { return false; }
        var month = Number(m[2]), day = Number(m[3]), date = new Date(Date.UTC(Number(m[1]), month - 1, day));
        return date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
    }
    // A name is a key of objects here.
    function name(v) { return str(v) && v !== "__proto__"; }

    var i32 = whole(-2147483648, 2147483647), u32 = whole(0, 4294967295), i64 = whole(-9007199254740991, 9007199254740991),
        revision = whole(0, 9007199254740991);
    // A whole number written as 1.0 or 1e0 is none to the reader, and looks the same to us once it is parsed.
    var FRACTION = new RegExp('"(?:answers|attempt|commit|elections|epoch|leaderCommit|leaderWriter|minutes|nodeCommit|nodeWriter|original|' +
        'originalPriority|port|priority|revision|voters|writer)"\\s*:\\s*-?[0-9]+[.eE]');

    var role = one("Leader", "Follower", "ReadOnlyReplica"), gate = one("beforeLeader", "afterFirst", "eachNode", "dataUnknown");
    var reason = obj({ code: str, found: str, wanted: str, remedy: str });
    var evidence = def(list(obj({ what: str, by: str, ageSeconds: num })));
    var instanceState = one("pending", "running", "shutting-down", "terminated", "stopping", "stopped");
    var ec2 = obj({ state: instanceState, reason: opt(str), requestId: opt(str) });
    var process = one("Initializing", "DiscoverLeader", "Unknown", "PreReplica", "CatchingUp", "Clone", "Follower", "PreLeader", "Leader",
        "Manager", "ShuttingDown", "Shutdown", "ReadOnlyLeaderless", "PreReadOnlyReplica", "ReadOnlyReplica", "ResigningLeader");
    var seconds = obj({ prepare: num, stop: num, modify: num, start: num, rejoin: num, catchUp: num, total: num });
    var request = obj({
        cluster: str, strategy: def(one("Ec2InstanceTypeUpdate", "Ec2InstanceRestart")), targetInstanceType: opt(str),
        nodes: opt(list(str)), fallbackTypes: opt(list(str)), onFailure: opt(one("rollBackNode", "rollBackAll", "hold")),
        onSilentNode: opt(one("hold", "reboot")), nodeTimeoutSeconds: opt(num), planDigest: opt(str), gates: opt(list(gate)),
        notBefore: opt(time), window: opt(obj({ cron: str, minutes: u32, timeZone: str })), dwellSeconds: opt(num),
        acceptDowntime: opt(bool), replicasTogether: opt(bool), supersedes: opt(uuid),
        resumes: opt(list(obj({ node: str, done: def(bool), originalPriority: opt(i32), spentSeconds: opt(num) }))), by: opt(str), why: opt(str)
    });
    var plain = { by: opt(str), why: opt(str) };
    var answering = { answers: revision, check: opt(str), node: opt(str), until: opt(time), by: opt(str), why: opt(str) };

    function node(more) {
        var fields = { node: name, attempt: u32, observed: evidence };
        for (var key in more) { fields[key] = more[key]; }
        return obj(fields);
    }
    function end(more) {
        var fields = {
            seconds: num, elections: u32, notRunning: list(str),
            nodes: list(obj({ node: str, result: one("pending", "skipped", "updated", "rolledBack", "failed"), leftIn: opt(str) }))
        };
        for (var key in more) { fields[key] = more[key]; }
        return obj(fields);
    }

    var COMMANDS = {
        UpdateRequested: request, PauseRequested: obj(plain), ResumeRequested: obj(plain),
        CancelRequested: obj({ supersededBy: opt(uuid), by: opt(str), why: opt(str) }),
        RollbackRequested: obj(plain), RetryRequested: obj(answering), ApprovalGranted: obj(answering), CheckWaived: obj(answering)
    };
    var FACTS = {
        WorkerAssigned: obj({ worker: str, incarnation: uuid, reason: one("admitted", "silent", "handedOver") }),
        UpdateAccepted: obj({ request: request, clusterId: str }),
        UpdateRejected: obj({ reasons: list(reason) }),
        UpdatePlanned: obj({
            voters: u32, order: list(name), digest: str, checks: list(obj({
                code: str, found: str, outcome: opt(one("passed", "failed", "unknown")), severity: opt(one("refuse", "warn", "info")),
                node: opt(str), wanted: opt(str), remedy: opt(str), waivedBy: opt(str), why: opt(str), until: opt(time)
            })),
            members: list(obj({
                node: name, address: obj({ host: str, port: whole(0, 65535) }), role: role, instance: str, zone: opt(str), oldType: str,
                newType: str, priority: i32, version: opt(str), instanceState: opt(instanceState), staleFence: opt(str)
            }))
        }),
        CommandRefused: obj({ command: obj({ type: str, revision: revision }), reasons: list(reason) }),
        NodeSelected: node({ role: role, because: str }), NodeSkipped: node({ role: role, because: str }),
        PriorityLoweringRequested: node({ original: i32, priority: i32 }), PriorityLowered: node({ original: i32, priority: i32 }),
        ResignationRequested: node({ from: uuid, epoch: opt(i32) }), LeadershipTransferred: node({ newLeader: str, epoch: i32 }),
        InstanceStopRequested: node({
            instance: str, returnTypes: list(str), process: opt(uuid),
            baseline: opt(obj({ nodeWriter: i64, nodeCommit: i64, leaderWriter: i64, leaderCommit: i64 }))
        }),
        InstanceStopped: node({ instance: str, type: str, ec2: ec2 }), TypeModificationRequested: node({ instance: str, type: str }),
        TypeModified: node({ instance: str, type: str, ec2: ec2, returnTicket: def(bool) }),
        InstanceStartRequested: node({ instance: str, type: str }),
        InstanceStarted: node({ instance: str, type: str, ec2: ec2, returnTicket: def(bool) }),
        InstanceStartFailed: node({ instance: str, type: str, code: str, again: bool, ec2: ec2 }),
        InstanceRebootRequested: node({ instance: str, type: str }),
        InstanceRebooted: node({ instance: str, type: str, ec2: ec2, code: opt(str) }),
        TagRequested: node({ instance: str, type: str, value: str, remove: def(bool) }),
        Tagged: node({ instance: str, type: str, value: str, ec2: ec2 }),
        Untagged: node({ instance: str, type: str, value: str, ec2: ec2, code: opt(str) }),
        NodeRejoined: node({ instanceIdOfProcess: uuid, state: process, epoch: i32, writer: i64, commit: i64 }),
        CaughtUp: node({
            instanceIdOfProcess: uuid, state: process, epoch: i32, delaySeconds: num, indexDelaySeconds: num,
            samples: list(obj({ ageSeconds: num, delaySeconds: num, indexDelaySeconds: num, writer: i64 })),
            dataKept: obj({ kept: one("yes", "no", "unknown"), how: str })
        }),
        ForeignChangeSeen: node({ what: str, found: str, expected: str }),
        PriorityRestorationRequested: node({ priority: i32 }), PriorityRestored: node({ priority: i32, by: one("call", "restart") }),
        NodeUpdated: node({ type: str, seconds: seconds }), NodeRolledBack: node({ type: str, seconds: seconds, code: str, remedy: str }),
        NodeFailed: node({ code: str, remedy: str, leftIn: str }),
        StepDelayed: obj({
            node: opt(str), step: str, reason: str, detail: str, numbers: def(list(obj({ name: str, value: num })))
        }),
        ApprovalAwaited: obj({ gate: gate, node: opt(str), detail: str }), UpdatePaused: obj(plain), UpdateResumed: obj(plain),
        UpdateParked: obj({ code: str, found: str, remedy: str }), UpdateCompleted: end({}), UpdateFailed: end({ code: str, remedy: str }),
        UpdateCancelled: end({ by: opt(str), why: opt(str) }), UpdateSuperseded: end({ supersededBy: uuid })
    };

    // ---- Reading an event; what throws is odd ----

    function Odd(what) { this.what = what; }
    function odd(what) { throw new Odd(what); }

    function look(v, depth) {
        if (typeof v === "number" && !isFinite(v)) { odd("a number that is too large"); }
        if (typeof v !== "object" || v === null) { return; }
        if (depth > 60) { odd("data that is nested too deeply"); }
        for (var key in v) { look(v[key], depth + 1); }
    }

    function parsed(raw, what) {
        // Escaped letters hide names, and half a character and bytes that are no text are not ours to judge.
        if (raw.length > LONGEST) { odd(what + " that is too long"); }
        if (/\\u00[2-7]|\\u[dD][89a-fA-F]|\uFFFD/.test(raw)) { odd(what + " in unusual letters"); }
        var value;
        try { value = JSON.parse(raw); } catch (e) { odd(what + " that is no JSON"); }
        look(value, 0);
        return value;
    }

    function metadataOf(e) {
        var raw = e.metadataRaw;
        if (typeof raw !== "string" || raw === "") { return {}; }
        var value = parsed(raw, "metadata");
        return isObject(value) ? value : {};
    }

    function bodyOf(e, metadata) {
        var command = has(COMMANDS, e.eventType);
        var check = command ? COMMANDS[e.eventType] : has(FACTS, e.eventType) ? FACTS[e.eventType] : null;
        if (!check) { odd("an unknown type"); }
        if (e.isJson !== true || typeof e.bodyRaw !== "string") { odd("data that is not marked as JSON"); }
        if (FRACTION.test(e.bodyRaw)) { odd("a whole number with a fraction"); }
        var body = parsed(e.bodyRaw, "data");
        if (command && isObject(body)) {
            ["by", "why"].forEach(function (key) {
                if (!has(body, key) && str(metadata[key])) { body[key] = metadata[key]; }
                if (str(body[key]) && body[key].length > SAID_MOST) { odd("more words than are read"); }
            });
            if (e.bodyRaw.length > COMMAND_MOST) { odd("a command that may be too long to be obeyed"); }
        }
        if (!check(body)) { odd("data that is not as the contract has it"); }
        return body;
    }

    // What is read of a waiver.
    var WAIVER = ["answers", "check", "node", "until", "by", "why"];

    function only(names, body) {
        var found = {};
        names.forEach(function (key) { if (has(body, key)) { found[key] = body[key]; } });
        return found;
    }

    // ---- The fold ----

    function outOfService(step) { return step >= STOPPING && step < CAUGHT_UP; }

    function member(s, wanted) {
        var members = s.plan ? s.plan.members : [];
        for (var i = 0; i < members.length; i += 1) { if (members[i].node === wanted) { return members[i]; } }
        return null;
    }

    function legal(condition) { if (!condition) { odd("a fact out of order"); } }

    function remove(s, index) { legal(index >= 0); s.unanswered.splice(index, 1); }

    function indexOfCommand(s, key, value) {
        for (var i = 0; i < s.unanswered.length; i += 1) { if (s.unanswered[i][key] === value) { return i; } }
        return -1;
    }

    function answer(s, at) { remove(s, indexOfCommand(s, "revision", at)); }

    // What stays in the state until the end.
    function take(s, value) {
        s.taken += JSON.stringify(value).length;
        if (s.taken > TAKEN_MOST) { odd("more text than is kept"); }
        return value;
    }

    function settle(s, n, result, leftIn) { s.results[n] = { node: n, result: result, leftIn: take(s, leftIn) }; }

    function go(hand, step, intent, at) {
        if (hand.step !== step && !has(hand.marks, STEPS[step])) { hand.marks[STEPS[step]] = at; }
        hand.step = step;
        hand.intent = intent;
    }

    function fail(s, body) { if (!s.failure) { s.failure = { code: body.code, remedy: body.remedy, revision: s.revision }; } }

    function onFailure(s) { return s.request.onFailure || "rollBackNode"; }

    function rollsBack(s) {
        var byPolicy = s.failure && s.failure.code !== TERMINATED && onFailure(s) === "rollBackAll";
        return !s.cancelled && !s.rollbackFailed && (s.rollback || byPolicy);
    }

    function held(s) { return s.failure && onFailure(s) === "hold" && !s.cancelled && !s.rollback; }

    function resultOf(s, n) { return has(s.results, n) ? s.results[n].result : null; }

    function mayTake(s, n) {
        return !has(s.results, n) || (rollsBack(s) && resultOf(s, n) === "updated" && s.types[n] !== member(s, n).oldType);
    }

    function taken(s, body) {
        if (s.order.indexOf(body.node) < 0) { s.order.push(take(s, body.node)); }
        s.roles[body.node] = body.role;
    }

    function forget(s, chosen) {
        Object.keys(s.results).forEach(function (n) { if (chosen(n, s.results[n].result)) { delete s.results[n]; } });
    }

    function retry(s) {
        s.parked = null;
        if (held(s)) {
            s.failure = null;
            forget(s, function (n, result) { return result === "failed" || result === "rolledBack"; });
        }
        if (s.inHand) { s.inHand.rebooted = false; }
    }

    function mayRetry(s, answers) {
        return !s.cancelled && ((s.parked && s.parkedAt === answers) || (held(s) && s.failure.revision === answers));
    }

    function changedByOthers(s, body) {
        s.foreign = { node: body.node, what: body.what, found: body.found };
        s.foreignNodes[body.node] = true;
    }

    function acceptForeign(s) {
        var foreign = s.foreign;
        s.foreign = null;
        if (!foreign || rollsBack(s)) { return; }
        forget(s, function (n, result) { return result === "rolledBack" && has(s.foreignNodes, n); });
    }

    // The plan, or the rejection, answers the waivers that came before it. Which of them are such that it takes them, the reader knows.
    function waiversAnswered(s) {
        s.unanswered = s.unanswered.filter(function (u) {
            return !s.waivers.some(function (w) { return w.revision === u.revision; });
        });
    }

    function done(s, n, at) {
        if (has(s.spans, n) && s.spans[n].to === null) { s.spans[n].to = at; }
        s.inHand = null;
    }

    function command(s, type, body, at) {
        s.unanswered.push({ revision: s.revision, type: type });
        if (s.unanswered.length > UNANSWERED_MOST) { odd("more commands than are kept"); }
        if (type === "CancelRequested" && !s.cancelled) { s.cancelled = take(s, body); }
        if (type === "ApprovalGranted" && s.awaited && s.awaited.revision === body.answers) {
            s.granting.push(s.revision);
            s.awaited = null;
        }
        if (type === "CheckWaived" && !s.plan) { s.waivers.push(take(s, { revision: s.revision, data: only(WAIVER, body) })); }
        if (type === "RollbackRequested" && s.plan && !s.rollback && !s.cancelled) {
            s.rollback = take(s, body);
            // Going back waits at no gate of the way forwards.
            if (s.awaited && s.awaited.gate !== "dataUnknown") { s.awaited = null; }
        }
        if (type === "RetryRequested" && mayRetry(s, body.answers)) {
            s.granting.push(s.revision);
            retry(s);
        }
    }

    function finish(s, type, body, at) {
        legal(!s.inHand || (!outOfService(s.inHand.step) && !(s.inHand.intent && s.inHand.step >= STOPPING) && !s.inHand.fenced));
        Object.keys(s.spans).forEach(function (n) { if (s.spans[n].to === null) { s.spans[n].to = at; } });
        s.inHand = null;
        s.end = take(s, { type: type, data: body });
        s.unanswered = s.unanswered.filter(function (u) { return u.type !== "CancelRequested" && u.type !== "RollbackRequested"; });
    }

    var WHOLE = {
        WorkerAssigned: function (s, b) { s.worker = { worker: b.worker, incarnation: b.incarnation, reason: b.reason }; },
        UpdateAccepted: function (s, b, at) { legal(s.worker && !s.acceptedAt); s.acceptedAt = at; },
        UpdateRejected: function (s, b) { legal(!s.acceptedAt); waiversAnswered(s); s.end = { type: "UpdateRejected", data: b }; },
        UpdatePlanned: function (s, b) {
            legal(s.acceptedAt && !s.plan);
            waiversAnswered(s);
            s.plan = take(s, b);
            s.types = {};
            b.members.forEach(function (m) { s.types[m.node] = take(s, m.oldType); });
        },
        CommandRefused: function (s, b) { answer(s, b.command.revision); },
        NodeSelected: function (s, b, at) {
            legal(member(s, b.node) && !s.inHand && mayTake(s, b.node));
            taken(s, b);
            s.spans[b.node] = { from: at, to: null };
            s.inHand = { node: b.node, phase: "", step: SELECTED, intent: false, lowered: false, fenced: false, ledIn: null, returnTypes: [],
                rollingBack: has(s.results, b.node), rebooted: false, instance: member(s, b.node).instance, marks: { selected: at } };
        },
        NodeSkipped: function (s, b) {
            legal(!s.inHand && member(s, b.node) && mayTake(s, b.node));
            taken(s, b);
            settle(s, b.node, "skipped", null);
        },
        StepDelayed: function (s, b) { s.delayed = b; },
        ApprovalAwaited: function (s, b) { s.awaited = { gate: b.gate, node: b.node === undefined ? null : b.node, revision: s.revision }; },
        UpdatePaused: function (s, b) {
            var asked = indexOfCommand(s, "type", "PauseRequested");
            // Somebody else's change pauses without a command.
            if (asked >= 0) { remove(s, asked); } else { legal(s.foreign && !s.paused); }
            s.paused = b;
        },
        UpdateResumed: function (s) {
            if (s.granting.length > 0) { answer(s, s.granting.shift()); return; }
            remove(s, indexOfCommand(s, "type", "ResumeRequested"));
            s.paused = null;
            acceptForeign(s);
        },
        UpdateParked: function (s, b) { s.parked = b; s.parkedAt = s.revision; },
        UpdateCompleted: function (s, b, at) { finish(s, "UpdateCompleted", b, at); },
        UpdateFailed: function (s, b, at) { finish(s, "UpdateFailed", b, at); },
        UpdateCancelled: function (s, b, at) { finish(s, "UpdateCancelled", b, at); },
        UpdateSuperseded: function (s, b, at) { finish(s, "UpdateSuperseded", b, at); }
    };

    var NODE = {
        PriorityLoweringRequested: function (s, h, b, at) {
            legal(h.step < STOPPING); h.lowered = true; go(h, LOWERING, true, at);
        },
        PriorityLowered: function (s, h, b, at) { legal(h.step === LOWERING); go(h, LOWERED, false, at); },
        ResignationRequested: function (s, h, b, at) {
            legal(h.step < STOPPING);
            if (h.ledIn === null && num(b.epoch)) { h.ledIn = b.epoch; }
            go(h, RESIGNING, true, at);
        },
        LeadershipTransferred: function (s, h, b, at) {
            legal(h.step === RESIGNING);
            s.elections += Math.max(1, h.ledIn === null ? 1 : Math.min(2147483647, b.epoch - h.ledIn));
            go(h, FOLLOWS, false, at);
        },
        InstanceStopRequested: function (s, h, b, at) {
            legal(h.step <= STOPPING && b.instance === h.instance); h.returnTypes = b.returnTypes; go(h, STOPPING, true, at);
        },
        InstanceStopped: function (s, h, b, at) { legal(h.step === STOPPING); s.types[b.node] = take(s, b.type); go(h, STOPPED, false, at); },
        TypeModificationRequested: function (s, h, b, at) {
            legal(h.step >= STOPPED && h.step <= START_FAILED && h.returnTypes.indexOf(b.type) >= 0); go(h, MODIFYING, true, at);
        },
        TypeModified: function (s, h, b, at) {
            legal(h.step === MODIFYING || b.returnTicket); s.types[b.node] = take(s, b.type); go(h, MODIFIED, false, at);
        },
        InstanceStartRequested: function (s, h, b, at) { legal(h.step >= STOPPED && h.step <= START_FAILED); go(h, STARTING, true, at); },
        InstanceStarted: function (s, h, b, at) {
            legal(h.step === STARTING || b.returnTicket); s.types[b.node] = take(s, b.type); go(h, STARTED, false, at);
        },
        InstanceStartFailed: function (s, h, b, at) { legal(h.step === STARTING || h.step === MODIFYING); go(h, START_FAILED, false, at); },
        InstanceRebootRequested: function (s, h, b, at) {
            legal((h.step === STARTED || h.step === REJOINED) && !h.rebooted); h.rebooted = true; go(h, REBOOTING, true, at);
        },
        InstanceRebooted: function (s, h, b, at) { legal(h.step === REBOOTING); go(h, STARTED, false, at); },
        TagRequested: function (s, h, b, at) {
            legal(b.remove ? h.fenced && !outOfService(h.step) : h.step < STOPPING);
            legal(b.instance === h.instance);
            h.fenced = true;
            go(h, b.remove ? UNTAGGING : TAGGING, true, at);
        },
        Tagged: function (s, h, b, at) { legal(h.step === TAGGING && h.fenced); go(h, TAGGED, false, at); },
        Untagged: function (s, h, b, at) {
            legal(h.fenced && !outOfService(h.step)); h.fenced = false; go(h, has(h.marks, "caught up") ? CAUGHT_UP : SELECTED, false, at);
        },
        NodeRejoined: function (s, h, b, at) { legal(h.step === STARTED || h.step === REJOINED); go(h, REJOINED, false, at); },
        CaughtUp: function (s, h, b, at) { legal(h.step === REJOINED); go(h, CAUGHT_UP, false, at); },
        ForeignChangeSeen: function (s, h, b, at) {
            if (b.what === "instanceStopped" && (h.step === STARTED || h.step === REJOINED)) { go(h, STOPPED, false, at); }
            if (b.what === "stopNotDone" && (h.step === STOPPING || h.step === STARTED)) { go(h, SELECTED, false, at); }
            if (b.what === "fenceNotWritten" && h.step < STOPPING) { go(h, SELECTED, false, at); }
            if (b.what !== "stopNotDone" && b.what !== "fenceNotWritten") { changedByOthers(s, b); }
        },
        PriorityRestorationRequested: function (s, h, b, at) { legal(h.lowered && !outOfService(h.step)); go(h, RESTORING, true, at); },
        PriorityRestored: function (s, h, b, at) {
            legal(h.lowered); h.lowered = false;
            if (h.step === RESTORING) { go(h, SELECTED, false, at); }
        },
        NodeUpdated: function (s, h, b, at) {
            legal(h.step === CAUGHT_UP && !h.lowered && !h.fenced);
            s.types[b.node] = take(s, b.type);
            s.phases[b.node] = b.seconds;
            done(s, b.node, at);
            settle(s, b.node, "updated", null);
        },
        NodeRolledBack: function (s, h, b, at) {
            legal((h.step === CAUGHT_UP || h.step < STOPPING || h.step === RESTORING) && !h.lowered && !h.fenced);
            if (b.code === "foreignChange" && !s.foreign) { s.foreign = { node: b.node, what: "instanceType", found: b.type }; }
            if (["cancelled", "rolledBack", "foreignChange"].indexOf(b.code) < 0) { fail(s, b); }
            s.types[b.node] = take(s, b.type);
            s.phases[b.node] = b.seconds;
            done(s, b.node, at);
            settle(s, b.node, "rolledBack", "running as " + b.type);
        },
        NodeFailed: function (s, h, b, at) {
            legal(((!h.intent || h.step < STOPPING) && !h.fenced) || b.code === TERMINATED);
            s.rollbackFailed = s.rollbackFailed || h.rollingBack;
            fail(s, b);
            done(s, b.node, at);
            settle(s, b.node, "failed", b.leftIn);
        }
    };

    function evolve(s, e) {
        var metadata = metadataOf(e), body = bodyOf(e, metadata), type = e.eventType, at = time(metadata.at) ? metadata.at : null;
        if (s.revision === 0) {
            if (type !== "UpdateRequested") { odd("another event than a request first"); }
            s.request = take(s, body);
            s.requestedAt = at;
            return;
        }
        if (has(COMMANDS, type)) { command(s, type, body); return; }
        if (at === null) { odd("a fact without its time"); }
        if (s.end) { legal(type === "CommandRefused"); answer(s, body.command.revision); return; }
        if (["StepDelayed", "CommandRefused", "WorkerAssigned", "UpdateParked"].indexOf(type) < 0) { s.delayed = null; s.parked = null; }
        if (has(WHOLE, type)) { WHOLE[type](s, body, at); return; }
        if (type === "ForeignChangeSeen" && !s.inHand) {
            legal(member(s, body.node));
            if (body.what === "instanceType") { s.types[body.node] = take(s, body.found); }
            changedByOthers(s, body);
            return;
        }
        legal(s.inHand && s.inHand.node === body.node);
        NODE[type](s, s.inHand, body, at);
    }

    // ---- For people ----

    var ENDS = { UpdateCompleted: "completed", UpdateFailed: "failed", UpdateCancelled: "cancelled", UpdateSuperseded: "cancelled",
        UpdateRejected: "rejected" };

    // Whether a pause, or an approval, is what it stands at: between two nodes, or with a node in hand that is to be taken out of service.
    function heldUp(s) {
        var h = s.inHand;
        return s.plan && !s.cancelled && (!h || (h.step < STOPPING && (h.rollingBack || (!s.failure && !s.rollback))));
    }

    function waiting(s) {
        if (s.end) { return null; }
        if (s.parked) { return { code: s.parked.code, detail: s.parked.found }; }
        if (s.paused && heldUp(s)) { return { code: "paused", detail: s.paused.why || "" }; }
        if (s.awaited && heldUp(s)) { return { code: "approvalAwaited", detail: s.awaited.gate }; }
        if (s.delayed) { return { code: s.delayed.reason, detail: s.delayed.detail }; }
        if (!s.worker && s.request.supersedes) { return { code: "waitsForSuperseded", detail: "update " + s.request.supersedes + " must have ended first" }; }
        if (!s.worker) { return { code: "noWorker", detail: "no worker has taken it" }; }
        if (s.inHand) { return null; }
        if (s.cancelled) { return { code: "cancelling", detail: "it ends as soon as every node runs" }; }
        if (rollsBack(s)) { return { code: "rollingBack", detail: "the nodes done so far are brought back to their old types" }; }
        return null;
    }

    function describe(s) {
        s.status = s.end ? ENDS[s.end.type] : s.parked || s.awaited || (s.paused && s.foreign) ? "parked" : "running";
        if (s.inHand) { s.inHand.phase = STEPS[s.inHand.step]; }
        s.counts = { events: s.revision + 1, planned: s.plan ? s.plan.order.length : 0, skipped: 0, updated: 0, rolledBack: 0, failed: 0 };
        for (var n in s.results) { s.counts[s.results[n].result] += 1; }
        s.waiting = waiting(s);
    }

    fromCategory("clusterUpdate").foreachStream().when({
        $init: function () {
            return { format: FORMAT, revision: -1, status: "running", counts: { events: 0 }, waiting: null, requestedAt: null, request: null,
                worker: null, acceptedAt: null, plan: null, order: [], roles: {}, results: {}, phases: {}, types: {}, spans: {}, inHand: null,
                unanswered: [], granting: [], waivers: [], paused: null, cancelled: null, rollback: null, rollbackFailed: false,
                foreign: null, foreignNodes: {}, awaited: null, parked: null, parkedAt: null, delayed: null, failure: null, elections: 0, end: null, taken: 0, odd: null };
        },
        $any: function (s, e) {
            if (s.odd) {
                s.odd.count += 1;
                s.revision = e.sequenceNumber;
                return s;
            }
            try {
                if (e.sequenceNumber !== s.revision + 1) { odd("an event is missing before it"); }
                s.revision = e.sequenceNumber;
                evolve(s, e);
                describe(s);
                return s;
            } catch (problem) {
                return { format: FORMAT, revision: e.sequenceNumber, status: "odd", odd: { count: 1, revision: e.sequenceNumber,
                    type: String(e.eventType).slice(0, 100), what: problem instanceof Odd ? problem.what : String(problem).slice(0, 200) } };
            }
        }
    });
}());
