//! hyper at both ends, each exchange driving its own upstream connection.

use http::{Request, Uri};
use hyper::{body::Incoming, service::service_fn};
use portcullis_bare::{Failure, Ports, inline::Pool, serve, target};

fn main() -> Result<(), Failure> {
    let ports = Ports::from_args()?;
    let pool = Pool::new(ports.upstream);
    serve(
        ports.own,
        service_fn(move |mut request: Request<Incoming>| {
            let pool = pool.clone();
            async move {
                *request.uri_mut() = Uri::from(target(&request));
                pool.send(request).await
            }
        }),
    )
}
