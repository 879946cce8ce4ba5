//! `fastapi-postgres-redis.yaml`: the FastAPI example behind several gateways that share a PostgreSQL database and a
//! Redis, both real.

use portcullis::app::Rim;

use super::{Example, User, satisfied, sent};
use crate::{
    harness::{
        gateway::MASTER_KEY,
        peer::{Peer, patiently, python},
        upstream::Refusing,
    },
    support::{
        postgres::{self, Database},
        redis::Redis,
    },
};

const PYTHON: &str = "PORTCULLIS_TEST_PYTHON";
const SERVICE: &str = "examples/rag-fastapi";
const URL: &str = "https://rag.example.com";

/// What the gateways share, and the service behind them.
struct Deployment {
    database: Database,
    redis: Redis,
    endpoint: String,
    _service: Peer,
    /// The first gateway: it is up before the service, which reads the keys of all from it.
    _first: Example,
}

impl Deployment {
    async fn start() -> Self {
        let (database, redis) = (postgres::cluster().create_database(), Redis::private());
        let first = Self::gateway_on(&database, &redis, &Refusing::new().url()).await;
        let mut service = python(PYTHON, SERVICE);
        service.args(["-m", "uvicorn", "app:app", "--fd", "0"]).env("GATEWAY_ISSUER", URL);
        let keys = format!("http://{}/.well-known/jwks.json", first.running.public_addr());
        service.env("GATEWAY_JWKS_URL", keys).env("ACCEPT_UNVERIFIED_EMAIL", "1");
        let (service, address) = Peer::on_socket(&mut service);
        service.logged("Application startup complete").await;
        Self { database, redis, endpoint: format!("http://{address}"), _service: service, _first: first }
    }

    async fn gateway(&self) -> Example {
        Self::gateway_on(&self.database, &self.redis, &self.endpoint).await
    }

    async fn gateway_on(database: &Database, redis: &Redis, endpoint: &str) -> Example {
        let variables = [
            ("PUBLIC_URL", URL),
            ("DATABASE_URL", &*database.url),
            ("PORTCULLIS_MASTER_KEY", MASTER_KEY),
            ("REDIS_URL", &*redis.url()),
        ];
        let places = [("http://127.0.0.1:8000", endpoint)];
        Example::start("fastapi-postgres-redis.yaml", &places, &variables, Rim::system()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fastapi_users_are_known_at_every_gateway_and_limited_by_all_together() {
    let deployment = Deployment::start().await;
    let (one, other) = (deployment.gateway().await, deployment.gateway().await);
    for (gateway, script) in [(&one, "client_httpx.py"), (&other, "client_openai.py")] {
        let mut client = python(PYTHON, SERVICE);
        client.arg(script).arg(format!("http://{}", gateway.running.public_addr()));
        satisfied(client).await;
    }

    // Registered at one, known at the other: the users and the keys are in PostgreSQL.
    let here = User::registered(&one).await;
    let there = here.at(&other);
    let clock = Rim::system().clock;
    let begun = clock.tick();
    let mut admitted = [0_u32; 2];
    for (user, admitted) in [&here, &there].into_iter().zip(&mut admitted) {
        while let answer = sent(user.call("GET", "/documents")).await
            && answer.status() != 429
        {
            assert_eq!(answer.status(), 200);
            *admitted += 1;
        }
    }
    // `fair-use`: 30 at once, two more a second, and what each gateway may have taken ahead of need (a tenth).
    let earned = 2 * u32::try_from(clock.tick().since(begun).as_secs() + 1).unwrap();
    let [one_gave, both_gave] = [admitted[0], admitted[0] + admitted[1]];
    assert!(one_gave >= 24 && both_gave <= 30 + 2 * 3 + earned, "{admitted:?} {earned}");
    // Redis decided, not each for itself.
    assert_eq!(other.metric("portcullis_shared_state_lost").await.as_deref(), Some("0"));
    let audit = patiently("the audit", registrations(&deployment.database)).await;
    assert_eq!(audit, 3);
}

/// How many accounts PostgreSQL knows of.
async fn registrations(database: &Database) -> i64 {
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&database.url).await.unwrap();
    let asked = sqlx::query_scalar("SELECT count(*) FROM audit WHERE event = 'registered'");
    asked.fetch_one(&mut connection).await.unwrap()
}
