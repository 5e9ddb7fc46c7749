// cluster-updates: of each cluster the active update and the result of the last one; and one stream a cluster, `clusterUpdates-{cluster}`,
// with links to every request, and to the acceptance and the end of those that were accepted.
//
// Reads `$ce-clusterUpdate`, so the system projection `$by_category` must run, and needs the right to emit. One state for all clusters:
// an end does not name its cluster, so the update must be found among the active ones.
//
// `odd` counts what it did not take: a request without a name that can be a stream's, clusters beyond the most that are kept, a second
// acceptance while an update of the cluster is active (the first stays: admission allows one), and data that is no JSON object.
//
// ES5. It never touches `body`, which throws where data is no JSON object.
(function () {
    "use strict";

    // The server faults a projection whose state is longer than 16 MiB: all that a state holds is bounded.
    var CLUSTERS_MOST = 500, NAMES_MOST = 20, NAME_LONGEST = 200;

    function has(object, key) { return Object.prototype.hasOwnProperty.call(object, key); }

    function odd(s, e, what) {
        var count = s.odd ? s.odd.count + 1 : 1;
        s.odd = { count: count, stream: cut(e.streamId), revision: e.sequenceNumber, what: what };
        return s;
    }

    function object(raw) {
        if (typeof raw !== "string") { return null; }
        try {
            var value = JSON.parse(raw);
            return typeof value === "object" && value !== null && !Array.isArray(value) ? value : null;
        } catch (e) {
            return null;
        }
    }

    // A name that can be part of a stream's name, and a key here.
    function nameOf(body) {
        var name = body && has(body, "cluster") ? body.cluster : null;
        return typeof name === "string" && /^[^\u0000-\u001f\u007f]{1,200}$/.test(name) && name.trim() !== "" && name !== "__proto__" ? name : null;
    }

    function isText(value) { return typeof value === "string"; }

    function cut(name) { return name.slice(0, NAME_LONGEST); }

    function idOf(e) { return e.streamId.slice("clusterUpdate-".length); }

    function isId(text) { return /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text); }

    function at(e) {
        var metadata = object(e.metadataRaw);
        return metadata && typeof metadata.at === "string" ? metadata.at.slice(0, 40) : null;
    }

    function cluster(s, name) {
        if (!has(s.clusters, name)) {
            if (Object.keys(s.clusters).length >= CLUSTERS_MOST) { return null; }
            s.clusters[name] = { requested: 0, active: null, last: null };
        }
        return s.clusters[name];
    }

    function requested(s, e) {
        if (e.sequenceNumber !== 0) { return odd(s, e, "a request that begins no stream"); }
        var name = nameOf(object(e.bodyRaw)), found = name === null ? null : cluster(s, name);
        if (!found) { return odd(s, e, name === null ? "a request without the name of a cluster" : "more clusters than are kept"); }
        found.requested += 1;
        linkTo("clusterUpdates-" + name, e);
        return s;
    }

    function accepted(s, e) {
        var body = object(e.bodyRaw), name = nameOf(body && has(body, "request") ? object(JSON.stringify(body.request)) : null);
        var found = name === null ? null : cluster(s, name);
        if (!found) { return odd(s, e, name === null ? "an acceptance without the name of a cluster" : "more clusters than are kept"); }
        if (!isId(idOf(e))) { return odd(s, e, "an acceptance in a stream that is no update's"); }
        if (found.active) { return odd(s, e, "an acceptance while another update is active"); }
        found.active = { update: idOf(e), since: at(e) };
        linkTo("clusterUpdates-" + name, e);
        return s;
    }

    function ended(result) {
        return function (s, e) {
            var id = idOf(e), names = Object.keys(s.clusters);
            for (var i = 0; i < names.length; i += 1) {
                var found = s.clusters[names[i]];
                if (found.active && found.active.update === id) {
                    var body = object(e.bodyRaw) || {};
                    found.active = null;
                    found.last = {
                        update: id, result: result, at: at(e), seconds: typeof body.seconds === "number" ? body.seconds : null,
                        code: typeof body.code === "string" ? body.code.slice(0, 100) : null,
                        notRunning: Array.isArray(body.notRunning) ? body.notRunning.slice(0, NAMES_MOST).filter(isText).map(cut) : []
                    };
                    linkTo("clusterUpdates-" + names[i], e);
                    return s;
                }
            }
            return odd(s, e, "an end of an update that is not active");
        };
    }

    fromCategory("clusterUpdate").when({
        $init: function () { return { format: 1, clusters: {}, odd: null }; },
        UpdateRequested: requested,
        UpdateAccepted: accepted,
        UpdateCompleted: ended("completed"),
        UpdateFailed: ended("failed"),
        UpdateCancelled: ended("cancelled"),
        UpdateSuperseded: ended("cancelled")
    });
}());
