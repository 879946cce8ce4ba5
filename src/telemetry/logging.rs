//! Where log lines go: standard output, one line per event, JSON or text.
//!
//! Lines are handed to a thread of their own through a bounded queue. When standard output does not keep up (a stopped
//! terminal, a full pipe, a slow log driver) lines are dropped and counted in `portcullis_log_lines_dropped_total`;
//! the alternative is that every request waits for the log. What must not be lost is in the audit table instead.

use std::io::{BufWriter, Write, stdout};

use tracing::Subscriber;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::Registry,
    util::SubscriberInitExt,
};

use super::metrics::Metrics;
use crate::config::settings::{LogFormat, Telemetry};

/// Lines that may wait: some seconds of access log at full load, about 10 MiB at 300 bytes a line.
const QUEUE: usize = 32 * 1024;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The filter is not in `tracing`'s words.
    #[error("telemetry.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something has installed a subscriber before.
    #[error("logging is set up already")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps the log's thread alive. Drop it last: that writes what is still queued.
#[derive(Debug)]
#[must_use = "without it the last lines are lost"]
pub struct LogGuard(#[expect(dead_code, reason = "held for its Drop")] WorkerGuard);

/// Sets up logging for the process; call once, from `main`. Tests use their own subscribers.
pub fn install(settings: &Telemetry, metrics: &Metrics) -> Result<LogGuard, LogFault> {
    let (writer, guard, dropped) = non_blocking(BufWriter::new(stdout()), QUEUE);
    metrics.log_lines_dropped.from(dropped);
    subscriber(settings, writer)?.try_init()?;
    Ok(LogGuard(guard))
}

fn non_blocking(
    writer: impl Write + Send + 'static,
    queue: usize,
) -> (tracing_appender::non_blocking::NonBlocking, WorkerGuard, impl Fn() -> u64 + Send + Sync + 'static) {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(queue).thread_name("log").finish(writer);
    let dropped = writer.error_counter();
    (writer, guard, move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX))
}

fn subscriber<W>(settings: &Telemetry, writer: W) -> Result<impl Subscriber + Send + Sync, LogFault>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&settings.filter)?;
    // Spans stay out of the lines: an access-log line carries its request id itself.
    let lines: Box<dyn Layer<_> + Send + Sync> = match settings.format {
        LogFormat::Json => Box::new(
            fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false).with_writer(writer),
        ),
        LogFormat::Text => Box::new(fmt::layer().with_ansi(false).with_writer(writer)),
    };
    Ok(Registry::default().with(lines).with(filter))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    };

    use http::HeaderName;

    use super::*;

    fn settings(format: LogFormat, filter: &str) -> Telemetry {
        let request_id_header = HeaderName::from_static("x-request-id");
        Telemetry {
            format,
            filter: filter.to_owned(),
            access_log: true,
            slow_request: None,
            otlp: None,
            request_id_header,
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(&settings(format, filter), move || writer.clone()).expect("a subscriber");
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().expect("unpoisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let text = logged(LogFormat::Json, "info", || tracing::info!(status = 200, route = "a\"b\nc", "answered"));
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["message"], "answered");
        assert_eq!(line["status"], 200);
        assert_eq!(line["route"], "a\"b\nc");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_has_no_escape_codes_and_a_newline_in_a_value_forges_no_line() {
        let text = logged(LogFormat::Text, "info", || tracing::info!(path = "a\nINFO forged", "\u{1b}[31mred"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn the_filter_decides() {
        let log = || {
            tracing::info!(target: "other", "hidden");
            tracing::debug!(target: "portcullis", "shown");
        };
        let text = logged(LogFormat::Text, "warn,portcullis=debug", log);
        assert!(text.contains("shown") && !text.contains("hidden"), "{text}");
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        let fault = subscriber(&settings(LogFormat::Text, "portcullis=loud"), std::io::sink).err().expect("refused");
        assert!(fault.to_string().starts_with("telemetry.filter: "), "{fault}");
    }

    /// Blocks each write until it is released.
    struct Stalled(Sender<()>, Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_output_drops_lines_and_counts_them_but_stalls_nobody() {
        let (writing, is_writing) = channel();
        let (release, released) = channel();
        let (writer, guard, dropped) = non_blocking(Stalled(writing, released), 2);
        let subscriber = subscriber(&settings(LogFormat::Text, "info"), writer).expect("a subscriber");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("the one that stalls");
            is_writing.recv().expect("the thread writes");
            for _ in 0..5 {
                tracing::info!("waits or is dropped");
            }
        });
        assert_eq!(dropped(), 3);
        drop(release);
        drop(guard);
    }
}
