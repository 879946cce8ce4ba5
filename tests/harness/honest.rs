//! Honest clients of several gateways: each remembers what it was told to be done (an account, a login, a refresh, a
//! logout) and repeats what it was not told anything about, at whichever gateway runs. In the end all that was told
//! must be so, at every gateway and in the audit.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    policy::ids::{SessionId, UserId},
    store::AuditEvent,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::harness::{client::PASSWORD, soon, tokens::claims_of, trio::Trio};

/// A device's tokens.
#[derive(Debug, Clone)]
struct Device {
    id: SessionId,
    access: String,
    refresh: String,
    /// What it held before.
    older: Vec<String>,
}

/// What one user knows.
#[derive(Debug, Default)]
struct Known {
    user: Option<UserId>,
    live: Vec<Device>,
    ended: Vec<Device>,
    done: HashMap<(SessionId, AuditEvent), usize>,
}

/// A crowd of users at work.
pub(crate) struct Crowd {
    users: JoinSet<(String, Known)>,
    tries: watch::Receiver<usize>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    /// So many users begin to register, log in, ask, refresh and log out, and do so until the end.
    pub(crate) fn begin(trio: &Trio, users: usize) -> Self {
        let (tell, tries) = watch::channel(0);
        let (tell, stop, turn) = (Arc::new(tell), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut all = JoinSet::new();
        for number in 0..users {
            let user = User {
                http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().unwrap(),
                bases: trio.bases(),
                turn: Arc::clone(&turn),
                tries: Arc::clone(&tell),
                email: format!("user{number}@example.org"),
                known: Known::default(),
            };
            all.spawn(user.live(number, Arc::clone(&stop)));
        }
        Self { users: all, tries, stop }
    }

    /// Waits until they have tried so many things more, with whatever success.
    pub(crate) async fn does(&self, more: usize) {
        let mut tries = self.tries.clone();
        let goal = *tries.borrow() + more;
        soon("the crowd to go on", tries.wait_for(|tries| *tries >= goal)).await.expect("nobody gives up");
    }

    /// Lets everybody finish what they are at, and holds the gateways to what they have told.
    pub(crate) async fn must_have_been_told_the_truth(mut self, trio: &Trio) {
        self.stop.store(true, Ordering::SeqCst);
        let mut logouts = 0;
        while let Some(ended) = soon("everybody to finish", self.users.join_next()).await {
            let (email, mut known) = ended.expect("no client was wronged");
            logouts += known.ended.len();
            holds_everywhere(trio, &known).await;
            is_audited(trio, &known).await;
            goes_on(trio, &email, &mut known).await;
        }
        assert!(logouts > 0, "the load has ended no session");
    }
}

/// What was ended is refused at every gateway and stays so; what lives works at every one.
async fn holds_everywhere(trio: &Trio, known: &Known) {
    for gateway in 0..3 {
        let client = trio.client(gateway);
        for device in &known.ended {
            for token in device.older.iter().chain([&device.access]) {
                soon("an ended session to be refused", async { while client.status("/ask/a", token).await != 401 {} })
                    .await;
                client.get("/ask/a").bearer(token).send().await.refused(401, "invalid_token");
            }
        }
        for device in &known.live {
            client.get("/ask/a").bearer(&device.access).send().await.expect(200);
        }
    }
}

async fn is_audited(trio: &Trio, known: &Known) {
    let rows = trio.store().await.audit_of(known.user.unwrap(), 10_000).await.unwrap();
    for ((session, event), done) in &known.done {
        let count = rows.iter().filter(|row| row.session == Some(*session) && row.event == *event).count();
        assert!(count >= *done, "{event:?} of {session}: {done} were acknowledged, {count} are in the audit");
    }
    let caught = rows.iter().find(|row| row.event == AuditEvent::RefreshReuseDetected);
    assert!(caught.is_none(), "an honest client was taken for a thief: {caught:?}");
}

/// The account and every live session are still good for the future.
async fn goes_on(trio: &Trio, email: &str, known: &mut Known) {
    for (number, device) in known.live.iter().enumerate() {
        trio.client(number % 3).refresh(&device.refresh).await.expect(200);
    }
    for device in &known.ended {
        assert_eq!(trio.client(0).refresh(&device.refresh).await.status, 400);
    }
    let user = trio.client(1).login(email).await.user["id"].as_str().unwrap().parse::<UserId>().unwrap();
    assert_eq!(Some(user), known.user, "the same account");
}

struct User {
    http: reqwest::Client,
    bases: watch::Receiver<Vec<Option<String>>>,
    turn: Arc<AtomicUsize>,
    tries: Arc<watch::Sender<usize>>,
    email: String,
    known: Known,
}

impl User {
    async fn live(mut self, number: usize, stop: Arc<AtomicBool>) -> (String, Known) {
        self.register().await;
        let mut turn = number;
        while !stop.load(Ordering::SeqCst) {
            turn += 1;
            match turn % 11 {
                3 if self.known.live.len() < 4 => self.log_in().await,
                2 | 5 | 8 => self.refresh(turn).await,
                7 if !self.known.live.is_empty() => self.log_out(turn).await,
                _ => self.ask(turn).await,
            }
        }
        (self.email, self.known)
    }

