//! JSON as the server treats it: events in a request, and indented text whose order and numbers stay as they are.

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::sim::model::ProposedEvent;

/// An event of `application/vnd.eventstore.events+json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming<'a> {
    event_id: Option<Uuid>,
    event_type: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, alias = "metaData")]
    metadata: Option<&'a RawValue>,
}

/// The events of a request.
pub(super) fn events(body: &Bytes) -> Result<Vec<ProposedEvent>, String> {
    let incoming: Vec<Incoming<'_>> =
        serde_json::from_slice(body).map_err(|_| "Write request body invalid.".to_owned())?;
    let event = |given: Incoming<'_>| {
        let id = given.event_id.filter(|id| !id.is_nil()).ok_or("Empty eventId provided.")?;
        let event_type = given.event_type.filter(|t| !t.is_empty()).ok_or("Empty eventType provided.")?;
        let (data, is_json) = given.data.map_or((Vec::new(), false), |raw| bytes(raw.get()));
        let (metadata, _) = given.metadata.map_or((Vec::new(), false), |raw| bytes(raw.get()));
        Ok(ProposedEvent { id, event_type, is_json, data, metadata })
    };
    incoming.into_iter().map(event).collect::<Result<_, &str>>().map_err(str::to_owned)
}

/// What is stored: objects and lists as indented JSON, texts as they are, and whether it is JSON.
fn bytes(raw: &str) -> (Vec<u8>, bool) {
    match serde_json::from_str::<String>(raw) {
        Ok(text) => (text.into_bytes(), false),
        Err(_) if raw == "null" => (Vec::new(), false),
        Err(_) => (indented(raw).into_bytes(), true),
    }
}

/// Valid JSON with a line for each value, two spaces a level.
pub(super) fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped, mut opened) = (0_usize, false, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    for c in json.chars() {
        if in_text {
            out.push(c);
            (in_text, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        depth -= usize::from(closes);
        if opened != closes && (opened || closes) {
            line(&mut out, depth);
        }
        opened = matches!(c, '{' | '[');
        depth += usize::from(opened);
        out.push(c);
        match c {
            '"' => in_text = true,
            ':' => out.push(' '),
            ',' => line(&mut out, depth),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::indented;

    #[test]
    fn text_is_indented_as_the_usual_printer_does() {
        for text in [
            r#"{"a":1}"#,
            r#"[]"#,
            r#"{"a":{},"b":[],"c":[[1,2],{"d":"x{,:\"\\"}],"e":null,"f":-1.5}"#,
            r#"  [ 1 , "two \\\" [" ] "#,
        ] {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(indented(text), serde_json::to_string_pretty(&value).unwrap(), "{text}");
        }
        assert_eq!(indented(r#"{"z":1.10,"a":2}"#), "{\n  \"z\": 1.10,\n  \"a\": 2\n}", "order and digits stay");
    }
}
