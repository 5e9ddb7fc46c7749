//! The stored events as JSON Schema and as the tables of `docs/events.md`: both are made from the types, and this holds them to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::update::event::{AdmissionEvent, Event, Kind};

const REFRESH: &str = "ESDB_ROLLOUT_REFRESH_DOCS=1 cargo test --lib codec::schema";
const SCHEMA: &str = "docs/events.schema.json";
const PAGE: &str = "docs/events.md";
/// The page's line below which it is generated.
const BELOW: &str = "<!-- below here: refreshed by src/codec/schema.rs -->\n";

type Definitions = BTreeMap<String, Value>;

/// The schemas of all types that are stored, by name.
fn definitions() -> Definitions {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let events = generator.subschema_for::<Event>();
    let admissions = generator.subschema_for::<AdmissionEvent>();
    assert!(events.get("$ref").is_some() && admissions.get("$ref").is_some(), "both are definitions");
    generator.take_definitions(true).into_iter().collect()
}

fn schema(definitions: &Definitions) -> String {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Events of esdb-rollout",
        "description": "Type and data of a stored event. The data alone: #/$defs and its type.",
        "anyOf": [{ "$ref": "#/$defs/Event" }, { "$ref": "#/$defs/AdmissionEvent" }],
        "$defs": definitions,
    });
    serde_json::to_string_pretty(&whole).expect("JSON") + "\n"
}

/// The stored types of an enumeration of events, each with its sentence and the definition of its data.
fn stored_types(definition: &Value) -> Vec<(&str, &str, &str)> {
    let variants = definition["oneOf"].as_array().expect("variants").iter();
    let parts = variants.map(|variant| {
        let properties = &variant["properties"];
        (properties["type"]["const"].as_str(), sentence(variant), referred(&properties["data"]))
    });
    parts.map(|(name, sentence, data)| (name.expect("a type"), sentence, data.expect("a definition"))).collect()
}

/// The words of an enumeration, each with its sentence; nothing, if it is none.
fn words(definition: &Value) -> Vec<(&str, &str)> {
    let variants = definition["oneOf"].as_array().into_iter().flatten();
    variants.filter_map(|v| Some((v["const"].as_str()?, sentence(v)))).collect()
}

fn sentence(schema: &Value) -> &str {
    schema["description"].as_str().expect("everything that is stored is described")
}

/// The definition that a schema refers to.
fn referred(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/"))
}

/// A field's type in words; what may be `null` is told by the column beside it.
fn type_in_words(schema: &Value) -> String {
    if let Some(name) = referred(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(either) = schema["anyOf"].as_array() {
        let mut own = either.iter().filter(|s| s["type"] != "null");
        let (one, more) = (own.next().expect("a type"), own.next());
        assert!(more.is_none(), "a field of several types: {schema}");
        return type_in_words(one);
    }
    let name = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|n| *n != "null").expect("a type"),
        other => panic!("a field of no type: {other}"),
    };
    match (name, schema["format"].as_str()) {
        ("array", _) => format!("list of {}", type_in_words(&schema["items"])),
        ("string", Some(format)) => format!("text, {format}"),
        ("string", None) => "text".into(),
        ("integer", Some(format)) => format!("integer, {format}"),
        (plain, _) => plain.to_owned(),
    }
}

fn fields(definition: &Value) -> Option<&Map<String, Value>> {
    definition["properties"].as_object()
}

