//! A projection over a log: from the events it reads to its states and to what it emits.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::script::{Definition, Script};
use super::{EMIT_REFUSED, Fault};
use crate::sim::model::Record;

/// Stored type of a link.
const LINK: &str = "$>";

/// The category of a stream: what stands before its first dash. System streams have none.
pub fn category_of(stream: &str) -> Option<&str> {
    let (category, _) = stream.split_once('-')?;
    (!category.is_empty() && !stream.starts_with('$')).then_some(category)
}

/// Something that a projection writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Where to.
    pub stream: String,
    /// Its type.
    pub event_type: String,
    /// Whether it is JSON.
    pub is_json: bool,
    /// Its data.
    pub data: String,
    /// Metadata given by the projection, and the position it was written at.
    pub metadata: Value,
    /// The event that caused it.
    pub caused_by: Uuid,
}

/// What came of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processed {
    /// What is to be written, in order.
    pub emitted: Vec<Emitted>,
}

/// A loaded projection, and how far it has come.
#[derive(Debug)]
pub struct Run {
    name: String,
    script: Script,
    emit: bool,
    states: BTreeMap<String, Option<String>>,
    /// Number of the last event of each source: a stream, or a category's.
    numbers: BTreeMap<String, i64>,
    position: (u64, u64),
    processed: u64,
}

impl Run {
    /// Begins at the beginning.
    pub fn new(name: &str, script: Script, emit: bool) -> Run {
        let definition = script.definition();
        let sources: Vec<String> = match &definition.category {
            Some(category) => vec![format!("$ce-{category}")],
            None => definition.streams.clone(),
        };
        Run {
            name: name.to_owned(),
            script,
            emit,
            states: BTreeMap::new(),
            numbers: sources.into_iter().map(|s| (s, -1)).collect(),
            position: (0, 0),
            processed: 0,
        }
    }

    /// Goes on where another text of the same projection stopped, if it reads the same.
    pub(super) fn take_over(&mut self, old: &mut Run) {
        self.states = std::mem::take(&mut old.states);
        self.processed = old.processed;
        self.position = old.position;
        for (source, number) in &mut self.numbers {
            *number = old.numbers.get(source).copied().unwrap_or(-1);
        }
    }

    /// Gives or takes the right to emit.
    pub(super) fn allow_emit(&mut self, emit: bool) {
        self.emit = emit;
    }

    /// The position, as the server words it.
    pub fn position(&self) -> String {
        if self.script.definition().all {
            let (commit, prepare) = self.position;
            return format!("C:{commit}/P:{prepare}");
        }
        let each: Vec<String> = self.numbers.iter().map(|(source, number)| format!("{source}: {number}")).collect();
        each.join("; ")
    }

    /// Events processed.
    pub fn processed(&self) -> u64 {
        self.processed
    }

    /// Partitions that have a state.
    pub fn partitions(&self) -> impl Iterator<Item = &str> {
        self.states.keys().map(String::as_str)
    }

    /// What it reads, and how.
    pub fn definition(&self) -> &Definition {
        self.script.definition()
    }

