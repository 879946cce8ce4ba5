//! hyper's server, and hyper-util's client with its pool: a task for each upstream connection, channels between.

use bytes::Bytes;
use http::{
    Request, Uri,
    uri::{Authority, Scheme},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use portcullis_bare::{Failure, Ports, serve, target};

fn main() -> Result<(), Failure> {
    let ports = Ports::from_args()?;
    let upstream = Authority::from_maybe_shared(Bytes::from(format!("127.0.0.1:{}", ports.upstream)))?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    // The client's Host passes.
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).set_host(false).build(connector);
    serve(
        ports.own,
        service_fn(move |mut request: Request<Incoming>| {
            let (client, upstream) = (client.clone(), upstream.clone());
            async move {
                *request.uri_mut() =
                    Uri::builder().scheme(Scheme::HTTP).authority(upstream).path_and_query(target(&request)).build()?;
                Ok::<_, Failure>(client.request(request).await?)
            }
        }),
    )
}