fn required(definition: &Value) -> BTreeSet<&str> {
    definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The sentence of a field, or that of the type of which it is.
fn meaning(schema: &Value) -> String {
    sentence(schema).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn table(page: &mut String, definition: &Value) {
    let Some(fields) = fields(definition) else {
        let words = words(definition);
        let heads = if words.is_empty() {
            format!("In JSON: {}.\n", type_in_words(definition))
        } else {
            let rows: String = words.iter().map(|(word, what)| format!("| `{word}` | {what} |\n")).collect();
            format!("| word | means |\n| --- | --- |\n{rows}")
        };
        page.push_str(&heads);
        return;
    };
    let required = required(definition);
    page.push_str("| field | type | must be there | what |\n| --- | --- | --- | --- |\n");
    let (first, then): (Vec<_>, Vec<_>) = fields.iter().partition(|(name, _)| required.contains(name.as_str()));
    for (name, schema) in first.into_iter().chain(then) {
        let must = if required.contains(name.as_str()) { "yes" } else { "" };
        writeln!(page, "| `{name}` | {} | {must} | {} |", type_in_words(schema), meaning(schema)).expect("text");
    }
}

/// What the page says below its mark.
fn tables(definitions: &Definitions) -> String {
    let mut page = String::new();
    let mut section = |title: &str, types: &[(&str, &str, &str)]| {
        write!(page, "\n## {title}\n").expect("text");
        for (name, sentence, data) in types {
            write!(page, "\n### {name}\n\n{sentence}\n\n").expect("text");
            table(&mut page, &definitions[*data]);
        }
    };
    let events = stored_types(&definitions["Event"]);
    let of_kind = |kind| events.iter().filter(|(n, ..)| Event::kind_of(n) == Some(kind)).copied().collect::<Vec<_>>();
    let admissions = stored_types(&definitions["AdmissionEvent"]);
    section("Commands", &of_kind(Kind::Command));
    section("Facts", &of_kind(Kind::Fact));
    section("Facts of a cluster's stream `updatedCluster-{cluster}`", &admissions);

    let told: BTreeSet<&str> = events.iter().chain(&admissions).map(|(name, ..)| *name).collect();
    let mut more = definitions.iter().filter(|(name, _)| !told.contains(name.as_str())).collect::<Vec<_>>();
    more.retain(|(name, _)| !["Event", "AdmissionEvent", "Admission"].contains(&name.as_str()));
    page.push_str("\n## Types of fields\n");
    for (name, definition) in more {
        write!(page, "\n### {name}\n\n{}\n\n", meaning(definition)).expect("text");
        table(&mut page, definition);
    }
    page
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file says what was made, or is made to.
fn current(file: &str, made: &str, kept: &str) {
    if std::env::var_os("ESDB_ROLLOUT_REFRESH_DOCS").is_some() {
        std::fs::write(root().join(file), made).expect("the file is written");
    } else {
        assert!(kept == made, "{file} is not what the types give; refresh it: {REFRESH}");
    }
}

#[test]
fn the_schema_and_the_page_are_what_the_types_give() {
    let definitions = definitions();
    let kept = std::fs::read_to_string(root().join(SCHEMA)).unwrap_or_default();
    current(SCHEMA, &schema(&definitions), &kept);
    let page = std::fs::read_to_string(root().join(PAGE)).expect("the page");
    let (by_hand, _) = page.split_once(BELOW).expect("the page's mark");
    current(PAGE, &format!("{by_hand}{BELOW}{}", tables(&definitions)), &page);
}

#[test]
fn every_type_has_its_schema() {
    let definitions = definitions();
    let types: Vec<&str> = stored_types(&definitions["Event"]).iter().map(|(name, ..)| *name).collect();
    assert_eq!(types, Event::TYPES);
}

/// What a schema says against a value: types, words, what must be there.
fn objections(definitions: &Definitions, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = referred(schema) {
        return objections(definitions, &definitions[name], value, at);
    }
    for one_of in ["anyOf", "oneOf"] {
        if let Some(either) = schema[one_of].as_array() {
            let all: Vec<_> = either.iter().map(|s| objections(definitions, s, value, at)).collect();
            return if all.iter().any(Vec::is_empty) { Vec::new() } else { all.concat() };
        }
    }
    if let Some(word) = schema.get("const") {
        return if word == value { Vec::new() } else { vec![format!("{at}: {value} is not {word}")] };
    }
    let named = |name: &Value| match (name.as_str(), value) {
        (Some("null"), Value::Null) | (Some("boolean"), Value::Bool(_)) | (Some("string"), Value::String(_)) => true,
        (Some("number"), Value::Number(_)) | (Some("array"), Value::Array(_)) | (Some("object"), Value::Object(_)) => {
            true
        }
        (Some("integer"), Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    };
    let fits = schema["type"].as_array().map_or_else(|| named(&schema["type"]), |names| names.iter().any(named));
    if !fits {
        return vec![format!("{at}: {value} is no {}", schema["type"])];
    }
    let mut found = Vec::new();
    if let Value::Array(items) = value {
        found.extend(items.iter().flat_map(|item| objections(definitions, &schema["items"], item, at)));
    }
    if let Value::Object(map) = value {
        let known = fields(schema).expect("an object has fields");
        found
            .extend(required(schema).iter().filter(|f| !map.contains_key(**f)).map(|f| format!("{at}.{f} is missing")));
        for (name, within) in map {
            match known.get(name) {
                Some(schema) => found.extend(objections(definitions, schema, within, &format!("{at}.{name}"))),
                None => found.push(format!("{at}.{name} is of no schema")),
            }
        }
    }
    found
}

#[test]
fn the_frozen_events_are_as_their_schemas_say() {
    let definitions = definitions();
    let events = stored_types(&definitions["Event"]).into_iter().chain(stored_types(&definitions["AdmissionEvent"]));
    for (name, _, data) in events {
        let file = |name: &str| std::fs::read_to_string(root().join(format!("tests/events/{name}.json"))).ok();
        let text = file(name).expect("a full file");
        let full: Value = serde_json::from_str(&text).expect("JSON");
        let minimal: Value =
            file(&format!("{name}.minimal")).map_or(full.clone(), |t| serde_json::from_str(&t).expect("JSON"));
        let schema = &definitions[data];
        for value in [&full, &minimal] {
            let found = objections(&definitions, schema, value, name);
            assert!(found.is_empty(), "{found:#?}");
        }
        // The full file has every field; and what the schema asks for cannot be left out.
        let fields: Vec<&String> = fields(schema).into_iter().flat_map(Map::keys).collect();
        for field in fields {
            let mut without = full.as_object().expect("an object").clone();
            assert!(without.remove(field).is_some(), "{name}.json has no {field}");
            let must = required(schema).contains(field.as_str());
            let reads = serde_json::from_value::<Event>(json!({ "type": name, "data": without }));
            let known = Event::TYPES.contains(&name);
            assert!(!known || reads.is_err() == must, "{name}.{field}: {reads:?}, and the schema says {must}");
        }
    }
}
