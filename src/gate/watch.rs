//! The spans of what a sampled request waits for: database calls and its own work below its span.
//!
//! `store` tells a [`Watcher`] what it does and knows nothing of spans; `telemetry` makes spans and knows nothing of
//! stores. Here the one becomes the other (OpenTelemetry's semantic conventions for database spans).

use std::sync::Arc;

use crate::{
    store::calls::{self, Asked, Call, Ending, Failure, System, Watcher},
    telemetry::{
        record::Record,
        traces::{CallKind, ChildSpan, RequestTrace, number, text},
    },
};

/// Does something on behalf of a request: what is asked of databases meanwhile is told in its trace, if it is sampled.
pub(in crate::gate) fn on_behalf_of<R>(record: &Record, work: impl FnOnce() -> R) -> R {
    match &record.trace {
        None => work(),
        Some(trace) => calls::watched(Arc::<RequestTrace>::clone(trace), work),
    }
}

impl Watcher for RequestTrace {
    fn began(self: Arc<Self>, call: &Call<'_>) -> Option<Box<dyn Ending>> {
        let system = match call.system {
            System::PostgreSql => "postgresql",
            System::Sqlite => "sqlite",
            System::Redis => "redis",
        };
        let mut attributes = vec![text("db.system.name", system)];
        let name = match call.asked {
            Asked::Connection => format!("{system} connection"),
            Asked::Command(command) => {
                attributes.push(text("db.operation.name", command));
                command.to_owned()
            }
            Asked::Statement(sql) => {
                let (operation, table) = calls::operation(sql);
                attributes.extend([text("db.operation.name", operation), text("db.query.text", sql)]);
                attributes.extend(table.map(|table| text("db.collection.name", table)));
                table.map_or_else(|| operation.to_owned(), |table| format!("{operation} {table}"))
            }
        };
        if let Some(server) = call.server {
            attributes.push(text("server.address", &server.address));
            attributes.extend(server.port.map(|port| number("server.port", i64::from(port))));
        }
        let kind = if call.asked == Asked::Connection { CallKind::Local } else { CallKind::Remote };
        let span = self.call(kind, name, attributes)?;
        Some(Box::new(span))
    }
}

impl Ending for ChildSpan {
    fn ended(mut self: Box<Self>, failure: Option<Failure>) {
        match failure {
            None => self.well(),
            Some(Failure { kind, code: None }) => self.failed(kind),
            Some(Failure { code: Some(code), .. }) => {
                self.note(text("db.response.status_code", &code));
                self.failed(code);
            }
        }
    }
}
