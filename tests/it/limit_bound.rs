//! How exact a limit is that three gateways count together: the bound of docs/limits.md, held under a storm at all
//! three while the bucket fills again, window by window.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use portcullis::clock::{Clock, SystemClock, Tick};

use crate::{
    harness::{
        clock::ManualClock,
        gateway::{Engine, Setup},
        invariants::Invariants,
        upstream::Upstream,
    },
    support::redis::Redis,
};

const GATEWAYS: usize = 3;
const RATE: usize = 100;
const BURST: usize = 60;
const LEASE: usize = 15;

/// The gateways' clock goes as Redis's does: with the world.
struct Together {
    clock: Arc<ManualClock>,
    world: SystemClock,
    last: Mutex<Tick>,
}

impl Together {
    fn now(&self) -> Tick {
        let mut last = self.last.lock().unwrap();
        let now = self.world.tick();
        self.clock.advance(now.since(*last));
        *last = now;
        now
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_any_window_three_gateways_admit_no_more_than_the_stated_bound() {
    let (upstream, redis) = (Upstream::start().await, Redis::private());
    let yaml = format!(
        r#"
shared_state: {{redis: {{url: {{env: REDIS_URL}}, deadline: 20s, retry: 60s}}}}
clusters:
  rag: {{endpoints: ["{}"]}}
limits:
  wide: {{by: address, rate: {RATE}/s, burst: {BURST}, scope: shared, lease: {LEASE}}}
routes:
  - {{name: open, match: {{path: "/open/{{*rest}}"}}, auth: none, limits: [wide], cluster: rag}}
"#,
        upstream.url()
    );
    let (clock, invariants) = (Arc::<ManualClock>::default(), Arc::<Invariants>::default());
    let start = || {
        let setup = Setup::new(Engine::Sqlite, &yaml).variable("REDIS_URL", &redis.url());
        Box::pin(setup.start_beside(Arc::clone(&clock), Arc::clone(&invariants)))
    };
    let gateways = join_all((0..GATEWAYS).map(|_| start())).await;
    let world = SystemClock::new();
    let began = world.tick();
    let together = Together { clock, world, last: Mutex::new(began) };
    // When each admitted request was sent, and when it had been answered: it was admitted in between.
    let admitted = Mutex::new(Vec::new());
    let crowd = gateways.iter().flat_map(|gateway| (0..4).map(move |_| gateway)).map(|gateway| async {
        let client = gateway.client();
        loop {
            let sent = together.now();
            if sent.since(began) > Duration::from_secs(3) {
                return;
            }
            if client.get("/open/a").send().await.status == 200 {
                admitted.lock().unwrap().push((sent, together.now()));
            }
        }
    });
    join_all(crowd).await;

    let mut admitted = admitted.into_inner().unwrap();
    admitted.sort_unstable_by_key(|(_, answered)| *answered);
    assert!(admitted.len() > BURST + RATE, "{} is no storm", admitted.len());
    for (first, _) in &admitted {
        let within = admitted.iter().filter(|(sent, _)| sent >= first);
        for (count, (_, last)) in (1_u32..).zip(within) {
            let flowed = last.since(*first).as_secs_f64() * f64::from(u32::try_from(RATE).unwrap());
            let bound = f64::from(u32::try_from(BURST + GATEWAYS * LEASE).unwrap()) + flowed;
            assert!(f64::from(count) <= bound + 1.0, "{count} in {:?}, of {bound}", last.since(*first));
        }
    }
    for gateway in &gateways {
        let alone = gateway.metric("portcullis_shared_state_fallbacks_total").await;
        assert!(alone < 0.5, "what a gateway counts alone is not what is promised here");
    }
}