    /// One try at the next gateway that runs; `None`: no answer, or one that says it is not our fault.
    async fn once(&self, method: reqwest::Method, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
        let base = {
            let bases = self.bases.borrow();
            let running: Vec<_> = bases.iter().flatten().collect();
            running[self.turn.fetch_add(1, Ordering::Relaxed) % running.len()].clone()
        };
        let mut request = self.http.request(method, format!("{base}{path}"));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await;
        self.tries.send_modify(|tries| *tries += 1);
        let answer = answer.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        // Nor does a limit say so: Redis goes by the machine's clock, which may be set.
        (status < 500 && status != 429).then(|| (status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// Tries until there is an answer; also whether it took more than one.
    async fn post(&self, path: &str, token: &str, body: &Value) -> (u16, Value, bool) {
        let tried = async {
            let mut again = false;
            loop {
                if let Some((status, answer)) = self.once(reqwest::Method::POST, path, token, body).await {
                    return (status, answer, again);
                }
                again = true;
                tokio::task::yield_now().await;
            }
        };
        soon(path, tried).await
    }

    async fn register(&mut self) {
        let body = json!({"email": self.email, "password": PASSWORD});
        match self.post("/auth/register", "", &body).await {
            (201, answer, _) => self.has(&answer, AuditEvent::Registered),
            // It was done, and the answer was lost.
            (409, _, true) => self.log_in().await,
            (status, answer, again) => panic!("registering: {status} {answer} {again}"),
        }
    }

    async fn log_in(&mut self) {
        let body = json!({"email": self.email, "password": PASSWORD});
        match self.post("/auth/login", "", &body).await {
            (200, answer, _) => self.has(&answer, AuditEvent::LoginSucceeded),
            (status, answer, _) => panic!("logging in: {status} {answer}"),
        }
    }

    fn has(&mut self, answer: &Value, event: AuditEvent) {
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        let user = answer["user"]["id"].as_str().unwrap().parse::<UserId>().unwrap();
        assert_eq!(*self.known.user.get_or_insert(user), user, "an account keeps its id");
        let (access, refresh) = (text("access_token"), text("refresh_token"));
        let id = claims_of(&access)["sid"].as_str().unwrap().parse().unwrap();
        *self.known.done.entry((id, event)).or_default() += 1;
        self.known.live.push(Device { id, access, refresh, older: Vec::new() });
    }

    async fn refresh(&mut self, step: usize) {
        let count = self.known.live.len();
        let Some(device) = self.known.live.get(step % count.max(1)).cloned() else { return };
        let (status, answer, again) = self.post("/auth/refresh", "", &json!({"refresh_token": device.refresh})).await;
        assert_eq!(status, 200, "an honest refresh (again: {again}): {answer}");
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        *self.known.done.entry((device.id, AuditEvent::Refreshed)).or_default() += 1;
        let held = &mut self.known.live[step % count];
        held.older.push(std::mem::replace(&mut held.access, text("access_token")));
        held.refresh = text("refresh_token");
        assert_eq!(claims_of(&held.access)["sid"].as_str().unwrap().parse(), Ok(held.id));
    }

    async fn log_out(&mut self, step: usize) {
        let device = self.known.live.remove(step % self.known.live.len());
        match self.post("/auth/logout", &device.access, &Value::Null).await {
            (204, ..) => *self.known.done.entry((device.id, AuditEvent::LoggedOut)).or_default() += 1,
            // It was done, and the answer was lost.
            (401, _, true) => {}
            (status, answer, _) => panic!("logging out: {status} {answer}"),
        }
        self.known.ended.push(device);
    }

    async fn ask(&self, step: usize) {
        let count = self.known.live.len();
        let Some(device) = self.known.live.get(step % count.max(1)) else { return };
        let token = if step.is_multiple_of(2) { device.older.last().unwrap_or(&device.access) } else { &device.access };
        if let Some((status, answer)) = self.once(reqwest::Method::GET, "/ask/a", token, &Value::Null).await {
            assert_eq!(status, 200, "a live session is refused: {answer}");
        }
    }
}
