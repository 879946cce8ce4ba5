//! The reference pages that are made from the code: every key of the configuration, every answer of our own.

use std::{collections::BTreeMap, fmt::Write};

use portcullis::{
    gate::rescue::{Challenge, row},
    policy::reason::Reason,
};
use serde_json::Value;

/// Every key: its path, its form, its default, what it means. Made from the JSON schema.
pub(crate) fn configuration() -> String {
    let schema = serde_json::to_value(portcullis::config::schema()).unwrap();
    let mut page = String::from(
        "# Configuration, key by key\n\nMade from the code (`make docs`). `<name>` is a name of your own, `[]` a list. \
         `config/gateway.yaml` shows every key in place, at its default. In an editor that speaks YAML's language server, \
         put this line first: `# yaml-language-server: $schema=schema.json` (the schema is `config/schema.json`; \
         `portcullis schema` prints it).\n",
    );
    let sections: BTreeMap<&String, &Value> = schema["properties"].as_object().unwrap().iter().collect();
    for (name, section) in sections {
        let _ = write!(page, "\n## {name}\n\n{}\n\n", text(section));
        page.push_str("| key | form | default | |\n|---|---|---|---|\n");
        rows(&schema, name, section, &mut page, 0);
    }
    page
}

fn rows(schema: &Value, path: &str, node: &Value, page: &mut String, depth: usize) {
    assert!(depth < 10, "{path} contains itself");
    let node = resolved(schema, node);
    if let Some(properties) = node["properties"].as_object() {
        let required: Vec<&str> = node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in properties {
            let path = format!("{path}.{key}");
            let target = resolved(schema, value);
            let default = match value.get("default") {
                Some(default) if !default.is_object() => format!("`{default}`"),
                None if required.contains(&key.as_str()) => "required".to_owned(),
                _ => String::new(),
            };
            let _ = writeln!(page, "| `{path}` | {} | {default} | {} |", form(schema, target), text(value));
            rows(schema, &path, value, page, depth + 1);
        }
    }
    for branch in ["oneOf", "anyOf"].iter().filter_map(|of| node[*of].as_array()).flatten() {
        rows(schema, path, branch, page, depth + 1);
    }
    if node["additionalProperties"].is_object() {
        rows(schema, &format!("{path}.<name>"), &node["additionalProperties"], page, depth + 1);
    }
    if node["items"].is_object() {
        rows(schema, &format!("{path}[]"), &node["items"], page, depth + 1);
    }
}

fn resolved<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        Some(name) => &schema["$defs"][name],
        None => node,
    }
}

/// One word for what may stand there.
fn form(schema: &Value, node: &Value) -> String {
    let node = resolved(schema, node);
    let words = |values: &[Value]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    if let Some(values) = node["enum"].as_array() {
        return words(values);
    }
    if let Some(value) = node.get("const") {
        return format!("`{value}`");
    }
    if let Some(branches) = node["oneOf"].as_array().or(node["anyOf"].as_array()) {
        let mut forms: Vec<String> = branches.iter().map(|branch| form(schema, branch)).collect();
        forms.dedup();
        return forms.join(", ");
    }
    let kind = match &node["type"] {
        // An empty section: no form of its own.
        Value::Array(kinds) if matches!(kinds[0].as_str(), Some("object" | "array")) => &kinds[0],
        kind => kind,
    };
    match kind {
        Value::String(one) if one == "array" => format!("list of {}", form(schema, &node["items"])),
        Value::String(one) if one == "object" && node["additionalProperties"].is_object() => "map by name".to_owned(),
        Value::String(one) => one.clone(),
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => "any".to_owned(),
    }
}

fn text(node: &Value) -> String {
    node["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

/// Every answer of our own that is not the caller's business: status, code, title, and the reasons behind it.
pub(crate) fn errors() -> String {
    let mut page = String::from(
        "# Errors\n\nMade from the code (`make docs`). Each refusal is a problem document (RFC 9457, \
         `application/problem+json`) with `type`, `title`, `status`, `detail`, `instance`, `code` and `request_id`. Clients \
         should go by `code`, which is stable. `reason` is the finer word in the access log and in \
         `portcullis_requests_total`: where several share one code, a client may not tell them apart.\n\n\
         | status | code | title | challenge | reason | when |\n|---|---|---|---|---|---|\n",
    );
    let mut reasons: Vec<Reason> = Reason::ALL.iter().copied().filter(|reason| *reason != Reason::Ok).collect();
    reasons.sort_by_key(|reason| (row(*reason).status.as_u16(), row(*reason).code));
    for reason in reasons {
        let row = row(reason);
        let challenge = match row.challenge {
            Challenge::Silent => "",
            Challenge::Bearer => "`Bearer`",
            Challenge::InvalidToken => "`invalid_token`",
            Challenge::InsufficientScope => "`insufficient_scope`",
            Challenge::Basic => "`Basic`",
        };
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {challenge} | `{}` | {} |",
            row.status.as_u16(),
            row.code,
            row.title,
            reason.as_str(),
            reason.about().replace('|', "\\|"),
        );
    }
    page.push_str(
        "\nNot among them: what the HTTP library refuses before it is a request (a malformed head is 400, one too large \
         431, a target too long 414), without a body, counted in `portcullis_connection_errors_total`; and a client that \
         went away before it had an answer, logged with status 499.\n",
    );
    page
}
