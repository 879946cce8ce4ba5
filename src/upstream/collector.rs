//! Hands ended spans to a collector: OTLP over HTTP, protobuf (OTLP 1.x, §OTLP/HTTP), a batch at a time.
//!
//! Beside the requests, never in their way: what the collector does not take within the time-out is lost and counted,
//! not tried again, so that a collector that is down costs no memory.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceResponse, trace::v1::Span};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Duration, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    config::settings::Otlp,
    telemetry::{
        metrics::{Metrics, SpanResult},
        traces::{Queue, encode},
    },
    upstream::connect::Stream,
};

/// Most spans in one request: well below what collectors take (4 MiB).
const BATCH: usize = 512;

/// How long a batch waits for more.
const GATHER: Duration = Duration::from_secs(1);

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Why a batch was lost.
#[derive(Debug, thiserror::Error)]
enum ExportFault {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("the collector's name fits no certificate")]
    Name,
    #[error("no answer in time")]
    Timeout,
    #[error("the answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the request could not be made")]
    Request(#[from] http::Error),
}

/// Exports until `stopped`, and then what is left.
pub async fn export(mut queue: Queue, otlp: Otlp, metrics: Arc<Metrics>, mut stopped: watch::Receiver<bool>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut lost = false;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => queue.close(),
            taken = gather(&mut queue, &mut batch) => if taken == 0 { return },
        }
        if batch.is_empty() {
            continue;
        }
        let spans = batch.len() as u64;
        let told = timeout(otlp.timeout, send(&otlp, std::mem::take(&mut batch))).await;
        let refused = match told.unwrap_or(Err(ExportFault::Timeout)) {
            Ok(refused) => {
                if std::mem::take(&mut lost) {
                    tracing::info!("the collector takes spans again");
                }
                refused.min(spans)
            }
            Err(fault) => {
                // Once for each loss of it: metrics count on.
                if !std::mem::replace(&mut lost, true) {
                    tracing::warn!(%fault, "the collector takes no spans");
                }
                spans
            }
        };
        metrics.trace_spans.of(SpanResult::Exported).add(spans - refused);
        metrics.trace_spans.of(SpanResult::Failed).add(refused);
        if lost && queue.is_closed() {
            // A stop does not wait once more for a collector that is not there.
            metrics.trace_spans.of(SpanResult::Failed).add(queue.len() as u64);
            return;
        }
    }
}

/// Adds to `batch` until it is full or has waited; 0 when nothing more will come. Loses nothing when it is dropped.
async fn gather(queue: &mut Queue, batch: &mut Vec<Span>) -> usize {
    if queue.recv_many(batch, BATCH).await == 0 {
        return 0;
    }
    let full = async { while batch.len() < BATCH && queue.recv_many(batch, BATCH - batch.len()).await > 0 {} };
    tokio::select! {
        () = full => {}
        () = sleep(GATHER) => {}
    }
    batch.len()
}

/// One request on a connection of its own: there is one a second. Gives how many spans were refused.
async fn send(otlp: &Otlp, spans: Vec<Span>) -> Result<u64, ExportFault> {
    let path = otlp.endpoint.path_and_query().map_or("/", |path| path.as_str());
    let authority = otlp.endpoint.authority().map(ToString::to_string).unwrap_or_default();
    let mut request = Request::post(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(USER_AGENT, "portcullis")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(encode(spans))))?;
    for (name, value) in &otlp.headers {
        request.headers_mut().append(name, value.clone());
    }
    let (answer, _connection) = connect(otlp).await?.ask(request).await?;
    if !answer.status().is_success() {
        return Err(ExportFault::Status(answer.status()));
    }
    // An answer that cannot be read is a success all the same: its status said so.
    let Ok(body) = Limited::new(answer.into_body(), MAX_ANSWER).collect().await else { return Ok(0) };
    let partial = ExportTraceServiceResponse::decode(body.to_bytes()).ok().and_then(|answer| answer.partial_success);
    Ok(partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
}

async fn connect(otlp: &Otlp) -> Result<Stream, ExportFault> {
    let host = otlp.endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = otlp.endpoint.port_u16().unwrap_or(if otlp.tls.is_some() { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await?;
    let Some(tls) = &otlp.tls else { return Ok(Stream::plain(tcp)) };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ExportFault::Name)?;
    Ok(Stream::tls(&TlsConnector::from(Arc::clone(tls)), name, tcp).await?)
}
