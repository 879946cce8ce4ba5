//! What `/metrics` says and what it never does: series, labels and histograms as text, and that nothing a client sends
//! adds to them.

use super::*;

fn text(metrics: &Metrics) -> String {
    metrics.encode(Format::Classic).expect("encodes")
}

#[test]
fn a_request_is_one_sample_with_its_labels() {
    let metrics = Metrics::new();
    let route = metrics.route("docs");
    route.answered(&Method::GET, StatusCode::OK, Reason::Ok, Duration::from_millis(3), None);
    route.answered(&Method::GET, StatusCode::OK, Reason::Ok, Duration::from_millis(3), None);
    route.answered(&Method::POST, StatusCode::UNAUTHORIZED, Reason::TokenExpired, Duration::from_millis(1), None);
    let text = text(&metrics);
    let ok = r#"portcullis_requests_total{route="docs",reason="ok",method="GET",status="2xx"} 2"#;
    let refused = r#"portcullis_requests_total{route="docs",reason="token_expired",method="POST",status="4xx"} 1"#;
    assert!(text.contains(ok), "{text}");
    assert!(text.contains(refused), "{text}");
    assert!(text.contains(r#"portcullis_request_duration_seconds_count{route="docs"} 3"#), "{text}");
    assert_eq!(text.matches("portcullis_requests_total{").count(), 2, "unseen combinations are not exported");
}

#[test]
fn an_unknown_method_cannot_make_a_series() {
    let metrics = Metrics::new();
    let odd = Method::from_bytes(b"BREW").expect("a method");
    metrics.route("docs").answered(&odd, StatusCode::OK, Reason::Ok, Duration::ZERO, None);
    let text = text(&metrics);
    assert!(text.contains(r#"method="other""#) && !text.contains("BREW"), "{text}");
}

#[test]
fn handles_of_one_name_count_together() {
    let metrics = Metrics::new();
    metrics.limit("login").decisions.of(LimitResult::Refused).inc();
    metrics.limit("login").decisions.of(LimitResult::Refused).inc();
    assert!(text(&metrics).contains(r#"portcullis_limit_decisions_total{limit="login",result="refused"} 2"#));
}

#[test]
fn an_endpoints_health_carries_cluster_and_endpoint() {
    let metrics = Metrics::new();
    metrics.endpoint("rag", "10.0.0.1:80").set(1);
    let expected = r#"portcullis_upstream_endpoint_healthy{cluster="rag",endpoint="10.0.0.1:80"} 1"#;
    assert!(text(&metrics).contains(expected));
}

#[test]
fn a_name_with_a_quote_cannot_break_the_exposition() {
    let metrics = Metrics::new();
    metrics.limit_keys.get("a\"b\nc").set(1);
    let text = text(&metrics);
    assert!(text.contains(r#"limit="a\"b\nc"} 1"#), "{text}");
}

#[test]
fn histogram_buckets_are_cumulative_and_bounds_inclusive() {
    let metrics = Metrics::new();
    for micros in [500, 501, 1_000, 61_000_000] {
        metrics.hash_duration.observe(Duration::from_micros(micros));
    }
    let text = text(&metrics);
    assert!(text.contains("portcullis_hash_seconds_bucket{le=\"0.0005\"} 1\n"), "{text}");
    assert!(text.contains("portcullis_hash_seconds_bucket{le=\"0.001\"} 3\n"), "{text}");
    assert!(text.contains("portcullis_hash_seconds_bucket{le=\"60.0\"} 3\n"), "{text}");
    assert!(text.contains("portcullis_hash_seconds_bucket{le=\"+Inf\"} 4\n"), "{text}");
    assert!(text.contains("portcullis_hash_seconds_sum 61.002001\n"), "{text}");
}

#[test]
fn closed_labels_are_exported_at_zero_from_the_start() {
    let text = text(&Metrics::new());
    assert!(text.contains("portcullis_connection_errors_total{kind=\"tls\"} 0\n"), "{text}");
    assert!(text.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[test]
fn every_metric_of_the_table_is_exported_and_in_the_reference() {
    let metrics = Metrics::new();
    let (text, reference) = (text(&metrics), reference());
    for row in Metrics::rows() {
        let total = if matches!(row.kind, MetricType::Counter) { "_total" } else { "" };
        let name = format!("portcullis_{}{total}", row.name);
        assert!(text.contains(&format!("# HELP {name} {}", row.help)), "{name} is not exported with its help");
        assert!(reference.contains(&format!("`{name}`")), "{name} is not in the reference");
        assert!(row.help.ends_with('.') && !row.help.is_empty(), "{name} lacks a sentence");
    }
}

#[test]
fn openmetrics_ends_with_eof() {
    assert!(Metrics::new().encode(Format::OpenMetrics).expect("encodes").ends_with("# EOF\n"));
}

#[test]
fn label_indices_are_places_in_their_lists() {
    fn check<L: Label>() {
        assert!(L::ALL.iter().enumerate().all(|(place, label)| label.index() == place), "{}", L::NAME);
    }
    check::<Reason>();
    check::<Verb>();
    check::<StatusClass>();
    check::<ConnectionError>();
    check::<UpstreamResult>();
}

#[test]
fn a_sampled_request_is_the_exemplar_of_its_bucket_in_openmetrics_alone() {
    let metrics = Metrics::new();
    let route = metrics.route("a\"b # {c");
    let at = crate::clock::Timestamp::from_micros(1_700_000_000_250_000);
    let answered = |millis, traced| {
        route.answered(&Method::GET, StatusCode::OK, Reason::Ok, Duration::from_millis(millis), traced);
    };
    answered(3, Some(Traced { trace_id: [1; 16], span_id: [2; 8], at }));
    answered(4, Some(Traced { trace_id: [0xab; 16], span_id: [0xcd; 8], at }));
    answered(70, None);
    answered(70_000, Some(Traced { trace_id: [3; 16], span_id: [4; 8], at }));
    let open = metrics.encode(Format::OpenMetrics).expect("encodes");
    let told: Vec<_> = open.lines().filter(|line| line.contains("trace_id")).collect();
    let [short, long] = told[..] else { panic!("{told:#?}") };
    let (sample, exemplar) = short.rsplit_once(" # ").unwrap();
    assert!(sample.contains("le=\"0.005\"") && sample.ends_with(" 2"), "{short}");
    let (trace, span) = ("ab".repeat(16), "cd".repeat(8));
    assert_eq!(exemplar, format!("{{trace_id=\"{trace}\",span_id=\"{span}\"}} 0.004 1700000000.250000"));
    assert!(long.contains("le=\"+Inf\"") && long.ends_with(" 70 1700000000.250000"), "{long}");
    assert!(open.ends_with("# EOF\n"));
    assert!(!text(&metrics).contains("trace_id"));
}