    /// The state of a partition (the empty name: of the whole), as JSON.
    pub fn state(&self, partition: &str) -> Option<Value> {
        let text = self.states.get(partition)?.as_ref()?;
        // A handler may return a string, which is then the state as it stands.
        Some(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())))
    }

    /// Puts a partition into a state, as a restart from a checkpoint does.
    pub fn load(&mut self, partition: &str, state: &Value) {
        self.states.insert(partition.to_owned(), Some(state.to_string()));
    }

    /// The result of a partition, if the projection makes results.
    ///
    /// # Errors
    /// What its `transformBy` or `filterBy` threw.
    pub fn result(&self, partition: &str) -> Result<Option<Value>, Fault> {
        let (true, Some(Some(state))) = (self.script.definition().outputs, self.states.get(partition)) else {
            return Ok(None);
        };
        let text = self.script.result(Some(state))?;
        Ok(text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Takes the next record of the log; none that it does not read moves it.
    ///
    /// # Errors
    /// Why it is faulted. It stays where it was.
    pub fn process(&mut self, record: &Record) -> Result<Processed, Fault> {
        let Some(tag) = self.source(record) else { return Ok(Processed::default()) };
        let d = self.script.definition();
        let known = d.every_event || d.types.contains(&record.event_type);
        let blank = record.data.iter().all(u8::is_ascii_whitespace);
        let mut done = Processed::default();
        if known && d.folds && !blank {
            let (emitted, states) = self.fold(record, &tag).map_err(|fault| self.failed(&tag, fault))?;
            if !self.emit && emitted.iter().any(|(result, _)| !result) {
                return Err(Fault(EMIT_REFUSED.to_owned()));
            }
            done.emitted = emitted.into_iter().map(|(_, e)| e).collect();
            self.states.extend(states);
        }
        match tag.number {
            Some(number) => {
                self.numbers.insert(tag.source, number);
            }
            None => self.position = (record.position, record.position),
        }
        self.processed += u64::from(known);
        Ok(done)
    }

    /// Which source of this projection the record belongs to, and its number there.
    fn source(&self, record: &Record) -> Option<Tag> {
        let d = self.script.definition();
        if let Some(category) = &d.category {
            let source = format!("$ce-{category}");
            let number = self.numbers.get(&source).copied().unwrap_or(-1) + 1;
            return (category_of(&record.stream) == Some(category)).then_some(Tag { source, number: Some(number) });
        }
        if d.all {
            let hidden = record.stream.starts_with('$') && !user_metadata(&record.stream);
            let link = record.event_type == LINK && !d.links;
            return (!hidden && !link).then(|| Tag { source: String::new(), number: None });
        }
        if let Some(source) = d.streams.iter().find(|s| **s == record.stream) {
            return Some(Tag { source: source.clone(), number: i64::try_from(record.revision).ok() });
        }
        let source = format!("$ce-{}", category_of(&record.stream)?);
        let number = self.numbers.get(&source)? + 1;
        Some(Tag { source, number: Some(number) })
    }

    /// What is written, with whether it is a result; and the partition's new state.
    fn fold(&self, record: &Record, tag: &Tag) -> Result<Folded, Fault> {
        let d = self.script.definition();
        let mut event = envelope(record);
        let partition = if d.by_stream {
            record.stream.clone()
        } else if d.custom {
            match self.script.partition(&Value::Object(event.clone()).to_string())? {
                Some(partition) => partition,
                None => return Ok((Vec::new(), None)),
            }
        } else {
            String::new()
        };
        event.insert("partition".to_owned(), json!(partition));
        let event = Value::Object(event).to_string();
        let mut outs: Vec<Out> = Vec::new();
        let before = match self.states.get(&partition) {
            Some(state) => state.clone(),
            None => {
                let state = self.script.initial()?;
                outs.extend(read::<Vec<Out>>(&self.script.created(state.as_deref(), &event)?)?);
                state
            }
        };
        let handled: Handled = read(&self.script.handle(before.as_deref(), &event)?)?;
        outs.extend(handled.emitted);
        let mut all: Vec<(bool, Emitted)> =
            outs.into_iter().map(|o| (false, self.emission(o, tag, record.id))).collect();
        if d.outputs && handled.state != before {
            let result = self.script.result(handled.state.as_deref())?;
            if let Some(data) = result {
                let out = Out {
                    stream: self.result_stream(&partition),
                    r#type: "Result".into(),
                    is_json: true,
                    data,
                    metadata: Map::new(),
                };
                all.push((true, self.emission(out, tag, record.id)));
            }
        }
        Ok((all, Some((partition, handled.state))))
    }

    fn result_stream(&self, partition: &str) -> String {
        let d = self.script.definition();
        match (&d.result_stream, &d.partition_result_pattern) {
            (_, Some(pattern)) if !partition.is_empty() => pattern.replace("{0}", partition),
            (Some(stream), _) if partition.is_empty() => stream.clone(),
            _ if partition.is_empty() => format!("$projections-{}-result", self.name),
            _ => format!("$projections-{}-{partition}-result", self.name),
        }
    }

    fn emission(&self, out: Out, tag: &Tag, cause: Uuid) -> Emitted {
        let mut metadata = out.metadata;
        if let Some(number) = tag.number {
            let mut at: BTreeMap<&str, i64> = self.numbers.iter().map(|(s, n)| (s.as_str(), *n)).collect();
            at.insert(&tag.source, number);
            metadata.insert("$s".to_owned(), json!(at));
        }
        metadata.insert("$causedBy".to_owned(), json!(cause));
        Emitted {
            stream: out.stream,
            event_type: out.r#type,
            is_json: out.is_json,
            data: out.data,
            metadata: Value::Object(metadata),
            caused_by: cause,
        }
    }

    /// As the server words what a handler threw.
    fn failed(&self, tag: &Tag, Fault(message): Fault) -> Fault {
        let at = match tag.number {
            Some(number) => format!("{}: {number}", tag.source),
            None => self.position(),
        };
        Fault(format!(
            "The {} projection failed to process an event.\r\nHandler: \
             EventStore.Projections.Core.Services.Interpreted.JintProjectionStateHandler\r\nEvent Position: {at}\r\n\r\n\
             Message:\r\n\r\n{message}",
            self.name
        ))
    }
}

type Folded = (Vec<(bool, Emitted)>, Option<(String, Option<String>)>);

/// Where an event stands among those that a projection reads.
#[derive(Clone, Debug)]
struct Tag {
    source: String,
    number: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Out {
    stream: String,
    r#type: String,
    is_json: bool,
    data: String,
    metadata: Map<String, Value>,
}

#[derive(Deserialize)]
struct Handled {
    state: Option<String>,
    emitted: Vec<Out>,
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|e| Fault(e.to_string()))
}

fn user_metadata(stream: &str) -> bool {
    stream.strip_prefix("$$").is_some_and(|subject| !subject.starts_with('$'))
}

/// The event's properties, in the order in which the server gives them.
fn envelope(record: &Record) -> Map<String, Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs = [
        ("partition", json!("")),
        ("bodyRaw", json!(text(&record.data))),
        ("metadataRaw", json!(text(&record.metadata))),
        ("streamId", json!(record.stream)),
        ("eventId", json!(record.id)),
        ("eventType", json!(record.event_type)),
        ("linkMetadataRaw", Value::Null),
        ("isJson", json!(record.is_json)),
        ("category", json!(category_of(&record.stream).unwrap_or_default())),
        ("sequenceNumber", json!(record.revision)),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
