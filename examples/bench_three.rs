//! The load of `bench/three/run`: how soon an end at one gateway is refused at the others, and how many refreshes a
//! second gateways take. Prints JSON. Started by that program, which starts everything else.

use std::{error::Error, net::SocketAddr, sync::LazyLock, time::Duration};

use clap::{Parser, Subcommand};
use portcullis::clock::{Clock, SystemClock, Tick};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

type Fault = Box<dyn Error + Send + Sync>;

const PASSWORD: &str = "seven-Tangled-kites-over-oslo-41";

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A service that answers everybody, on this address.
    Upstream { address: SocketAddr },
    /// Logs sessions out at one gateway after the other and asks all others with their tokens until they refuse.
    Propagation {
        #[arg(long)]
        rounds: usize,
        gateways: Vec<String>,
    },
    /// Refreshes as fast as it goes, each session in a chain of its own.
    Refreshes {
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        sessions: usize,
        gateways: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    match Arguments::parse().what {
        What::Upstream { address } => upstream(address).await?,
        What::Propagation { rounds, gateways } => print(&propagation(rounds, &gateways).await?),
        What::Refreshes { seconds, sessions, gateways } => {
            print(&refreshes(Duration::from_secs(seconds), sessions, &gateways).await?);
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program for the terminal")]
fn print(told: &Value) {
    println!("{told}");
}

async fn upstream(address: SocketAddr) -> Result<(), Fault> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let (mut held, mut buffer) = (Vec::new(), [0; 4_096]);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                held.extend_from_slice(&buffer[..count]);
                // Requests without a body, one after the other.
                while let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
                    held.drain(..end + 4);
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

fn now() -> Tick {
    static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::new);
    CLOCK.tick()
}

fn client() -> Result<reqwest::Client, Fault> {
    let client = reqwest::Client::builder().no_proxy().http1_only().tcp_nodelay(true);
    Ok(client.timeout(Duration::from_secs(30)).build()?)
}

/// Access and refresh token.
async fn account(http: &reqwest::Client, base: &str, path: &str, email: &str) -> Result<(String, String), Fault> {
    let body = json!({"email": email, "password": PASSWORD});
    let answer = http.post(format!("{base}/auth/{path}")).json(&body).send().await?;
    pair(answer.error_for_status()?).await
}

async fn pair(answer: reqwest::Response) -> Result<(String, String), Fault> {
    let answer: Value = answer.json().await?;
    let text = |name: &str| answer[name].as_str().map(str::to_owned).ok_or("an answer without tokens");
    Ok((text("access_token")?, text("refresh_token")?))
}

async fn status(http: &reqwest::Client, base: &str, token: &str) -> Result<u16, Fault> {
    let answer = http.get(format!("{base}/ask")).bearer_auth(token).send().await?;
    let status = answer.status().as_u16();
    answer.bytes().await?;
    Ok(status)
}

async fn propagation(rounds: usize, gateways: &[String]) -> Result<Value, Fault> {
    // A connection of its own to each, kept all along.
    let clients: Vec<_> = gateways.iter().map(|_| client()).collect::<Result<_, _>>()?;
    let email = format!("propagation-{:?}@example.org", std::process::id());
    account(&clients[0], &gateways[0], "register", &email).await?;
    let mut took = Vec::new();
    for round in 0..rounds {
        let here = round % gateways.len();
        let (token, _) = account(&clients[here], &gateways[here], "login", &email).await?;
        let mut others = JoinSet::new();
        for there in (0..gateways.len()).filter(|there| *there != here) {
            let (http, base, token) = (clients[there].clone(), gateways[there].clone(), token.clone());
            expect(status(&http, &base, &token).await?, 200)?;
            others.spawn(async move {
                loop {
                    match status(&http, &base, &token).await? {
                        200 => {}
                        401 => return Ok::<_, Fault>(now()),
                        other => return Err(format!("{base} answers {other}").into()),
                    }
                }
            });
        }
        let answer = clients[here].post(format!("{}/auth/logout", gateways[here])).bearer_auth(&token).send().await?;
        let done = now();
        expect(answer.status().as_u16(), 204)?;
        while let Some(refused) = others.join_next().await {
            took.push(refused??.since(done).as_secs_f64() * 1e3);
        }
    }
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1)));
    Ok(json!({"rounds": rounds, "observations": took.len(), "p50_ms": at(50), "p99_ms": at(99), "max_ms": took.last()}))
}

async fn refreshes(lasts: Duration, sessions: usize, gateways: &[String]) -> Result<Value, Fault> {
    let http = client()?;
    let mut held = Vec::new();
    for number in 0..sessions {
        let email = format!("refreshes-{}-{number}@example.org", std::process::id());
        let base = gateways[number % gateways.len()].clone();
        held.push((account(&http, &base, "register", &email).await?.1, base));
    }
    let begun = now();
    let mut workers = JoinSet::new();
    for (mut token, base) in held {
        let http = http.clone();
        workers.spawn(async move {
            let mut done = 0_u64;
            while now().since(begun) < lasts {
                let body = json!({"refresh_token": token});
                let answer = http.post(format!("{base}/auth/refresh")).json(&body).send().await?;
                token = pair(answer.error_for_status()?).await?.1;
                done += 1;
            }
            Ok::<_, Fault>(done)
        });
    }
    let mut done = 0;
    while let Some(one) = workers.join_next().await {
        done += one??;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = done as f64 / now().since(begun).as_secs_f64();
    Ok(json!({"gateways": gateways.len(), "refreshes": done, "per_second": rate}))
}

fn expect(status: u16, expected: u16) -> Result<(), Fault> {
    if status == expected { Ok(()) } else { Err(format!("{status} in place of {expected}").into()) }
}
