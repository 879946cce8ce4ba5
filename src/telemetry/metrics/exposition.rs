//! From the registry to text: `OpenMetrics` 1.0 as prometheus-client writes it, or classic Prometheus text 0.0.4.
//!
//! The two differ little: classic names a counter with its `_total` in `HELP` and `TYPE` too, and knows neither
//! `UNIT` nor `EOF` nor exemplars. prometheus-client writes `OpenMetrics` only; the classic text is made from it.

use std::{
    collections::HashMap,
    fmt::{self, Write},
};

use prometheus_client::{encoding::text, registry::Registry};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Classic,
}

impl Format {
    /// The format that an `Accept` header asks for: `OpenMetrics` when it is named, else the classic one, which
    /// every tool reads.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let named = accept.is_some_and(|accept| {
            accept.split(',').any(|range| {
                let mut parts = range.split(';').map(str::trim);
                let media_type = parts.next().unwrap_or_default();
                let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
                media_type.eq_ignore_ascii_case("application/openmetrics-text") && !refused
            })
        });
        if named { Self::OpenMetrics } else { Self::Classic }
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) fn encode(registry: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut open = String::new();
    text::encode(&mut open, registry)?;
    Ok(match format {
        Format::OpenMetrics => open,
        Format::Classic => classic(&open),
    })
}

fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + 1024);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        if line == "# EOF" || line.starts_with("# UNIT ") {
        } else if let (Some((name, help)), Some(kind)) = (help, lines.next_if(|next| next.starts_with("# TYPE "))) {
            let kind = kind.rsplit(' ').next().unwrap_or("untyped");
            let suffix = if kind == "counter" { "_total" } else { "" };
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The labels of a sample: names and values.
pub(super) type Labels<'a> = HashMap<&'a str, String>;

/// The text with `exemplar` asked for each sample of `bucket`, by its labels and its upper bound.
pub(super) fn with_exemplars(
    open: &str,
    bucket: &str,
    exemplar: &dyn Fn(&Labels<'_>, f64) -> Option<String>,
) -> String {
    let mut out = String::with_capacity(open.len() + 1024);
    for line in open.lines() {
        out.push_str(line);
        let labels = line.strip_prefix(bucket).and_then(|rest| labels(rest.strip_prefix('{')?));
        let found = labels.and_then(|labels| exemplar(&labels, labels.get("le")?.parse().ok()?));
        out.push_str(&found.unwrap_or_default());
        out.push('\n');
    }
    out
}

/// The labels of a sample, from behind the opening bracket; `None` when they make no sense.
fn labels(mut rest: &str) -> Option<Labels<'_>> {
    let mut labels = HashMap::new();
    while !rest.starts_with('}') {
        let (name, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), quoted.chars());
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        labels.insert(name, value);
        rest = chars.as_str();
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_given_only_when_it_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("*/*")), Format::Classic);
        assert_eq!(Format::accepted(Some("application/openmetrics-text; q=0, text/plain")), Format::Classic);
        assert_eq!(Format::accepted(None), Format::Classic);
    }

    #[test]
    fn classic_counters_carry_total_in_every_line_and_there_is_no_eof() {
        let open = "# HELP p_requests Requests.\n# TYPE p_requests counter\np_requests_total{a=\"b\"} 3\n# HELP p_up Up.\n\
                    # TYPE p_up gauge\np_up 1\n# HELP p_t_seconds T.\n# TYPE p_t_seconds histogram\n\
                    # UNIT p_t_seconds seconds\np_t_seconds_sum 1.0\n# EOF\n";
        let expected = "# HELP p_requests_total Requests.\n# TYPE p_requests_total counter\np_requests_total{a=\"b\"} 3\n\
                        # HELP p_up Up.\n# TYPE p_up gauge\np_up 1\n# HELP p_t_seconds T.\n\
                        # TYPE p_t_seconds histogram\np_t_seconds_sum 1.0\n";
        assert_eq!(classic(open), expected);
    }
}
