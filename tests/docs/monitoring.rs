//! What operators load into Prometheus and Grafana: the rules hold on series (promtool's own words), every metric and
//! label value that is named exists in the metrics' table, and every alert has its section in the runbook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::root;

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Runs Prometheus' own checker.
fn promtool(arguments: &[&str], folder: &Path) {
    let output = Command::new("promtool").args(arguments).current_dir(folder).output();
    let told = "promtool cannot be run; `scripts/setup test` installs it (Debian: prometheus)";
    assert!(output.is_ok(), "{told}: {output:?}");
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

/// Names as they are exported, and the values of those labels that have a closed list.
struct Table {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<(String, String), BTreeSet<String>>,
    known: BTreeMap<String, BTreeSet<String>>,
}

impl Table {
    /// Read from the reference page, which is the table.
    fn new() -> Self {
        let mut table = Self { kinds: BTreeMap::new(), labels: BTreeMap::new(), known: BTreeMap::new() };
        for line in portcullis::telemetry::metrics::reference().lines() {
            let cells: Vec<Vec<&str>> =
                line.split('|').map(|cell| cell.split('`').skip(1).step_by(2).collect()).collect();
            match cells.as_slice() {
                [_, name, _, labels, ..] if name.first().is_some_and(|name| name.starts_with("portcullis_")) => {
                    let kind = line.split('|').nth(2).unwrap().trim();
                    table.kinds.insert(name[0].to_owned(), kind.to_owned());
                    table.known.insert(name[0].to_owned(), labels.iter().map(ToString::to_string).collect());
                }
                [_, label, metric, values, ..]
                    if metric.first().is_some_and(|name| name.starts_with("portcullis_")) =>
                {
                    let values = values.iter().map(ToString::to_string).collect();
                    table.labels.insert((metric[0].to_owned(), label[0].to_owned()), values);
                }
                _ => {}
            }
        }
        assert!(table.kinds.len() > 40 && table.labels.len() > 10, "{}", table.kinds.len());
        table
    }

    /// What is wrong with the names in these expressions.
    fn faults(&self, expressions: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let mut rest = expressions;
        while let Some(start) = rest.find("portcullis_") {
            let end = rest[start..].find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
            let (name, after) = rest[start..].split_at(end.unwrap_or(rest.len() - start));
            rest = after;
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let histogram = base.filter(|base| self.kinds.get(*base).is_some_and(|kind| kind == "histogram"));
            let metric = histogram.unwrap_or(name);
            match self.kinds.get(metric).map(String::as_str) {
                None => faults.push(format!("no metric is named {name}")),
                Some("histogram") if histogram.is_none() => faults.push(format!("{name} is a histogram")),
                Some(_) => faults.extend(self.label_faults(metric, after)),
            }
        }
        faults
    }

    fn label_faults(&self, metric: &str, after: &str) -> Vec<String> {
        let Some(matchers) = after.strip_prefix('{').and_then(|rest| rest.split('}').next()) else { return Vec::new() };
        let mut faults = Vec::new();
        for matcher in matchers.split("\",") {
            let Some((label, value)) = matcher.split_once('"') else { continue };
            let label = label.trim_end_matches(['=', '~', '!']).trim_matches([',', ' ']);
            // Prometheus' own.
            if ["job", "instance", "le"].contains(&label) {
                continue;
            }
            if !self.known[metric].contains(label) {
                faults.push(format!("{metric} has no label {label}"));
            }
            if let Some(values) = self.labels.get(&(metric.to_owned(), label.to_owned())) {
                let unknown = value.trim_end_matches('"').split('|').filter(|value| !values.contains(*value));
                faults.extend(unknown.map(|value| format!("{metric}: no {label} is {value}")));
            }
        }
        faults
    }
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&text("deploy/prometheus/alerts.yml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Every query of the dashboard, with Grafana's variables as Grafana fills them in.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let filled = |query: &str| query.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*");
    targets.map(|target| filled(target["expr"].as_str().unwrap())).collect()
}

#[test]
fn the_alerts_are_rules_and_fire_on_what_they_are_for_and_on_nothing_else() {
    let folder = root().join("deploy/prometheus");
    promtool(&["check", "rules", "alerts.yml"], &folder);
    promtool(&["test", "rules", "alerts_test.yml"], &folder);
    let tried: Value = serde_saphyr::from_str(&text("deploy/prometheus/alerts_test.yml")).unwrap();
    let tried: BTreeSet<_> =
        tried["tests"].as_array().unwrap().iter().map(|test| test["name"].as_str().unwrap()).collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(tried.contains(name), "{name} is not tried on series");
    }
}

#[test]
fn every_metric_that_an_alert_names_exists() {
    let table = Table::new();
    for file in ["deploy/prometheus/alerts.yml", "deploy/prometheus/alerts_test.yml"] {
        let lines = text(file);
        let said: Vec<_> = lines.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        assert_eq!(table.faults(&said.join("\n")), Vec::<String>::new(), "{file}");
    }
    // The check finds what it is for.
    let wrong = [
        "rate(portcullis_requsts_total[5m])",
        "portcullis_requests_total{reason=\"no_such_reason\"}",
        "portcullis_requests_total{reason=~\"ok|nonsense\",route=\"x\"}",
        "portcullis_requests_total{user=\"x\"}",
        "rate(portcullis_hash_wait_seconds[5m])",
        "portcullis_connections_open_bucket",
    ];
    for wrong in wrong {
        assert_eq!(table.faults(wrong).len(), 1, "{wrong}");
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let runbook = text("docs/runbook.md");
    let mut sections: BTreeMap<&str, &str> =
        runbook.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let section = sections.remove(name).unwrap_or_else(|| panic!("the runbook does not say what {name} means"));
        for part in ["**Means.** ", "**Look.** ", "**Do.** "] {
            assert_eq!(section.matches(part).count(), 1, "{name}: {part}");
        }
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(url, format!("docs/runbook.md#{}", name.to_lowercase()));
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty());
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
    }
    assert!(sections.is_empty(), "no alert leads to these: {:?}", sections.keys());
    let faults = Table::new().faults(&runbook).into_iter();
    // In prose a histogram is called by its name.
    assert_eq!(faults.filter(|fault| !fault.ends_with("is a histogram")).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_dashboard_asks_for_what_exists_in_queries_that_parse() {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/portcullis.json")).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource" && variable["name"] == "datasource"));
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
    let queries = queries(&dashboard);
    assert!(queries.len() > 40, "{}", queries.len());
    let table = Table::new();
    for query in &queries {
        assert_eq!(table.faults(query), Vec::<String>::new(), "{query}");
    }
    // As recording rules they are what promtool can check.
    let rules: Vec<_> = (0..)
        .zip(&queries)
        .map(|(number, query)| serde_json::json!({"record": format!("q:{number}"), "expr": query}))
        .collect();
    let file = tempfile::TempDir::new().unwrap();
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(file.path().join("rules.yml"), groups.to_string()).unwrap();
    promtool(&["check", "rules", "rules.yml"], file.path());
}
