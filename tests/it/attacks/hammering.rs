//! An attempt to lock an owner out, or to guess the password on the way: a thousand addresses, each a client of its own,
//! hammer one account at every gateway. So many guesses are compared and no more, and the owner gets in: by the device
//! cookie always, without it as docs/lockout.md says.

use std::{ops::Range, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use tokio::sync::watch;

use super::{Honest, PROXY, beside, yaml};
use crate::harness::{
    client::{Client, PASSWORD},
    logins::{audited, compared, device_of, login, login_from, told, with_device},
    site::{Nodes, Site},
    upstream::Upstream,
};

const ANN: &str = "ann@example.org";
/// Failures that cost an account no wait, those that end all trying, and the longest wait between (docs/lockout.md).
const FREE: usize = 20;
const STOP: usize = 100;
const LONGEST: Duration = Duration::from_secs(30);

on_one_and_three! {
    a_thousand_addresses_get_so_many_guesses_and_keep_no_owner_out,
}

/// A guess from each of these addresses, five at a time; all are answered alike. `done` tells how many were.
async fn hammer(proxy: &Client, addresses: Range<usize>, done: &watch::Sender<usize>) {
    let guess = |number: usize| async move {
        let address = format!("198.{}.{}.9", 18 + number / 250, number % 250);
        let answer = login_from(proxy, &address, ANN, &format!("guess number {number}")).await;
        done.send_modify(|done| *done += 1);
        answer
    };
    let answers: Vec<_> = stream::iter(addresses).map(guess).buffer_unordered(5).collect().await;
    for answer in &answers {
        answer.refused(401, "login_failed");
        assert_eq!(told(answer), told(&answers[0]), "compared or not, it is one answer");
    }
}

async fn a_thousand_addresses_get_so_many_guesses_and_keep_no_owner_out(nodes: Nodes) {
    let upstream = Upstream::start().await;
    let site = Site::within(nodes, &yaml(nodes, &upstream, "")).await;
    let bob = Honest::register(&site, nodes, "bob").await;
    bob.client.register(ANN).await;
    let home = site.client_at("127.0.9.2");
    let device = device_of(&with_device(&home, ANN, "none=1").await.expect(200));
    let (proxy, store, done) = (&site.client_at(PROXY), site.store().await, watch::Sender::new(0));

    // At once: the free ones, whoever they come from.
    beside(hammer(proxy, 0..150, &done), async || bob.is_served().await).await;
    assert_eq!(compared(&store).await, FREE);
    let new_phone = site.client_at("127.0.9.3");
    login(&new_phone, ANN, PASSWORD).await.refused(401, "login_failed");
    // Once they stop, the owner waits as long as is said, and gets in by the password alone.
    site.clock.advance(LONGEST);
    login(&new_phone, ANN, PASSWORD).await.expect(200);

    // With patience: the free ones again, then one for each wait, from whichever address comes first, until the stop.
    let patient = async {
        hammer(proxy, 150..180, &done).await;
        for round in 0..STOP - FREE {
            site.clock.advance(LONGEST);
            let first = 180 + 3 * round;
            hammer(proxy, first..first + 3, &done).await;
        }
    };
    beside(patient, async || bob.is_served().await).await;
    assert_eq!(compared(&store).await, FREE + STOP);
    assert_eq!(audited(&store, "account_locked").await, 1);

    // After the stop nothing is compared any more, however long they wait.
    for part in 0..4 {
        site.clock.advance(Duration::from_hours(1));
        let first = 420 + 55 * part;
        beside(hammer(proxy, first..first + 55, &done), async || bob.is_served().await).await;
    }
    assert_eq!(compared(&store).await, FREE + STOP);
    login(&new_phone, ANN, PASSWORD).await.refused(401, "login_failed");
    let before = compared(&store).await;

    // The owner's device gets in at every gateway in the middle of it. Each time gives the free guesses back, no more.
    let owner = async {
        for number in 0..nodes.count() {
            let due = 640 + (number + 1) * 360 / (nodes.count() + 1);
            done.subscribe().wait_for(|done| *done >= due).await.unwrap();
            with_device(&home, ANN, &device).await.expect(200);
        }
    };
    let ((), ()) = tokio::join!(hammer(proxy, 640..1_000, &done), owner);
    let more = compared(&store).await - before;
    assert!((FREE..=FREE * nodes.count()).contains(&more), "{more}");
    assert_eq!(*done.borrow(), 1_000);

    // Afterwards: by device at once, by the password alone when the wait is over, at every gateway.
    join_all((0..nodes.count()).map(|_| with_device(&home, ANN, &device))).await.into_iter().for_each(|answer| {
        answer.expect(200);
    });
    site.clock.advance(LONGEST);
    for _ in 0..nodes.count() {
        login(&new_phone, ANN, PASSWORD).await.expect(200);
    }
}
