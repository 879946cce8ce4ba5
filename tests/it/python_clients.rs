//! Real users of the gateway: a `FastAPI` service behind it that verifies identities with `PyJWT`, and in front of it
//! the `httpx` and `openai` clients, as `examples/rag-fastapi` shows them. On the system's clock, since those libraries
//! have one of their own. `make test` makes the Python they need and names it in `PORTCULLIS_TEST_PYTHON`.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use portcullis::app::{App, Rim, Running};

use crate::harness::gateway::{Engine, ISSUER, Setup};

/// The service, and the gateway in front of it.
struct Behind {
    running: Running,
    service: Child,
    /// Its folder goes with it.
    _setup: Setup,
}

fn python(script: &[&str]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a test's own environment")]
    let python = std::env::var_os("PORTCULLIS_TEST_PYTHON")
        .expect("PORTCULLIS_TEST_PYTHON names a Python with examples/rag-fastapi/requirements.txt: run `make test`");
    let mut command = Command::new(python);
    command.args(script).current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/rag-fastapi"));
    command
}

impl Behind {
    /// The service is handed a socket that listens already, so that nobody waits for it: what the gateway sends before
    /// it is up waits in the socket's queue.
    async fn start(engine: Engine) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = listener.local_addr().unwrap();
        let yaml = format!(
            "clusters: {{rag: {{endpoints: [\"http://{service}\"]}}}}\n\
             routes: [{{name: rag, match: {{path: \"/{{*rest}}\"}}, cluster: rag}}]\n"
        );
        let setup = Setup::new(engine, &yaml);
        let running = App::start(setup.settings().unwrap(), Arc::default(), Rim::system()).await.unwrap();
        let service = python(&["-m", "uvicorn", "app:app", "--fd", "0"])
            .env("GATEWAY_ISSUER", ISSUER)
            .env("GATEWAY_JWKS_URL", format!("http://{}/.well-known/jwks.json", running.public_addr()))
            .env("ACCEPT_UNVERIFIED_EMAIL", "1")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { running, service, _setup: setup }
    }

    async fn run(&self, script: &'static str) -> Output {
        let url = format!("http://{}", self.running.public_addr());
        tokio::task::spawn_blocking(move || python(&[script, &url]).output().unwrap()).await.unwrap()
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

async fn satisfied(engine: Engine, script: &'static str) {
    let behind = Behind::start(engine).await;
    let output = behind.run(script).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all good"), "{said}");
}

async fn httpx_registers_logs_in_asks_uploads_and_is_known(engine: Engine) {
    satisfied(engine, "client_httpx.py").await;
}

async fn the_openai_client_streams_with_the_gateway_as_base_url(engine: Engine) {
    satisfied(engine, "client_openai.py").await;
}

on_both_stores!(
    httpx_registers_logs_in_asks_uploads_and_is_known,
    the_openai_client_streams_with_the_gateway_as_base_url,
);
