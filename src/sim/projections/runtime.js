// What the server puts around a projection's text: selectors while it loads, `emit`, `linkTo`, `log` afterwards.
(function (global) {
    "use strict";
    var CHAIN = {
        fromStream: ["when", "partitionBy", "outputState"],
        fromAll: ["when", "partitionBy", "outputState", "foreachStream"],
        fromStreams: ["when", "partitionBy", "outputState"],
        fromCategory: ["when", "partitionBy", "outputState", "foreachStream"],
        when: ["transformBy", "filterBy", "outputState", "outputTo", "$defines_state_transform"],
        foreachStream: ["when"],
        outputState: ["transformBy", "filterBy", "outputTo"],
        partitionBy: ["when"],
        transformBy: ["transformBy", "filterBy", "outputState", "outputTo"],
        filterBy: ["transformBy", "filterBy", "outputState", "outputTo"],
        outputTo: []
    };
    var OPTIONS = {
        $includelinks: "boolean", reorderevents: "boolean", processinglag: "number", resultstreamname: "string", bistate: "boolean"
    };
    var parse = JSON.parse, write = JSON.stringify;
    var chain = {}, handlers = Object.create(null), transforms = [], created = [], emitted = [];
    var init = null, any = null, partition = null;
    var definition = {
        all: false, category: null, streams: [], byStream: false, custom: false, everyEvent: true, types: [], reorder: false, lag: 0,
        links: false, resultStream: null, partitionResultPattern: null, outputs: false, deleted: false, biState: false, folds: false
    };

    function restrict(state) {
        Object.keys(chain).forEach(function (name) {
            if (CHAIN[state].indexOf(name) < 0) { delete chain[name]; }
        });
        CHAIN[state].forEach(function (name) { chain[name] = steps[name]; });
        return chain;
    }

    function text(value, what) {
        if (typeof value !== "string") { throw new Error(what); }
        return value;
    }

    function handle(name, handler) {
        if (name === "$init") { init = handler; }
        else if (name === "$initShared") { definition.biState = true; }
        else if (name === "$any") { any = handler; definition.everyEvent = true; }
        else if (name === "$created") { created.push(handler); }
        else if (name === "$deleted") { definition.deleted = true; }
        else {
            if (handlers[name]) { throw new Error("An item with the same key has already been added. Key: " + name); }
            definition.everyEvent = false;
            definition.types.push(name);
            handlers[name] = handler;
        }
    }

    function transform(kind) {
        return function (f) {
            if (typeof f !== "function") { throw new Error("expected function"); }
            definition.outputs = true;
            transforms.push([kind, f]);
            return restrict(kind);
        };
    }

    var steps = {
        when: function (given) {
            Object.keys(given || {}).forEach(function (name) {
                if (typeof given[name] === "function") { handle(name, given[name]); }
            });
            definition.folds = true;
            return restrict("when");
        },
        partitionBy: function (f) {
            if (typeof f !== "function") { throw new Error("partitionBy"); }
            definition.custom = true;
            partition = f;
            return restrict("partitionBy");
        },
        foreachStream: function () { definition.byStream = true; return restrict("foreachStream"); },
        outputState: function () { definition.outputs = true; return restrict("outputState"); },
        outputTo: function (stream, pattern) {
            definition.resultStream = text(stream, "expected string value (Parameter 'resultStream')");
            if (pattern !== undefined) {
                definition.partitionResultPattern = text(pattern, "expected string value (Parameter 'partitionResultStreamPattern')");
            }
            return restrict("outputTo");
        },
        $defines_state_transform: function () { definition.outputs = true; },
        transformBy: transform("transformBy"),
        filterBy: transform("filterBy")
    };

    function categories(names) {
        names.forEach(function (name) { definition.streams.push("$ce-" + text(name, "categories")); });
    }

    function fromCategory(first) {
        if (arguments.length === 0) { return chain; }
        if (arguments.length > 1) { categories(Array.prototype.slice.call(arguments)); }
        else if (Array.isArray(first)) { categories(first); }
        else { definition.category = text(first, "category"); }
        return restrict("fromCategory");
    }

    var selectors = {
        options: function (given) {
            Object.keys(given || {}).forEach(function (name) {
                var wanted = OPTIONS[name.toLowerCase()], value = given[name];
                if (wanted === undefined) { throw new Error("Unrecognized option: " + name); }
                if (typeof value !== wanted) { throw new Error("Invalid value"); }
                switch (name.toLowerCase()) {
                case "$includelinks": definition.links = value; break;
                case "reorderevents": definition.reorder = value; break;
                case "processinglag": definition.lag = Math.trunc(value); break;
                case "resultstreamname": definition.resultStream = value; break;
                default: definition.biState = value;
                }
            });
        },
        fromStream: function (name) { definition.streams.push(text(name, "stream")); return restrict("fromStream"); },
        fromStreams: function (names) {
            (Array.isArray(names) ? names : Array.prototype.slice.call(arguments)).forEach(function (name) {
                definition.streams.push(text(name, "streams"));
            });
            return restrict("fromStreams");
        },
        fromAll: function () { definition.all = true; return restrict("fromAll"); },
        fromCategory: fromCategory,
        fromCategories: fromCategory,
        on_event: function (name, f) {
            if (typeof f !== "function") { throw new Error("eventHandler"); }
            handle(text(name, "eventName"), f);
        },
        on_any: function (f) {
            if (typeof f !== "function") { throw new Error("eventHandler"); }
            handle("$any", f);
        }
    };

    function named(value, what) {
        if (value === null || value === undefined || (typeof value === "string" && value.trim() === "")) {
            throw new Error("Value cannot be null. (Parameter '" + what + "')");
        }
        if (typeof value !== "string") { throw new Error("string expected (Parameter '" + what + "')"); }
        return value;
    }

    function object(value, what) {
        if (value === null || value === undefined) { throw new Error("Value cannot be null. (Parameter '" + what + "')"); }
        if (typeof value !== "object" && typeof value !== "function") { throw new Error("object expected (Parameter '" + what + "')"); }
        return value;
    }

    var outputs = {
        emit: function (stream, type, body, metadata) {
            if (arguments.length < 3) { throw new Error("invalid number of parameters"); }
            emitted.push({
                stream: named(stream, "streamId"), type: named(type, "eventName"), isJson: true, data: write(object(body, "eventBody")),
                metadata: arguments.length > 3 ? object(metadata, "metadata") : {}
            });
        },
        linkTo: function (stream, event, metadata) {
            if (arguments.length !== 2 && arguments.length !== 3) { throw new Error("wrong number of parameters"); }
            named(stream, "streamId");
            object(event, "event");
            if (typeof event.sequenceNumber !== "number" || typeof event.streamId !== "string") {
                throw new Error("Invalid link to event " + event.sequenceNumber + "@" + event.streamId);
            }
            emitted.push({
                stream: stream, type: "$>", isJson: false, data: Math.trunc(event.sequenceNumber) + "@" + event.streamId,
                metadata: arguments.length > 2 ? object(metadata, "metaData") : {}
            });
        },
        linkStreamTo: function (stream, linked) {
            emitted.push({
                stream: named(stream, "streamId"), type: "$@", isJson: false, data: named(linked, "linkedStreamId"), metadata: {}
            });
        },
        copyTo: function () {}
    };

    // Parsed when asked for, and then a property of its own. What is no object cannot be cast, and throws.
    function lazily(raw, names) {
        return function () {
            if (raw === "bodyRaw" && !this.isJson) { return undefined; }
            if (this[raw] === undefined || this[raw] === null) { return undefined; }
            var value = parse(this[raw]);
            if (typeof value !== "object" || value === null) {
                throw new Error("Unable to cast a JSON " + (value === null ? "null" : typeof value) + " to an object");
            }
            for (var i = 0; i < names.length; i += 1) {
                Object.defineProperty(this, names[i], { value: value, enumerable: true, configurable: true });
            }
            return value;
        };
    }
    var envelope = {};
    [["body", "bodyRaw", ["body", "data"]], ["data", "bodyRaw", ["body", "data"]], ["metadata", "metadataRaw", ["metadata"]],
        ["linkMetadata", "linkMetadataRaw", ["linkMetadata"]]].forEach(function (p) {
        Object.defineProperty(envelope, p[0], { get: lazily(p[1], p[2]), configurable: true });
    });

    function wrapped(fields) {
        var event = Object.create(envelope);
        Object.keys(fields).forEach(function (name) {
            Object.defineProperty(event, name, { value: fields[name], enumerable: true });
        });
        return event;
    }

    function stored(state) {
        if (typeof state === "string") { return state; }
        return state === null || state === undefined ? null : write(state);
    }

    function loaded(state) { return state === null ? null : parse(state); }

    var host = {
        loaded: function () {
            Object.keys(selectors).forEach(function (name) { delete global[name]; });
            Object.keys(outputs).forEach(function (name) { global[name] = outputs[name]; });
            return write(definition);
        },
        initial: function () { return stored(init ? init() : {}); },
        partition: function (event) {
            var found = partition.call(undefined, wrapped(parse(event)));
            return typeof found === "string" || typeof found === "number" ? String(found) : null;
        },
        created: function (state, event) {
            emitted = [];
            created.forEach(function (f) { f(loaded(state), wrapped(parse(event))); });
            return write(emitted);
        },
        handle: function (state, event) {
            var e = wrapped(parse(event)), before = loaded(state), after;
            emitted = [];
            if (handlers[e.eventType]) { after = handlers[e.eventType](before, e); }
            else if (any) { after = any(before, e); }
            else { after = e.bodyRaw; }
            return write({ state: stored(after === undefined ? before : after), emitted: emitted });
        },
        result: function (state) {
            var value = loaded(state);
            for (var i = 0; i < transforms.length; i += 1) {
                if (transforms[i][0] === "transformBy") { value = transforms[i][1](value); }
                else if (transforms[i][1](value) !== true) { return null; }
                if (value === null || value === undefined) { return null; }
            }
            return stored(value);
        }
    };

    Object.keys(selectors).forEach(function (name) { global[name] = selectors[name]; });
    global.log = function () {};
    global.eval = undefined;
    Object.defineProperty(Function.prototype, "constructor", { value: undefined });
    global.Function = undefined;
    Object.defineProperty(global, "$host", { value: host });
})(globalThis);
